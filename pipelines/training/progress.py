"""What `longvie train` tells its user: one bar with loss, samples a second and time left; lines in a file.

Everything arrives as events, `report(kind, **fields)`; nothing here decides anything. JSON lines are progress.py's.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class TrainLines:
    """A line for each event; of steps, one every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = _Pace()
        self._said = float("-inf")

    def __call__(self, kind: str, **fields: Any) -> None:
        line = self._pace.line(kind, fields)
        if kind == "step":
            if time.monotonic() - self._said < 10 and fields["step"] < self._pace.num_steps:
                return
            self._said = time.monotonic()
        if line is not None:
            self._console.print(Text(line), soft_wrap=True)


class TrainBars:
    """One bar over all steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = _Pace()
        self._task: TaskID | None = None
        self.progress = Progress(
            TextColumn("{task.fields[stage]:<12}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )

    def __call__(self, kind: str, **fields: Any) -> None:
        line = self._pace.line(kind, fields)
        if kind == "begin":
            if self._task is None:
                self._task = self.progress.add_task("", total=fields["num_steps"], stage="", said="")
            self.progress.update(self._task, completed=fields["step"])
        elif kind == "step" and self._task is not None:
            said = f"loss {fields['loss']:.4f}  {fields['samples_per_second']:.2f} samples/s"
            self.progress.update(self._task, completed=fields["step"], stage=fields["stage"], said=said)
        elif kind in ("note", "sample", "model") and line is not None:
            self._console.print(Text(line), soft_wrap=True)


class _Pace:
    """Knows how long a run is, to say how much is left."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._batch = 1

    def line(self, kind: str, fields: dict[str, Any]) -> str | None:
        """An event as a line of English, or None where it is not worth one."""
        match kind:
            case "begin":
                self.num_steps, self._batch = fields["num_steps"], fields["batch"]
                return f"{fields['num_samples']} samples, {fields['num_steps']} steps of {fields['batch']}" + (
                    f"; going on after step {fields['step']}" if fields["step"] else ""
                )
            case "step":
                losses = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in fields.items() if "/" in name]
                left = (self.num_steps - fields["step"]) * self._batch / max(fields["samples_per_second"], 1e-9)
                return (
                    f"step {fields['step']}/{self.num_steps} ({fields['stage']}): loss {fields['loss']:.4f} "
                    f"({', '.join(losses)}), {fields['samples_per_second']:.2f} samples/s, "
                    f"{time.strftime('%H:%M:%S', time.gmtime(left))} left"
                )
            case "sample" | "model":
                return fields["path"]
            case "note":
                return fields["text"]
        return None
