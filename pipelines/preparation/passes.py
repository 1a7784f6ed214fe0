"""One pass of preparation: units through workers, in this process or over Ray Data; what came of each, as it comes.

It knows blocks, actors and resources, and nothing of videos.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayTaskError

from pipelines.cluster import Placement
from pipelines.preparation.unit_worker import ROW, Job, UnitWorker, make_units, write_tasks
from pipelines.preparation.units import Unit

T = TypeVar("T")

BLOCK_SECONDS = 1.0  # small units share a task: 200 tasks of 20 ms as 1-row blocks cost 2.3x a plain pool
_BLOCKS_A_WORKER = 5  # at least, so that workers end together
_BLOCKS_A_FILE = 10  # at most where there are more: each takes 2.2 KB of the object store, a pass 36 KB
_START_SECONDS = 1800  # in which the first worker must find its place and load its weights
_SILENCE_SECONDS = 6 * 3600  # in which some unit must be done; the longest is the scan of one film


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a unit."""

    unit: Unit
    made: bool
    seconds: float
    error: str | None
    attempts: int


class Place(Protocol):
    """Where passes run."""

    def call(self, stage: str, function: Callable[..., T], *args: Any) -> T:
        """A function's result, computed where that stage runs."""
        ...

    def run(self, units: Sequence[Unit], job: Job, seconds_a_cost: float) -> Iterator[Result]:
        """Make the units of one stage, in any order; what came of each, as it comes."""
        ...


class Here:
    """This process, one unit after the other."""

    def __str__(self) -> str:
        return "in this process"

    def call(self, stage: str, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def run(self, units: Sequence[Unit], job: Job, seconds_a_cost: float) -> Iterator[Result]:
        if not units:
            return
        rows = write_tasks(job.open_storage(job.out), job, units)
        worker = UnitWorker(job)
        for unit, row in zip(units, rows, strict=True):
            yield _result(unit, worker(pa.Table.from_pylist([row], ROW)).to_pylist()[0])


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """The workers of each stage on a cluster.

    Args:
        placements: by stage.
        loading: the stages whose workers load weights, and so are kept for a whole pass as actors. Those of others are
            tasks: their processes go on from pass to pass, which saves their start.
    """

    placements: Mapping[str, Placement]
    loading: frozenset[str]

    def __str__(self) -> str:
        same: dict[str, list[str]] = {}
        for stage, placement in self.placements.items():
            same.setdefault(str(placement), []).append(stage)
        return "; ".join(f"{', '.join(stages)}: {placement}" for placement, stages in same.items())

    def call(self, stage: str, function: Callable[..., T], *args: Any) -> T:
        placement = self.placements[stage]
        resources: dict[str, Any] = {"num_cpus": placement.threads_per_worker, "num_gpus": placement.gpus_per_worker}
        # one call a process: what it imported must not stay in a worker of a stage that imports no torch
        remote = ray.remote(**resources, max_calls=1)(function)
        try:
            return ray.get(remote.remote(*args))
        except RayTaskError as error:
            raise error.cause from None

    def run(self, units: Sequence[Unit], job: Job, seconds_a_cost: float) -> Iterator[Result]:
        """Over Ray Data; a block of rows whose worker dies is done again by another."""
        if not units:
            return
        stage = units[0].stage
        placement = self.placements[stage]
        job = replace(job, hide_gpus=not placement.gpus_per_worker)
        _quiet(ray.data.DataContext.get_current())
        written = iter(write_tasks(job.open_storage(job.out), job, units))
        blocks = [
            pa.Table.from_pylist([next(written) for _ in block], ROW)
            for block in pack(units, placement.workers, seconds_a_cost)
        ]
        by_name = {unit.name: unit for unit in units}
        count = min(placement.workers, len(blocks))
        rows = ray.data.from_arrow(blocks)
        how: dict[str, Any] = {
            "num_cpus": placement.threads_per_worker,
            "num_gpus": placement.gpus_per_worker,
            "batch_size": 1,  # rows a call; a task is still a whole block
            "batch_format": "pyarrow",
        }
        if stage in self.loading:
            # a pool that can begin with one actor goes on where a fixed size would wait for a place for all
            pool = ray.data.ActorPoolStrategy(min_size=1, initial_size=count, max_size=count)
            results = rows.map_batches(UnitWorker, fn_constructor_args=(job,), compute=pool, **how)
        else:
            pool = ray.data.TaskPoolStrategy(size=count)
            results = rows.map_batches(cast(Any, make_units), fn_args=(job,), compute=pool, **how)
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in cast(pa.Table, table).to_pylist():
                yield _result(by_name[row["unit"]], row)


def pack(units: Sequence[Unit], workers: int, seconds_a_cost: float) -> list[list[Unit]]:
    """Units in blocks of about `BLOCK_SECONDS`, in their order, which keeps those of one source together.

    A block holds one unit where a unit takes that long, and never so many that a worker has fewer than five blocks. A
    file of very many units has at most 10 blocks, unless workers need more; these shrink linearly, so that workers end
    together all the same.
    """
    costs = [unit.cost * seconds_a_cost for unit in units]
    total = sum(costs)
    files = len({unit.uris for unit in units})
    most = max(files * _BLOCKS_A_FILE, workers * _BLOCKS_A_WORKER)
    even = min(BLOCK_SECONDS, total / (workers * _BLOCKS_A_WORKER))
    shrinking = len(units) > most and total / most > even
    blocks: list[list[Unit]] = []
    filled, target, left = 0.0, 0.0, total
    for unit, cost in zip(units, costs, strict=True):
        if not blocks or (len(blocks) < most and filled + shrinking * cost / 2 >= target):
            # The first of as many blocks as may follow, each smaller than the one before, the last next to nothing
            target = 2 * left / (most - len(blocks) + 1) if shrinking else even
            blocks.append([])
            filled = 0.0
        blocks[-1].append(unit)
        filled += cost
        left -= cost
    return blocks


def _result(unit: Unit, row: dict[str, Any]) -> Result:
    return Result(unit=unit, **{key: value for key, value in row.items() if key != "unit"})


def _quiet(context: Any) -> None:
    """Ray Data's own bars and log lines off: ours say more."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = _START_SECONDS
    context.execution_no_progress_timeout_s = _SILENCE_SECONDS
    logging.getLogger("ray.data").setLevel(logging.ERROR)
