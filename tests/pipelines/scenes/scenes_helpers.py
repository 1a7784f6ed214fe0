"""Quick runs of `longvie scenes`, and runs that die at a chosen write."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.preparation.run import Summary
from pipelines.scenes.options import ScenesOptions
from pipelines.scenes.scenes import make_scenes
from tests.pipelines.helpers import Executioner, KillingStorage, Log

NUM_FRAMES, NUM_SEGMENTS, COUNT = 12, 3, 2  # of 5 frames: 5 + 4 + 3
HEIGHT, WIDTH = 32, 48


def run(out: Path | str, **options: Any) -> Summary:
    """A job in this process, or over Ray with `workers`."""
    opened = {"open_storage": options.pop("open_storage")} if "open_storage" in options else {}
    defaults: dict[str, Any] = {
        "split": "test",
        "count": COUNT,
        "num_frames": NUM_FRAMES,
        "fps": 8.0,
        "size": f"{WIDTH}x{HEIGHT}",
        "segment_length": 5,
        "workers": 0,
    }
    return make_scenes(ScenesOptions(out=str(out), **{**defaults, **options}), Log(), **opened)


def tree(out: Path) -> dict[str, bytes]:
    """Everything in OUT."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def run_to_death(out: str, folder: str, points: Sequence[str]) -> None:
    """Make scenes in this process and die at one of the points. For a child process."""
    run(out, open_storage=functools.partial(killing_storage, folder, tuple(points)))


@functools.cache
def _executioner(folder: str, points: tuple[str, ...]) -> Executioner:
    return Executioner(Path(folder), points)


def killing_storage(folder: str, points: tuple[str, ...], uri: str) -> KillingStorage:
    return KillingStorage(Path(uri), _executioner(folder, points))
