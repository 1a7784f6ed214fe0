"""Sources that are made rather than read: rendered by units as any stage of preparation, then handed to prepare.

What renders is not known here: a traced 3-D scene (`longvie render`) or the synthetic world (`longvie scenes`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines import cluster
from pipelines.errors import UserError
from pipelines.preparation.passes import Here, OnRay, Place
from pipelines.preparation.pass_run import StageSummary
from pipelines.preparation.unit_worker import Job
from pipelines.preparation.units import Unit, UnitCommit, UnitStore, commit_name
from pipelines.progress import Report
from pipelines.storage import Storage

MANIFEST = "manifest.jsonl"  # what prepare is told


class RenderError(RuntimeError):
    """Units that could not be rendered; what is committed stays, and the same command goes on from there."""


@contextmanager
def place_of(stage: str, workers: int | None, address: str | None, wait_for_nodes: float) -> Iterator[Place]:
    """Where the stage runs: this process (`workers` is 0), or so many workers of one CPU each."""
    if workers == 0:
        yield Here()
        return
    with cluster.cluster(address):
        placement = cluster.place_stage(stage, workers, 0.0, 1, wait_for_nodes)
        yield OnRay(placements={stage: placement}, loading=frozenset())


def make_sources(
    units: Sequence[Unit], job: Job, place: Place, seconds_a_cost: float, report: Report
) -> tuple[dict[str, UnitCommit], StageSummary]:
    """Make the units that do not exist; the commits of all by name, and what was done.

    Raises:
        RenderError: some unit failed.
    """
    store = UnitStore(job.open_storage(job.out))
    summary = StageSummary(stage=job.name, num_units=len(units))
    commits = store.committed(units)
    left = [unit for unit in units if unit.name not in commits]
    cost = sum(unit.cost for unit in left)
    report("stage", stage=job.name, num_units=len(units), num_done=len(commits), cost=cost)
    errors = []
    for result in place.run(left, job, seconds_a_cost):
        unit = result.unit
        if result.error is not None:
            errors.append(f"{unit.said}: {result.error}")
            summary.num_failed += 1
        elif result.made:
            summary.num_made += 1
            summary.cost += unit.cost
            summary.seconds += result.seconds
            if result.seconds > summary.slowest_seconds:
                summary.slowest, summary.slowest_seconds = unit.said, result.seconds
        report(
            "unit",
            stage=job.name,
            unit=unit.name,
            said=unit.said,
            source=unit.uris[0],
            made=result.made,
            error=result.error,
            seconds=round(result.seconds, 3),
            cost=unit.cost,
        )
    report("stage done", **vars(summary))
    if errors:
        noun = units[0].said.split()[0]
        raise RenderError(f"{len(errors)} of {len(units)} {noun}s failed; {errors[0]}")
    return store.committed(units), summary


def open_settings(storage: Storage, name: str, settings: Mapping[str, Any], what: str) -> None:
    """Keep settings, with their `format`, in a folder of sources; `UserError` if it holds others."""
    content = dict(settings)
    try:
        before = json.loads(storage.read(name))
    except FileNotFoundError:
        before = None
    except ValueError:
        before = {}
    if before == content:
        return
    if before is not None:
        raise UserError(
            f"{storage.uri} holds {_difference(before, content, what)}; choose another --out, or begin anew with "
            "--restart"
        )
    storage.write(name, json.dumps(content, indent=2).encode())


def write_manifest(storage: Storage, rows: Iterable[Mapping[str, Any]]) -> None:
    """What prepare is told, unless it stands there already."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    try:
        if storage.read(MANIFEST) == data:
            return
    except FileNotFoundError:
        pass
    storage.write(MANIFEST, data)


def forget_sources(
    storage: Storage, folders: Sequence[str], files: Sequence[str], suffixes: tuple[str, ...] = ()
) -> None:
    """Remove all that making ever wrote: the commits first, so that none speaks of what is gone."""
    for name in sorted(storage.walk("commits")):
        storage.delete(name)
    tidy_sources(storage, folders, {})
    for name in storage.list(""):
        if name in files or name.endswith(suffixes):
            storage.delete(name)


def tidy_sources(storage: Storage, folders: Sequence[str], commits: Mapping[str, Mapping[str, UnitCommit]]) -> None:
    """Remove what no commit vouches for."""
    keep = {commit_name(stage, unit) for stage, units in commits.items() for unit in units}
    keep |= {name for units in commits.values() for commit in units.values() for name in commit.files}
    for folder in folders:
        for name in sorted(storage.walk(folder)):
            if name not in keep:
                storage.delete(name)
        storage.delete_empty_folders(folder)
    for name in storage.temporaries():
        storage.delete(name)


def _difference(before: Any, now: Mapping[str, Any], what: str) -> str:
    if not isinstance(before, dict) or before.get("format") != now["format"]:
        return "what this version of longvie did not render"
    changed = [f"{name} {before.get(name)}, now {value}" for name, value in now.items() if before.get(name) != value]
    return f"{what} with {'; '.join(changed)}"
