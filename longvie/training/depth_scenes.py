"""Procedural scenes for the built-in depth estimator: rooms, streets, landscapes, table tops and clutter, from a seed.

Far more varied than the world of `longvie/scenes/`, and unrelated to it: what counts here is that no rule of thumb
(the ground is below, bright is near) always holds, while depth is exact. A seed decides a scene, its camera's short
path, light and materials; rendering is a pure function of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.training.depth_layouts import LAYOUTS, THINGS, Builder, View
from longvie.training.depth_render import Camera, DepthScene, Light, Sky
from longvie.training.depth_textures import NUM_TEXTURES

# Disjoint by construction.
TRAIN_SEEDS = range(0, 1_000_000)
VALIDATION_SEEDS = range(1_000_000, 1_001_000)
TEST_SEEDS = range(2_000_000, 2_001_000)

_TOO_NEAR = 0.25  # metres: a view of which more than a third is nearer than this shows nothing
_TRIES = 6


_FOREGROUND = 0.35  # share of scenes with someone or something right before the camera


def _axes(eye: ndarray, target: ndarray, roll: float) -> Float[ndarray, "3 3"]:
    """Right, up and forward as columns, turned about the forward axis by `roll`."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0, 1, 0], forward)
    right /= max(np.linalg.norm(right), 1e-6)
    up = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * up, c * up - s * right, forward], axis=1)


def _dress(b: Builder, view: View, size: float) -> DepthScene:
    """Light, sky, fog, focus for a layout."""
    rng = b.rng

    def tint(spread: float) -> ndarray:
        return np.exp(rng.normal(0, spread, 3))

    lights = [
        Light(at=np.array(at), colour=tint(0.15) * rng.uniform(0.6, 2), reach=rng.uniform(1.5, 5)) for at in view.lamps
    ]
    if not view.indoors or rng.random() < 0.3:
        sun = rng.normal(size=3) * [1, 0, 1] + [0, rng.uniform(0.2, 2), 0]
        strength = rng.choice([0.0, 1.0, 2.5]) * rng.uniform(0.5, 1)
        if strength:
            lights.append(
                Light(at=sun / np.linalg.norm(sun), colour=np.array([1, 0.93, 0.8]) * tint(0.1) * strength, reach=None)
            )
    if rng.random() < 0.15:
        lights.append(Light(at=view.eye, colour=tint(0.1), reach=size * 0.5))
    above = np.array([0.8, 0.9, 1.1]) * tint(0.15) * rng.uniform(0.25, 0.9)
    bright = rng.uniform(0.15, 1.4)
    zenith = np.array([0.25, 0.45, 0.9]) * tint(0.35) * bright
    horizon = np.array([0.8, 0.85, 0.95]) * tint(0.2) * bright
    if rng.random() < 0.25:
        zenith = horizon = tint(0.5) * bright * rng.uniform(0.01, 1)  # a plain backdrop
    fog = rng.exponential(0.2) / size if rng.random() < 0.35 else 0.0
    focus = size * rng.uniform(0.15, 1) if rng.random() < 0.25 else None
    return DepthScene(
        meshes=tuple(b.meshes), materials=tuple(b.materials), surface=tuple(b.surface), lights=tuple(lights),
        ambient=np.stack([above * rng.uniform(0.3, 1), above]),
        sky=Sky(zenith=zenith, horizon=horizon, cloud=np.full(3, bright) * tint(0.05), cloudiness=rng.uniform(0, 0.9),
                texture=10 * int(rng.integers(NUM_TEXTURES // 10))),
        fog=fog, fog_colour=horizon * tint(0.1), exposure=rng.uniform(0.2, 0.65), focus=focus, blur=rng.uniform(1, 4),
    )  # fmt: skip


def _stand_before(b: Builder, camera: Camera) -> None:
    """Put a thing or two near the camera, in its view, upright."""
    rng = b.rng
    for _ in range(int(rng.integers(1, 3))):
        compound, palettes = THINGS[rng.choice([0, 0, 0, 1, 1, 2, 3, 6])]
        distance = rng.uniform(0.9, 3.5)
        tall = distance * rng.uniform(0.5, 1.8)
        x, y = rng.uniform(-0.45, 0.45) / camera.focal * distance, rng.uniform(-0.3, 0.15) / camera.focal * distance
        at = camera.eye + camera.axes @ np.array([x, y, distance])
        b.place(compound, (at[0], at[1] - tall * rng.uniform(0.3, 0.95), at[2]), tall, palettes)


def make_scene(seed: int, num_views: int) -> tuple[DepthScene, list[Camera]]:
    """The scene of a seed and `num_views` cameras along a short path through it."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xDE97]))
    builder = Builder(rng)
    makers, shares = zip(*LAYOUTS, strict=True)
    view = makers[rng.choice(len(makers), p=shares)](builder)
    size = float(np.linalg.norm(view.target - view.eye))
    roll = rng.normal(0, 0.05) if rng.random() < 0.85 else rng.normal(0, 0.4)
    focal = 0.5 / np.tan(np.radians(rng.uniform(30, 95)) / 2)
    move, turn = rng.normal(0, view.speed / 12, 3), rng.normal(0, 0.02, 3)
    cameras = [
        Camera(
            eye=view.eye + move * k,
            axes=_axes(view.eye + move * k, view.target + turn * k * size, roll + turn[2] * k),
            focal=float(focal),
        )
        for k in range(num_views)
    ]
    if rng.random() < _FOREGROUND:
        _stand_before(builder, cameras[0])
    return _dress(builder, view, size), cameras


def render_views(
    seed: int, num_views: int, height: int, width: int
) -> tuple[UInt8[ndarray, "t h w 3"], Float[ndarray, "t h w"]]:
    """Frames (uint8 RGB) and exact depth (float32 metres along the optical axis, infinite in the sky) of a seed.

    A view blocked by something right before the lens is no use: the next of a fixed sequence of seeds replaces it.
    """
    frames, depths = np.empty((num_views, height, width, 3), np.uint8), np.empty((num_views, height, width), np.float32)
    for attempt in range(_TRIES):
        scene, cameras = make_scene(seed + attempt * 10_000_000, num_views)
        for k, camera in enumerate(cameras):
            frames[k], depths[k] = scene.render(camera, height, width)
        near, nothing = (depths < _TOO_NEAR).mean(), np.isinf(depths).mean()
        if near < 1 / 3 and nothing < 0.9:
            break
    return frames, depths
