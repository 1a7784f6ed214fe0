"""Makes videos. A plain class around the worker that `longvie generate` uses; remote only at the edge (serve/app.py).

inputs.py  from a job's request to what generation plans with; a source is prepared on the way
engine.py  takes a job, makes its segments under a lease, hands it on or ends it
"""
