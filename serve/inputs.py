"""A job's inputs: small ones are recorded with it, and come to lie in their places when somebody reads them."""

from __future__ import annotations

from serve.places import Places
from serve.store import Job, JobStore


def lay_out(store: JobStore, places: Places, job: Job) -> None:
    """Put inputs that were recorded with a job where all others lie. Of a job that is deleted meanwhile, none stays."""
    names = {name: places.input_name(job.id, name) for name in job.request["files"].values()}
    missing = [name for name, place in names.items() if places.storage.size(place) is None]
    if not missing:
        return
    for name, content in store.inputs(job.id).items():
        if name in missing:
            places.storage.write(names[name], content)
    if store.get(job.id) is None:
        places.delete(job.id)
