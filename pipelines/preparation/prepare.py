"""`longvie prepare`: any videos in; controls, exact statistics and segments out, in what generation and training read.

Passes over units, each a stage of its own: what the sources are, their shots, depth, controls. Between passes the
driver reads commits and decides what comes next; it holds no frame. Whatever happens, the same command again makes
what is missing and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pipelines import cluster
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.preparation.estimators import describe, describe_tracker, is_depth, is_tracker, needs_torch
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.passes import Here, OnRay, Place
from pipelines.preparation.recipe import SUPPLIED, Estimator, Recipe, open_recipe
from pipelines.preparation.run import CAPTION_CPUS, PrepareRun, Summary
from pipelines.preparation.sources import Source, read_sources
from pipelines.preparation.tidy import check_named, forget
from pipelines.progress import Report
from pipelines.storage import Storage, check_writable, open_storage


def prepare(options: PrepareOptions, report: Report, open_storage: Callable[[str], Storage] = open_storage) -> Summary:
    """Prepare all sources that the options name.

    Args:
        open_storage: opens OUT, in this process and in the workers.

    Raises:
        UserError and other `ValueError`s: what only the user can mend; nothing has been made then.
        StorageError: OUT cannot be read or written; what is committed stays.
    """
    sources = read_sources(options.inputs, options.out)
    check_writable(options.out)
    options.sizes()
    with _place(options) as place:
        recipe = options.recipe(
            _describe(place, "depth", options.depth, options.depth_gpus, options),
            _describe(place, "controls", options.sparse, options.sparse_gpus, options),
        )
        _check_supplied(sources, recipe)
        run = PrepareRun(
            options=options,
            recipe=recipe,
            storage=open_storage(options.out),
            open=open_storage,
            place=place,
            report=report,
        )
        try:
            if options.restart:
                forget(run.storage)
            open_recipe(run.storage, recipe)
            check_named(run.store, sources, prune=options.prune)
        except storage_errors() as error:
            raise UserError(
                f"--out {options.out} cannot be used ({first_line(error)}); choose another place"
            ) from error
        report("sources", num_sources=len(sources), placement=str(place))
        return run.all(sources)


@contextmanager
def _place(options: PrepareOptions) -> Iterator[Place]:
    """Where the passes run, checked before anything begins."""
    if options.workers == 0:
        yield Here()
        return
    with cluster.cluster(options.address):

        def placed(stage: str, gpus: float, threads: float, remedy: str) -> cluster.Placement:
            return cluster.place_stage(stage, options.workers, gpus, threads, options.wait_for_nodes, remedy)

        light = placed("scan", 0.0, 1, "--workers")
        waiting = replace(light, workers=int(light.workers / CAPTION_CPUS), threads_per_worker=CAPTION_CPUS)
        yield OnRay(
            loading=frozenset(
                stage
                for stage, loads in (
                    ("depth", needs_torch(options.depth) and is_depth(options.depth)),
                    ("controls", needs_torch(options.sparse)),
                    ("controls", needs_torch(options.depth) and not is_depth(options.depth)),
                )
                if loads
            ),
            placements={
                "sources": light,
                "scan": light,
                "depth": placed(
                    "depth",
                    options.depth_gpus,
                    options.threads_per_worker,
                    "--workers, --depth-gpus or --threads-per-worker",
                ),
                "controls": placed("controls", options.sparse_gpus, 1, "--workers or --sparse-gpus"),
                **({"captions": waiting} if options.captioner is not None else {}),
            },
        )


def _describe(place: Place, stage: str, spec: str, gpus: float, options: PrepareOptions) -> Estimator:
    device = "cuda" if gpus else "cpu"
    if stage == "controls" and is_tracker(spec):
        arguments: tuple[Any, ...] = (describe_tracker, spec, device, options.dtype, 1)
    else:
        arguments = (describe, spec, device, options.dtype, options.batch_size, options.threads_per_worker)
    if not needs_torch(spec):
        return arguments[0](*arguments[1:])
    return place.call(stage, *arguments)


def _check_supplied(sources: Sequence[Source], recipe: Recipe) -> None:
    for source in sources:
        if not source.depth and recipe.dense.spec == SUPPLIED:
            raise UserError(f"{source.where}, field depth: missing; --depth supplied takes it from the manifest alone")
        if source.depth and not recipe.measured:
            raise UserError(
                f"{source.where}, field depth: --depth {recipe.dense.spec} draws from frames; leave one out"
            )
        if source.tracks and not recipe.tracked:
            raise UserError(
                f"{source.where}, field tracks: --sparse {recipe.sparse.spec} draws from frames; leave one out"
            )
