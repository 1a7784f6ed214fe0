"""What `longvie prepare` and every job made of units tells its user: a bar a stage with rate and time left, lines in a
file, a table at the end.

Everything arrives as events, `report(kind, **fields)`; nothing here decides anything. JSON lines are progress.py's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipelines.preparation.pass_run import StageSummary

_SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal
_TITLES = {
    "sources": "reading files",
    "scan": "finding shots",
    "depth": "depth",
    "controls": "controls",
    "captions": "captions",
    "encode": "encoding",
    "score": "scoring",
}
_MEGABYTES = ("sources", "scan")  # their cost is in bytes, of other stages in frames


class StageLines:
    """One line when a stage begins and ends, and one every ten seconds between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = _Pace("", 0, 0.0)
        self._said = 0.0

    def __call__(self, kind: str, **fields: Any) -> None:
        if kind == "stage":
            self._stage = _Pace(fields["stage"], fields["num_units"], fields["cost"], fields["num_done"])
            self._said = time.monotonic()
        if kind == "unit":
            self._stage.add(fields["cost"])
            if time.monotonic() - self._said > _SECONDS_BETWEEN_LINES and self._stage.left:
                self._said = time.monotonic()
                self._print(self._stage.line())
        line = describe(kind, fields)
        if line is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class StageBars:
    """A bar for each stage that has something to do."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[units]:>11}"),
            TextColumn("{task.fields[rate]:>16}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._stage = _Pace("", 0, 0.0)
        self._task: TaskID | None = None

    def __call__(self, kind: str, **fields: Any) -> None:
        if kind == "stage" and fields["num_done"] < fields["num_units"]:
            self._stage = _Pace(fields["stage"], fields["num_units"], fields["cost"], fields["num_done"])
            self._task = self.progress.add_task(
                str(_TITLES.get(fields["stage"], fields["stage"])),
                total=fields["cost"],
                units=self._stage.units,
                rate="",
            )
        elif kind == "unit" and self._task is not None:
            self._stage.add(fields["cost"])
            self.progress.update(
                self._task, advance=fields["cost"], units=self._stage.units, rate=self._stage.rate_said
            )
        line = describe(kind, fields)
        if line is not None and (kind in ("sources", "note") or fields.get("error")):
            self._console.print(Text(line), soft_wrap=True)


class _Pace:
    """How far a stage is, and how fast it goes."""

    def __init__(self, stage: str, num_units: int, cost: float, num_done: int = 0) -> None:
        self.stage = stage
        self.num_units = num_units
        self.num_done = num_done
        self._cost = cost
        self._done = 0.0
        self._started = time.monotonic()

    def add(self, cost: float) -> None:
        self.num_done += 1
        self._done += cost

    @property
    def left(self) -> int:
        return self.num_units - self.num_done

    @property
    def units(self) -> str:
        return f"{self.num_done}/{self.num_units}"

    @property
    def rate_said(self) -> str:
        return rate(self.stage, self._done, time.monotonic() - self._started)

    def line(self) -> str:
        spent = time.monotonic() - self._started
        ahead = spent * (self._cost / self._done - 1) if self._done else 0.0
        left = time.strftime("%H:%M:%S", time.gmtime(ahead))
        return f"{_TITLES.get(self.stage, self.stage)}: {self.units}, {self.rate_said}, {left} left"


def rate(stage: str, cost: float, seconds: float) -> str:
    """How fast: MB or frames a second."""
    if not seconds or not cost:
        return ""
    if stage in _MEGABYTES:
        return f"{cost / seconds / 1e6:.1f} MB/s"
    return f"{cost / seconds:.1f} frames/s"


def describe(kind: str, fields: dict[str, Any]) -> str | None:
    """An event as a line of English, or None where it is not worth one."""
    match kind:
        case "sources":
            return f"{fields['num_sources']} source(s); {fields['placement']}"
        case "note":
            return fields["text"]
        case "stage" if fields["num_units"]:
            left = fields["num_units"] - fields["num_done"]
            return f"{_TITLES.get(fields['stage'], fields['stage'])}: {left} to make, {fields['num_done']} exist"
        case "unit" if fields["error"]:
            return f"{fields['source']}: {fields['stage']}, {fields['said']}: {fields['error']}"
        case "stage done" if fields["num_made"]:
            return (
                f"{_TITLES.get(fields['stage'], fields['stage'])}: {fields['num_made']} made in "
                f"{fields['seconds']:.1f} s of work"
            )
    return None


class _Ended(Protocol):
    """What a run came to, as far as the table at its end tells it."""

    num_videos: int
    num_segments: int
    errors: list[dict[str, Any]]
    stages: list[StageSummary]


def stage_summary(summary: _Ended, seconds: float) -> Table:
    """The table at the end of a run."""
    table = Table(
        title=f"{summary.num_videos} long video(s), {summary.num_segments} segments, {len(summary.errors)} error(s) in "
        f"{time.strftime('%H:%M:%S', time.gmtime(seconds))}",
    )
    for column in ("stage", "units", "made", "failed", "rate", "slowest"):
        table.add_column(column, no_wrap=True)
    table.add_column("which", overflow="fold")
    for stage in summary.stages:
        table.add_row(
            _TITLES.get(stage.stage, stage.stage),
            str(stage.num_units),
            str(stage.num_made),
            str(stage.num_failed),
            rate(stage.stage, stage.cost, stage.seconds),
            f"{stage.slowest_seconds:.1f} s" if stage.slowest else "",
            Text(stage.slowest),
        )
    return table
