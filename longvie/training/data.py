"""Segments of the synthetic world as the model sees them: frames, dense control, sparse control, caption.

Depth is normalised over the whole video, tracks start anew in every segment (LongVie §2.2, App. C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longvie.controls.normalize import depth_range, normalize_depth
from longvie.controls.render import render_tracks, uniform_grid
from longvie.controls.tracks import sample_depth
from longvie.scenes import render_scene
from longvie.segments import plan_segments
from longvie.types import ControlMaps, Frames, Segment

GRID = (10, 16)  # rows, columns of tracked points: one every 6 pixels of a 64x96 frame, whose dots are 3x3


@dataclass(frozen=True, kw_only=True)
class SceneControls:
    """A rendered scene with its controls, as a `ControlSource`: what the demo, training and tests all take."""

    frames: Frames
    caption: str
    dense: Frames
    sparse_by_segment: tuple[Frames, ...]

    def at(self, segment: Segment) -> ControlMaps:
        dense = ControlMaps(dense=self.dense).at(segment).dense
        sparse = self.sparse_by_segment[segment.index]
        missing = segment.num_frames - len(sparse)
        return ControlMaps(dense=dense, sparse=torch.cat([sparse, sparse[-1:].expand(missing, -1, -1, -1)]))


def scene_controls(seed: int, num_frames: int, segment_length: int, height: int, width: int) -> SceneControls:
    """Render a scene and its controls, with exact depth and exact tracks."""
    video = render_scene(seed, num_frames, height, width)
    dense = normalize_depth(video.depth, *depth_range(video.depth))
    grid = uniform_grid(height, width, *GRID)
    sparse = []
    for segment in plan_segments(num_frames, segment_length):
        tracks, visible, _ = video.tracks(segment.start, segment.num_valid, grid)
        grey = sample_depth(dense[segment.start, ..., 0], grid)
        sparse.append(torch.from_numpy(render_tracks(tracks, visible, grey, height, width)))
    return SceneControls(
        frames=torch.from_numpy(video.frames),
        caption=video.caption,
        dense=torch.from_numpy(dense),
        sparse_by_segment=tuple(sparse),
    )


def captions(seeds: Sequence[int]) -> list[str]:
    """The captions of scenes, without rendering them."""
    from longvie.scenes import Scene

    return [Scene.from_seed(seed).caption for seed in seeds]
