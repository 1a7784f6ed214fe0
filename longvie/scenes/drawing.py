"""Pixels of a scene: colour, depth and what is seen, from closed forms, a few milliseconds of NumPy a frame."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, UInt8
from numpy import ndarray

from longvie.scenes.scene import CEILING, FLOOR, FOCAL, HORIZON, NIGHT_LIGHT, WALL, Scene
from longvie.scenes.textures import wave_sum
from longvie.scenes.things import NEAREST_CENTRE, Thing

SUPERSAMPLING = 2  # subpixels a side, for smooth edges
SAMPLE = 0.75  # where in a pixel its depth is taken, right and down from its corner: the centre of its last subpixel
_CONTRAST = 0.5  # of a pattern, against its surface's colour
_FINE_UNTIL = 7.0  # depth from which a floor's pattern fades, before it is finer than pixels
_EDGE = 1e-3  # slopes closer to the horizon see no floor


def render_frame(
    scene: Scene, t: int, height: int, width: int
) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"], Int8[ndarray, "h w"]]:
    """Frame t: colours, depth (camera z, metres) and the surface seen, the last two at `SAMPLE` in each pixel."""
    s = SUPERSAMPLING
    colour, depth, surface = _shade(scene, t, height * s, width * s)
    # a mean over both axes, in numpy's own order to the last bit, and five times as fast
    smooth = sum(colour[i::s, j::s] for i in range(s) for j in range(s)) / np.float32(s * s)
    return np.rint(smooth).astype(np.uint8), depth[s // 2 :: s, s // 2 :: s], surface[s // 2 :: s, s // 2 :: s]


def _shade(scene: Scene, t: int, height: int, width: int) -> tuple[ndarray, ndarray, ndarray]:
    camera, focal = scene.camera_at(t), FOCAL * width
    u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :] / focal
    v = (np.arange(height, dtype=np.float32) + 0.5 - height * HORIZON)[:, None] / focal  # down
    wall_z = scene.wall_at(t) - camera[2]
    floor_z = np.where(v > _EDGE, camera[1] / np.maximum(v, _EDGE), np.inf)
    row_depth = np.minimum(floor_z, wall_z).astype(np.float32)
    floor_rows, ceiling_rows = (floor_z < wall_z)[:, 0], np.zeros(height, bool)
    if scene.ceiling is not None:
        ceiling_z = np.where(v < -_EDGE, (scene.ceiling - camera[1]) / np.maximum(-v, _EDGE), np.inf)
        ceiling_rows = (ceiling_z < wall_z)[:, 0]
        row_depth = np.minimum(row_depth, ceiling_z).astype(np.float32)
    depth = np.broadcast_to(row_depth, (height, width)).copy()
    pattern = _pattern(scene, t, camera, row_depth, u, v, floor_rows, ceiling_rows)
    darkness, sky = scene.darkness_at(t), scene.sky_at(t)
    light = 1.0 - (1.0 - NIGHT_LIGHT) * darkness
    fog = np.clip(row_depth / (1.6 * (scene.wall + scene.changes.recession(t))), 0, 1)[..., None]
    base = np.where(floor_rows[:, None, None], scene.ground * light, sky * 0.8)
    base = np.where(ceiling_rows[:, None, None], sky * 0.95, base)
    colour = base * (1 + _CONTRAST * pattern[..., None])
    colour *= 1 - 0.45 * fog
    colour += sky * 0.45 * fog
    rows = np.where(floor_rows, FLOOR, WALL)
    surface = np.broadcast_to(np.where(ceiling_rows, CEILING, rows).astype(np.int8)[:, None], (height, width)).copy()
    for index, thing in enumerate(scene.things):
        _draw(thing, index, scene.centre_at(index, t), u, v, light, colour, depth, surface)
    return np.clip(colour, 0, 255, out=colour), depth, surface


def _draw(
    thing: Thing,
    index: int,
    centre: Float[ndarray, " 3"],
    u: ndarray,
    v: ndarray,
    light: float,
    colour: ndarray,
    depth: ndarray,
    surface: ndarray,
) -> None:
    """An object, where it is nearer than what is there."""
    if centre[2] < NEAREST_CENTRE:
        return
    half_width, half_height = thing.half
    a = (u - centre[0] / centre[2]) * centre[2] / half_width  # -1..1 over the outline
    b = (v + centre[1] / centre[2]) * centre[2] / half_height
    columns, rows = np.flatnonzero(np.abs(a[0]) < 1), np.flatnonzero(np.abs(b[:, 0]) < 1)
    if not len(columns) or not len(rows):
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    a, b, colour, depth, surface = a[:, box[1]], b[box[0]], colour[box], depth[box], surface[box]  # views
    mask, front, bulge = thing.relief(a, b)
    near = centre[2] - front
    seen = mask & (near < depth)
    if not seen.any():
        return
    shade = 0.45 + 0.55 * np.clip(0.7 * bulge - 0.25 * a - 0.35 * b, 0, 1)
    stripes = 1 + 0.13 * np.sin(thing.stripes * (a + 0.6 * b))
    own = thing.colour * (0.55 + 0.45 * light) * (shade * stripes)[..., None]
    colour[seen] = own[seen]
    depth[seen] = np.broadcast_to(near, depth.shape)[seen]
    surface[seen] = index


def _pattern(
    scene: Scene,
    t: int,
    camera: ndarray,
    depth: ndarray,
    u: ndarray,
    v: ndarray,
    floor: Bool[ndarray, " h"],
    ceiling: Bool[ndarray, " h"],
) -> Float32[ndarray, "h w"]:
    """What lies on all surfaces, seen from the camera: about -1..1. `depth` is (h, 1): the same along a row."""
    pattern = np.empty((len(v), u.shape[1]), np.float32)
    drift, near = t * scene.floor_drift, depth[floor]
    waves = wave_sum(scene.floor_texture, camera[0] - drift[0] + near * u, camera[2] - drift[2] + near)
    pattern[floor] = waves / (1 + (near / _FINE_UNTIL) ** 2)
    if ceiling.any():  # half as strong, and finer the other way round
        near = depth[ceiling]
        waves = wave_sum(scene.floor_texture[:, [1, 0, 2, 3]], camera[0] + near * u, camera[2] + near)
        pattern[ceiling] = 0.5 * waves / (1 + (near / _FINE_UNTIL) ** 2)
    wall = ~(floor | ceiling)
    drift = t * scene.wall_drift
    wall_z = scene.wall_at(t) - camera[2]
    x, y = camera[0] - drift[0] + wall_z * u, camera[1] - drift[1] - wall_z * v[wall]
    openness = scene.changes.openness(t)
    if openness == 0:
        pattern[wall] = wave_sum(scene.wall_texture, x, y)
    else:  # what would be finer than pixels gives way to what is as fine from there
        fade = 1 / (1 + (scene.changes.recession(t) / scene.wall) ** 2)
        pattern[wall] = fade * wave_sum(scene.wall_texture, x, y) + (1 - fade) * wave_sum(scene.far_texture, x, y)
    return pattern
