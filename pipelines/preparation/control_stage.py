"""The stage that makes the controls of one segment: depth scaled by its one range, tracks drawn, both as videos.

Memory: one segment's frames as RGB, then the drawing of its tracks; before that its depth, at two bytes a pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float16, UInt8
from numpy import ndarray

from longvie.controls.loading import load_point_tracker
from longvie.controls.normalize import HIGH_PERCENTILE, LOW_PERCENTILE, DepthHistogram, normalize_depth
from longvie.controls.render import default_grid
from longvie.controls.tracks import PointTracker, SuppliedTracks, Tracks
from longvie.media import CONTROL, GREY, VideoError, resampled, write_image, write_video
from longvie.segments import Segment
from pipelines.fetch import LocalCopies
from pipelines.preparation.depth_stage import read_depth, segment_histogram, write_histogram
from pipelines.preparation.estimators import load_detector
from pipelines.preparation.recipe import Estimator, Recipe
from pipelines.preparation.stages import BATCH
from pipelines.preparation.unit_worker import reliably
from pipelines.storage import Storage

SMALL_BATCH = 4  # frames normalised at once: float32 takes four times the room of what is drawn


class ControlStage:
    """The controls of frames `start .. stop-1` on a source's resampled timeline.

    Task: `uri`, `stamp`, `start`, `stop`; `name` of the long video and `index` of the segment; `depth`, where its depth
    lies (`name`, `start`, `stop` of each piece, in order); `range`, what becomes black and white, or None for the
    segment's own; `polarity`; `supplied`, None or the user's own tracks. Result: the files as `dense`, `sparse`,
    `tracks` and `first`, and the `range`; None where there is none.
    """

    name: ClassVar[str] = "controls"

    def __init__(self, recipe: Recipe, storage: Storage) -> None:
        self._recipe = recipe
        self._storage = storage
        self._copies = LocalCopies()
        self._tracks = LocalCopies()
        self._tracker: PointTracker | None = None
        self._detectors: dict[str, Callable[[ndarray], ndarray]] = {}

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        recipe = self._recipe
        home = f"controls/{task['name']}"
        (folder / home).mkdir(parents=True)
        files = {kind: f"{home}/{kind}_{task['index']:05d}" for kind in ("dense", "sparse", "tracks", "first")}
        made: dict[str, Any] = {"range": None, "first": None, "tracks": None}
        made |= {kind: f"{files[kind]}.mp4" for kind in ("dense", "sparse")}
        grey = None
        if recipe.measured:
            made["range"], grey = self._grey(task, folder)
            write_video(folder / made["dense"], _in_colour(grey), recipe.fps, codec=GREY)
        frames = self._read_frames(task)
        if task["index"] == 0:
            made["first"] = f"{files['first']}.png"
            write_image(folder / made["first"], frames[0])
        if not recipe.measured:
            drawn = self._drawn(recipe.dense, frames)
            write_video(folder / made["dense"], drawn, recipe.fps, codec=CONTROL)
            del drawn
        if recipe.tracked:
            tracks = self._track(task, frames, grey)
            del frames, grey  # as large as what is drawn next
            made["tracks"] = f"{files['tracks']}.npz"
            tracks.save(folder / made["tracks"])
            drawn = tracks.render(recipe.height, recipe.width)
        else:
            drawn = self._drawn(recipe.sparse, frames)
        write_video(folder / made["sparse"], drawn, recipe.fps, codec=CONTROL)
        return made

    def _grey(self, task: Mapping[str, Any], folder: Path) -> tuple[tuple[float, float], UInt8[ndarray, "t h w"]]:
        """What became black and white, and the dense control, 0 (near) .. 255 (far)."""

        depth = np.empty((task["stop"] - task["start"], self._recipe.height, self._recipe.width), np.float16)
        at = 0
        for piece in task["depth"]:
            end = at + piece["stop"] - piece["start"]
            reliably(functools.partial(read_depth, self._storage, piece["name"], piece["start"], depth[at:end]))
            at = end
        low, high = task["range"] or self._own_range(depth, task, folder)
        grey = np.empty(depth.shape, np.uint8)
        for start in range(0, len(depth), SMALL_BATCH):
            batch = depth[start : start + SMALL_BATCH]
            coloured = normalize_depth(batch, low, high, disparity=task["polarity"] == "disparity")
            grey[start : start + SMALL_BATCH] = coloured[..., 0]
        return (low, high), grey

    def _own_range(
        self, depth: Float16[ndarray, "t h w"], task: Mapping[str, Any], folder: Path
    ) -> tuple[float, float]:
        """The segment's own range: the fault that LongVie's global normalisation cures, for ablation."""
        histogram = DepthHistogram.of(depth)
        write_histogram(folder, segment_histogram(task["name"], task["index"]), histogram)
        return histogram.percentile(LOW_PERCENTILE), histogram.percentile(HIGH_PERCENTILE)

    def _read_frames(self, task: Mapping[str, Any]) -> UInt8[ndarray, "t h w 3"]:
        recipe = self._recipe
        frames = np.empty((task["stop"] - task["start"], recipe.height, recipe.width, 3), np.uint8)
        at = 0
        with self._copies.opened(task["uri"], task["stamp"]) as path:
            for batch in resampled(path, **recipe.frames(), start=task["start"], stop=task["stop"], batch=BATCH):
                frames[at : at + len(batch)] = batch
                at += len(batch)
        if at < len(frames):
            raise VideoError(f"{task['uri']} breaks off after frame {task['start'] + at - 1}")
        return frames

    def _track(
        self, task: Mapping[str, Any], frames: UInt8[ndarray, "t h w 3"], grey: UInt8[ndarray, "t h w"] | None
    ) -> Tracks:
        """The segment's tracks, with the dense control's grey at their points in the first frame."""
        if grey is None:  # without depth, all points are as far
            grey = np.zeros(frames.shape[:3], np.uint8)
        if task["supplied"] is not None:
            return self._supplied(task).with_depth(grey[0])
        if self._tracker is None:
            sparse = self._recipe.sparse
            self._tracker = load_point_tracker(sparse.spec, device=sparse.device, dtype=sparse.dtype)
        return self._tracker(frames, default_grid(self._recipe.height, self._recipe.width), grey)

    def _supplied(self, task: Mapping[str, Any]) -> Tracks:
        files = task["supplied"]["files"]
        whole = len(files) == 1
        chosen = files[0] if whole else files[min(task["supplied"]["index"], len(files) - 1)]
        with self._tracks.opened(chosen["uri"], chosen["stamp"]) as path:
            tracks = SuppliedTracks(path)
        # a file for the whole source is read at the segment's place on its timeline
        length = task["stop"] - task["start"]
        return tracks.at(Segment(index=0, start=task["start"] if whole else 0, num_frames=length, num_valid=length))

    def _drawn(self, maker: Estimator, frames: UInt8[ndarray, "t h w 3"]) -> Iterator[UInt8[ndarray, "t h w 3"]]:
        """A detector's drawing of the frames, a batch at a time."""
        if maker.spec not in self._detectors:
            self._detectors[maker.spec] = load_detector(maker.spec, maker.device)
        for start in range(0, len(frames), BATCH):
            yield self._detectors[maker.spec](frames[start : start + BATCH])


def _in_colour(grey: UInt8[ndarray, "t h w"]) -> Iterator[UInt8[ndarray, "t h w 3"]]:
    for start in range(0, len(grey), BATCH):
        yield np.repeat(grey[start : start + BATCH, ..., None], 3, axis=-1)
