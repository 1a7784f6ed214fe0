"""What a run tells its user: bars on a terminal, plain lines in a file, JSON lines for clusters.

Everything arrives as events, `report(kind, **fields)`; nothing here decides anything.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class Report(Protocol):
    """Takes one event. Kinds: plan, note, worker, worker lost, worker failed, step, segment, retry, video."""

    def __call__(self, kind: str, **fields: Any) -> None: ...


class _Bars(Report, Protocol):
    progress: Progress


@contextmanager
def reporting(
    log_format: str,
    bars_class: Callable[[Console], _Bars] | None = None,
    lines_class: Callable[[Console], Report] | None = None,
) -> Iterator[Report]:
    """The report for `--log-format`: `text` (bars where there is a terminal, else lines) or `json`.

    Args:
        bars_class, lines_class: how a job shows its own events; those of `longvie generate` if None.
    """
    if log_format == "json":
        out = sys.stdout
        with redirect_stdout(sys.stderr):  # where Ray prints of workers that died; our lines stay alone
            yield json_lines(lambda line: print(line, file=out, flush=True))
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield (lines_class or _Lines)(console)
        return
    bars = (bars_class or Bars)(console)
    with bars.progress:
        yield bars


def json_lines(write: Callable[[str], None]) -> Report:
    """One JSON object a line: `time` (UTC, ISO 8601), `event`, and the event's own fields."""

    def report(kind: str, **fields: Any) -> None:
        event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": kind, **fields}
        write(json.dumps(event, ensure_ascii=False))

    return report


class _Lines:
    """One line for each thing worth a line; steps are not."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, kind: str, **fields: Any) -> None:
        line = describe(kind, fields)
        if line is not None:
            self._console.print(Text(line), soft_wrap=True)


class Bars:
    """One bar a video (segments, and steps within the segment) and one overall, each with the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[segments]:>7}"),
            TextColumn("{task.fields[steps]:>10}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._overall: TaskID | None = None
        self._videos: dict[str, tuple[TaskID, int]] = {}  # the bar, and how many segments are done
        self._totals: dict[str, tuple[int, int]] = {}  # segments in all, and done before

    def __call__(self, kind: str, **fields: Any) -> None:
        line = describe(kind, fields)
        if line is not None and kind != "segment":
            self._console.print(Text(line), soft_wrap=True)
        if kind == "plan":
            self._totals = {v["video_id"]: (v["num_segments"], v["num_done"]) for v in fields["videos"]}
            total, done = (sum(numbers) for numbers in zip(*self._totals.values(), strict=True))
            self._overall = self.progress.add_task(
                f"{len(self._totals)} videos", total=total, completed=done, segments=f"{done}/{total}", steps=""
            )
        elif kind == "step":
            task, done = self._bar(fields["video_id"])
            steps = f"{fields['step']}/{fields['num_steps']} steps"
            self.progress.update(task, completed=done + fields["step"] / fields["num_steps"], steps=steps)
        elif kind == "segment":
            task, _ = self._bar(fields["video_id"])
            done, total = fields["segment"] + 1, fields["num_segments"]
            self._videos[fields["video_id"]] = (task, done)
            self.progress.update(task, completed=done, segments=f"{done}/{total}", steps="")
            self._advance_overall()
        elif kind == "video" and fields["video_id"] in self._videos:
            self.progress.remove_task(self._videos.pop(fields["video_id"])[0])

    def _bar(self, video_id: str) -> tuple[TaskID, int]:
        if video_id not in self._videos:
            total, done = self._totals[video_id]
            name = video_id if len(video_id) <= 24 else f"{video_id[:21]}..."
            task = self.progress.add_task(name, total=total, completed=done, segments=f"{done}/{total}", steps="")
            self._videos[video_id] = (task, done)
        return self._videos[video_id]

    def _advance_overall(self) -> None:
        if self._overall is not None:
            self.progress.advance(self._overall)
            task = next(t for t in self.progress.tasks if t.id == self._overall)
            self.progress.update(self._overall, segments=f"{task.completed:g}/{task.total:g}")


def describe(kind: str, fields: dict[str, Any]) -> str | None:
    """An event as a line of English, or None where it is not worth one."""
    match kind:
        case "plan":
            videos = fields["videos"]
            left = sum(v["num_segments"] - v["num_done"] for v in videos)
            done = sum(v["num_done"] for v in videos)
            return f"{len(videos)} video(s): {left} segments to make, {done} exist; {fields['placement']}"
        case "note":
            return fields["text"]
        case "worker":
            return f"worker {fields['worker']} is ready after {fields['seconds']:.1f} s"
        case "worker lost" | "worker failed":
            return f"{kind}: {fields['error']}"
        case "segment":
            number = f"segment {fields['segment'] + 1}/{fields['num_segments']}"
            return f"{fields['video_id']}: {number}, {fields['num_frames']} frames in {fields['seconds']:.2f} s"
        case "retry":
            return f"{fields['video_id']}: trying again after {fields['error']}"
        case "video":
            if fields["error"]:
                return f"{fields['video_id']}: {fields['status']}: {fields['error']}"
            return f"{fields['video_id']}: {fields['status']}, {fields['uri']}/video.mp4"
    return None


def summary(outcomes: list[Any], seconds: float) -> Table:
    """The table at the end of a run."""
    table = Table(title=f"{len(outcomes)} video(s) in {time.strftime('%H:%M:%S', time.gmtime(seconds))}")
    for column in ("video", "status", "segments", "made now", "where or why not"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        place = outcome.error or f"{outcome.uri}/video.mp4"
        table.add_row(Text(outcome.video_id), outcome.status, str(outcome.num_segments), str(outcome.made), Text(place))
    return table
