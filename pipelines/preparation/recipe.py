"""What decides prepared data: settings, fixed before work begins, kept in prepare.json and part of every unit's key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from longvie.config import Fit
from pipelines.errors import UserError
from pipelines.storage import Storage

Scope = Literal["video", "dataset", "segment"]
FORMAT = 1  # of OUT; a reader refuses what it does not know
NAME = "prepare.json"
MANIFEST = "manifest.jsonl"  # what generation reads
STAGES = ("sources", "scan", "depth", "controls", "captions")  # in the order in which they run
SUPPLIED = "supplied"  # as --depth: every source comes with its own
MAX_STRETCH = 256  # frames of depth that are made and committed at once


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """What makes a control, and how: everything its result depends on."""

    spec: str
    fingerprint: str
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 1
    threads: int = 1  # of the CPU; they decide the order of floating-point sums
    polarity: str | None = None  # of depth: what large values mean


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of an OUT.

    Args:
        fps, height, width, fit: of prepared frames.
        segment_length: frames a segment.
        min_frames: of a shot that is kept.
        cut_threshold: see longvie/shots.py; None: a source is one shot.
        black, static, min_motion, max_motion: shots that are left out, see `ShotFilters`; None: none.
        dense: what makes the dense control.
        measured: whether the dense control is depth, with statistics and one range, or a detector's drawing.
        sparse: what makes the sparse control.
        tracked: whether the sparse control is point tracks, or a detector's drawing.
        scope: over what depth is scaled: the long video (LongVie §2.2), the dataset, or each segment (ablation).
    """

    fps: float
    height: int
    width: int
    fit: Fit
    segment_length: int
    min_frames: int
    cut_threshold: float | None
    black: float | None
    static: float | None
    min_motion: float | None
    max_motion: float | None
    dense: Estimator
    measured: bool
    sparse: Estimator
    tracked: bool
    scope: Scope

    def frames(self) -> dict[str, Any]:
        """What decides resampled frames."""
        return {"fps": self.fps, "height": self.height, "width": self.width, "fit": self.fit}

    def shots(self) -> dict[str, Any]:
        """What decides shots."""
        names = ("min_frames", "cut_threshold", "black", "static", "min_motion", "max_motion")
        return {**self.frames(), **{name: getattr(self, name) for name in names}}

    def settings(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


def seconds_a_cost(stage: str, recipe: Recipe) -> float:
    """Of work on one CPU for a byte of a source, else for a frame; roughly: measured at 96x64, guessed at 640x352.

    Controls are counted as supplied ones. A task of twenty small segments is no loss, one of two is: a third of a
    second's work took as long again for Ray to hand out.
    """
    pixels = recipe.height * recipe.width
    return {
        "sources": 3e-9,
        "scan": 1e-6,
        "depth": 4e-4 + 4e-8 * pixels if recipe.dense.spec == SUPPLIED else 0.01 + 4e-7 * pixels,
        "controls": 0.004 + 2e-7 * pixels,
        "captions": 0.02,
    }[stage]


def stretches(num_frames: int, segment_length: int) -> list[tuple[int, int]]:
    """Where depth is cut, (start, stop) each: whole segments, so that most lie in one stretch and its neighbour's
    first frame; never a single frame at the end."""
    step = segment_length - 1
    length = max(1, MAX_STRETCH // step) * step
    starts = list(range(0, max(1, num_frames - 1), length))
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def open_recipe(storage: Storage, recipe: Recipe) -> None:
    """Keep the recipe in OUT; `UserError` if OUT was made with another."""
    try:
        before = json.loads(storage.read(NAME))
    except FileNotFoundError:
        before = None
    except ValueError:
        before = {}
    content = {"format": FORMAT, "settings": recipe.settings()}
    if before == content:
        return
    if before is not None:
        if not isinstance(before, dict) or before.get("format") != FORMAT or "settings" not in before:
            raise UserError(
                f"{storage.uri}/{NAME} was not written by this version of longvie; choose another --out, or begin "
                "anew with --restart"
            )
        raise UserError(
            f"{storage.uri} was prepared with {differences(before['settings'], content['settings'])}; data of two "
            "kinds is not mixed: choose another --out, or begin anew with --restart"
        )
    storage.write(NAME, json.dumps(content, indent=2, ensure_ascii=False).encode())


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Which settings are not what they were, in words."""
    said = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            if old != new:
                said.append(differences(old, new, f"{prefix}{name}."))
        elif old != new:
            said.append(f"{prefix}{name} {_short(old)}, now {_short(new)}")
    return "; ".join(said)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
