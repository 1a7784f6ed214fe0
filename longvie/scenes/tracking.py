"""Exact tracks: which point a pixel shows, where that point goes, and when something hides it. No pixel is drawn."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int8
from numpy import ndarray

from longvie.scenes.scene import CEILING, FLOOR, NEAREST, WALL, Scene, rays
from longvie.scenes.things import NEAREST_CENTRE

OCCLUSION_MARGIN = 1e-3  # metres by which something else must be nearer to hide a point: more than rounding
_EDGE = 1e-3  # as in drawing.py


def surface_at(
    scene: Scene, points: Float[ndarray, "n 2"], t: int, height: int, width: int
) -> tuple[Int8[ndarray, " n"], Float[ndarray, " n"], Float[ndarray, "n 2"]]:
    """What the rays through places `points` (x, y, pixels) of frame t meet first.

    Returns the surface (as `SceneVideo.surface`), its depth (camera z), and of objects the place on their outline.
    """
    camera = scene.camera_at(t)
    u, v = rays(points, height, width)
    z = np.full(len(points), scene.wall_at(t) - camera[2])
    surface, place = np.full(len(points), WALL, np.int8), np.zeros((len(points), 2))
    planes = [(FLOOR, np.where(v > _EDGE, camera[1] / np.maximum(v, _EDGE), np.inf))]
    if scene.ceiling is not None:
        planes.append((CEILING, np.where(v < -_EDGE, (scene.ceiling - camera[1]) / np.maximum(-v, _EDGE), np.inf)))
    for index, plane in planes:
        surface[plane < z] = index
        z = np.minimum(z, plane)
    for index, thing in enumerate(scene.things):
        centre = scene.centre_at(index, t)
        if centre[2] < NEAREST_CENTRE:
            continue
        a = (u - centre[0] / centre[2]) * centre[2] / thing.half[0]
        b = (v + centre[1] / centre[2]) * centre[2] / thing.half[1]
        mask, front, _ = thing.relief(a, b)
        seen = mask & (centre[2] - front < z)
        surface[seen], z = index, np.where(seen, centre[2] - front, z)
        place[seen] = np.stack([a, b], axis=1)[seen]
    return surface, z, place


def track(
    scene: Scene, points: Float[ndarray, "n 2"], start: int, num_frames: int, height: int, width: int
) -> tuple[Float[ndarray, "t n 2"], Bool[ndarray, "t n"], Float[ndarray, "t n"]]:
    """Where the surface points seen at `points` (x, y, pixels) of frame `start` are in the frames from there on.

    Points of the floor, the wall and the ceiling are fixed to the pattern, those of objects to their outline.

    Returns:
        Pixels (x, y), float32; whether each is in view and nothing is nearer; its depth (camera z).
    """
    surface, z, place = surface_at(scene, points, start, height, width)
    world = scene.unproject(points, z, start, height, width)
    positions = np.empty((num_frames, len(points), 2), np.float32)
    visible = np.empty((num_frames, len(points)), bool)
    depth = np.empty((num_frames, len(points)), np.float32)
    for k in range(num_frames):
        t = start + k
        moved = world.copy()
        moved[surface == FLOOR] += k * scene.floor_drift
        moved[surface == WALL] += k * scene.wall_drift + (0, 0, scene.wall_at(t) - scene.wall_at(start))
        relative = moved - scene.camera_at(t)
        own = relative[:, 2].copy()
        for index, thing in enumerate(scene.things):
            on = surface == index
            if not on.any():
                continue
            centre = scene.centre_at(index, t)
            # an object is drawn as a relief on a plane through its centre: there its points have their places
            relative[on] = centre + np.pad(place[on] * thing.half * (1, -1), ((0, 0), (0, 1)))
            own[on] = centre[2] - thing.relief(place[on, 0], place[on, 1])[1]
        x, y = scene.project(relative, height, width)
        positions[k], depth[k] = np.stack([x, y], axis=1), own
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (relative[:, 2] > NEAREST)
        first, nearest, _ = surface_at(scene, np.stack([x, y], axis=1), t, height, width)
        visible[k] = inside & ((first == surface) | (nearest > own - OCCLUSION_MARGIN))
    return positions, visible, depth
