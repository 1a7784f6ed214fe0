"""A run as a row of passes over one OUT: each makes the units that do not exist, and notes what came of every one.

The driver's side, shared by all jobs that are made of units: it holds no frame and no tensor.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.preparation.passes import Place, Result
from pipelines.preparation.unit_worker import Job, Stage
from pipelines.preparation.units import Unit, UnitCommit, UnitStore
from pipelines.progress import Report
from pipelines.storage import Storage


@dataclass(kw_only=True)
class StageSummary:
    """What one stage did in this run."""

    stage: str
    num_units: int
    num_made: int = 0
    num_failed: int = 0
    cost: float = 0.0  # of what was made: frames, or bytes of sources and scans
    seconds: float = 0.0  # of work, over all workers
    slowest: str = ""
    slowest_seconds: float = 0.0


@dataclass(kw_only=True)
class PassRun:
    """Passes over one OUT, and what is known after each.

    Args:
        open: opens OUT in the workers.
        token: names the run.
        errors: rows of errors.parquet.
        known: the commits that exist, by stage and unit.
    """

    storage: Storage
    open: Callable[[str], Storage]
    place: Place
    report: Report
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    errors: list[dict[str, Any]] = field(default_factory=list)
    stages: list[StageSummary] = field(default_factory=list)
    known: dict[str, dict[str, UnitCommit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = UnitStore(self.storage)

    def seconds_a_cost(self, stage: str) -> float:
        """Of work on one CPU, roughly: it decides how many units share a task. A low guess does less harm."""
        raise NotImplementedError

    def make(
        self,
        stage: str,
        make_stage: Callable[[Storage], Stage],
        units: Sequence[Unit],
        complete: Callable[[UnitCommit, Mapping[str, int]], bool] = UnitCommit.in_place,
    ) -> dict[str, UnitCommit]:
        """One pass: the units that do not exist; the commits of all that do afterwards."""
        commits = self.store.committed(units, complete)
        left = [unit for unit in units if unit.name not in commits]
        summary = StageSummary(stage=stage, num_units=len(units))
        self.stages.append(summary)
        self.report(
            "stage",
            stage=stage,
            num_units=len(units),
            num_done=len(commits),
            cost=sum(unit.cost for unit in left),
        )
        job = Job(out=self.storage.uri, run=self.token, name=stage, stage=make_stage, open_storage=self.open)
        good = []
        for result in self.place.run(left, job, self.seconds_a_cost(stage)):
            self._note(result, summary)
            if result.error is None:
                good.append(result.unit)
        keys = {unit.name: unit.key for unit in good}
        made = self.store.read_all(stage, keys)
        commits |= {name: commit for name, commit in made.items() if commit.key == keys[name]}
        self.known.setdefault(stage, {}).update(commits)
        self.report("stage done", **vars(summary))
        return {unit.name: commits[unit.name] for unit in units if unit.name in commits}

    def _note(self, result: Result, summary: StageSummary) -> None:
        unit = result.unit
        if result.error is not None:
            summary.num_failed += 1
            self.fail(unit.uris, unit.stage, unit.said, result.error, result.attempts)
        elif result.made:
            summary.num_made += 1
            summary.cost += unit.cost
            summary.seconds += result.seconds
            if result.seconds > summary.slowest_seconds:
                summary.slowest, summary.slowest_seconds = _said(unit), result.seconds
        self.report(
            "unit",
            stage=unit.stage,
            unit=unit.name,
            said=unit.said,
            source=unit.uris[0],
            made=result.made,
            error=result.error,
            seconds=round(result.seconds, 3),
            cost=unit.cost,
        )

    def fail(self, uris: Sequence[str], stage: str, said: str, error: str, attempts: int) -> None:
        """A row of errors.parquet for every file that has the fault."""
        self.errors += [
            {"source": uri, "stage": stage, "unit": said, "error": error, "attempts": attempts} for uri in uris
        ]


def _said(unit: Unit) -> str:
    """A unit in the summary: its file's name, or what it is of a long video."""
    return PurePosixPath(unit.uris[0]).name if unit.said == "file" else unit.said
