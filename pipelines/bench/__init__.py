"""Benchmarks from their videos to one report: prepared, generated in every row of the ablations, scored, compared."""
