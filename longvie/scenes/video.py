"""A rendered stretch of a scene, with its depth and tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, UInt8
from numpy import ndarray

from longvie.scenes.category import Category
from longvie.scenes.drawing import render_frame
from longvie.scenes.scene import Scene
from longvie.scenes.tracking import track


@dataclass(frozen=True, kw_only=True)
class SceneVideo:
    """A rendered scene: depth is metric (camera z, far is large), `surface` says what each pixel shows."""

    scene: Scene
    frames: UInt8[ndarray, "t h w 3"]
    depth: Float[ndarray, "t h w"]
    surface: Int8[ndarray, "t h w"]  # -3 ceiling, -2 back wall or sky, -1 floor, i object i
    caption: str
    first: int = 0  # which frame of the scene frames[0] is

    def tracks(
        self, start: int, num_frames: int, points: Float[ndarray, "n 2"]
    ) -> tuple[Float[ndarray, "t n 2"], Bool[ndarray, "t n"], Float[ndarray, " n"]]:
        """Exact tracks of the surface points seen at `points` (x, y, pixels) of frame `start` of the video.

        Returns positions in pixels (x, y), whether each is in view and not hidden, and its depth in frame `start`.
        """
        positions, visible, depth = track(self.scene, points, self.first + start, num_frames, *self.depth.shape[1:])
        return positions, visible, depth[0]


def render_scene(
    seed: int, num_frames: int, height: int, width: int, *, category: Category | None = None, first: int = 0
) -> SceneVideo:
    """Render `num_frames` frames of the scene with this seed, from frame `first` on; all in memory.

    Every frame is a function of seed, category, frame number and size: a long video begins with the shorter one.
    """
    scene = Scene.from_seed(seed, category)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    depth = np.empty((num_frames, height, width), np.float32)
    surface = np.empty((num_frames, height, width), np.int8)
    for k in range(num_frames):
        frames[k], depth[k], surface[k] = render_frame(scene, first + k, height, width)
    caption = scene.caption_at(range(first, first + num_frames))
    return SceneVideo(scene=scene, frames=frames, depth=depth, surface=surface, caption=caption, first=first)
