"""The stages that read sources: which content a file has, and which shots. Plain classes, tested without Ray.

Each takes one task, as JSON, and gives one small result; frames live and die within. What makes controls of a shot is
in depth_stage.py and control_stage.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from longvie.media import VideoError, num_resampled, probe_video, resampled
from longvie.shots import Shot, ShotFilters, detect_shots
from pipelines.fetch import LocalCopies, hash_of
from pipelines.preparation.recipe import Recipe
from pipelines.storage import Storage

BATCH = 16  # frames decoded at once: 11 MB at 640x352


class SourcesStage:
    """Names a source by its content, and what else the user gave for it.

    Task: `uri`, `depth` or None, `tracks`. Result: `uri`, its `sha256` and `bytes`; `depth` and `tracks` as hashes.
    """

    name: ClassVar[str] = "sources"

    def __init__(self, storage: Storage) -> None:
        pass

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        digest, size = hash_of(task["uri"])
        return {
            "uri": task["uri"],
            "sha256": digest,
            "bytes": size,
            "depth": None if task["depth"] is None else hash_of(task["depth"])[0],
            "tracks": [hash_of(uri)[0] for uri in task["tracks"]],
        }


class ScanStage:
    """Decodes a source once, at low cost, and finds its shots.

    Task: `uri`, `stamp`. Result: `info`, what the file is; `num_frames` at the recipe's rate; `shots`, each with
    `start`, `stop`, `brightness`, `motion` and the `reason` it is left out for, or None.
    """

    name: ClassVar[str] = "scan"

    def __init__(self, recipe: Recipe, storage: Storage) -> None:
        self._recipe = recipe
        self._copies = LocalCopies()

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        recipe = self._recipe
        with self._copies.opened(task["uri"], task["stamp"]) as path:
            info = probe_video(path)
            counted = _Counted(resampled(path, **recipe.frames(), batch=BATCH))
            if recipe.cut_threshold is None:
                shots = [_joined(detect_shots(counted, fps=recipe.fps))]
            else:
                shots = detect_shots(counted, fps=recipe.fps, threshold=recipe.cut_threshold)
            expected = num_resampled(info, recipe.fps)
            if counted.num_frames != expected:
                raise VideoError(f"{path} breaks off: {counted.num_frames} of {expected} frames could be read")
            if info.num_frames == 1:
                raise VideoError(f"{path} has 1 frame; that is a picture, give a video")
        filters = ShotFilters(
            min_frames=recipe.min_frames,
            black=recipe.black,
            static=recipe.static,
            min_motion=recipe.min_motion,
            max_motion=recipe.max_motion,
        )
        return {
            "info": {
                name: getattr(info, name)
                for name in (
                    "num_frames",
                    "height",
                    "width",
                    "fps",
                    "duration",
                    "variable",
                    "codec",
                    "rotation",
                    "bit_depth",
                    "has_audio",
                    "decoder",
                )
            },
            "num_frames": counted.num_frames,
            "shots": [_described(shot, filters) for shot in shots],
        }


def _described(shot: Shot, filters: ShotFilters) -> dict[str, Any]:
    return {
        "start": shot.start,
        "stop": shot.stop,
        "brightness": round(shot.brightness, 3),
        "motion": round(shot.motion, 3),
        "reason": filters.reject(shot),
    }


def _joined(shots: Sequence[Shot]) -> Shot:
    """A video as one shot, cuts or not."""
    weights = [shot.num_frames for shot in shots]
    return Shot(
        start=0,
        stop=shots[-1].stop,
        brightness=float(np.average([shot.brightness for shot in shots], weights=weights)),
        motion=float(np.average([shot.motion for shot in shots], weights=weights)),
    )


class _Counted:
    """Batches as they pass, counted."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.num_frames = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.num_frames += len(batch)
            yield batch
