"""Tileable procedural textures with mip levels, and palettes: what the surfaces of `depth_scenes` are painted with.

One seeded bank serves all scenes; a surface picks a pattern, a size and three colours, so that no two look alike.
"""

from __future__ import annotations

import colorsys
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

SIDE = 256  # texels a side of the finest level
NUM_TEXTURES = 60
BANK_SEED = 0xDE97


def fractal_noise(rng: np.random.Generator, side: int, slope: float, stretch: float = 1.0) -> Float[ndarray, "s s"]:
    """Tileable Gaussian noise with amplitude falling as frequency**-slope, scaled to about [0, 1]; mean 0.5."""
    fy, fx = np.fft.fftfreq(side)[:, None] * side * stretch, np.fft.rfftfreq(side)[None, :] * side
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    phase = rng.uniform(0, 2 * np.pi, radius.shape)
    noise = np.fft.irfft2(radius**-slope * np.exp(1j * phase) * rng.rayleigh(size=radius.shape), s=(side, side))
    return np.clip(0.5 + 0.2 * noise / noise.std(), 0, 1).astype(np.float32)


def _pattern(kind: int, rng: np.random.Generator) -> Float[ndarray, "s s"]:
    """One tile of a kind of pattern."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    count = int(rng.integers(2, 12))
    noise = fractal_noise(rng, SIDE, rng.uniform(0.8, 2.2), rng.choice([1.0, 1.0, 0.25, 4.0]))
    warp = rng.uniform(0, 0.5) * (rng.random() < 0.6) * (noise - 0.5)
    if kind in (0, 1):  # plain noise; blotches
        return noise if kind == 0 else np.clip((noise - rng.uniform(0.4, 0.6)) * rng.uniform(4, 20) + 0.5, 0, 1)
    if kind == 2:  # stripes, soft or hard, bent by the noise
        return np.clip(0.5 + rng.choice([0.5, 3.0]) * np.sin(2 * np.pi * count * (x + warp)), 0, 1)
    if kind == 3:  # checks
        return ((np.floor((x + warp) * 2 * count) + np.floor((y + warp) * 2 * count)) % 2).astype(np.float32)
    if kind == 4:  # bricks or planks: rows with joints, each with its own shade
        row = np.floor(y * 2 * count)
        along = x * max(1, count // int(rng.integers(1, 4))) + 0.5 * (row % 2)
        shade = rng.random((2 * count + 1, 64)).astype(np.float32)[row.astype(int), np.floor(along).astype(int) % 64]
        joint = (np.abs(along % 1 - 0.5) > 0.46) | (np.abs(y * 2 * count % 1 - 0.5) > 0.42)
        return np.where(joint, rng.choice([0.0, 1.0]), 0.25 + 0.5 * shade).astype(np.float32)
    if kind == 5:  # dots
        radius = np.hypot((x + warp) * count % 1 - 0.5, (y + warp) * count % 1 - 0.5)
        return np.clip((rng.uniform(0.15, 0.4) - radius) * 20 + 0.5, 0, 1)
    if kind == 6:  # cells: distance to the nearest of scattered points
        points = rng.random((count * 6, 2))
        canvas = np.full((SIDE, SIDE), 255, np.uint8)
        canvas[(points[:, 0] * SIDE).astype(int), (points[:, 1] * SIDE).astype(int)] = 0
        distance = cv2.distanceTransform(np.tile(canvas, (3, 3)), cv2.DIST_L2, 5)[SIDE : 2 * SIDE, SIDE : 2 * SIDE]
        return np.clip(distance / distance.max(), 0, 1)
    if kind == 7:  # marble
        return 0.5 + 0.5 * np.sin(2 * np.pi * (x + 6 * (noise - 0.5)))
    if kind == 8:  # windows: a grid of dark panes on a wall
        pane = (np.abs(x * count % 1 - 0.5) < rng.uniform(0.2, 0.35)) & (np.abs(y * count % 1 - 0.5) < 0.3)
        lit = rng.random((count, count))[np.floor(y * count).astype(int), np.floor(x * count).astype(int)]
        return np.where(pane, 0.1 + 0.5 * (lit > 0.7), 0.9 - 0.1 * noise).astype(np.float32)
    return 0.5 + 0.1 * (noise - 0.5)  # nearly plain


@lru_cache(maxsize=1)
def _bank() -> list[Float[ndarray, "k s s"]]:
    """Mip levels, finest first: (textures, side, side) in [0, 1]."""
    rng = np.random.default_rng(BANK_SEED)
    levels = [np.stack([_pattern(index % 10, rng) for index in range(NUM_TEXTURES)]).astype(np.float32)]
    while levels[-1].shape[-1] > 1:
        half = levels[-1].shape[-1] // 2
        levels.append(levels[-1].reshape(NUM_TEXTURES, half, 2, half, 2).mean(axis=(2, 4)))
    return levels


@lru_cache(maxsize=1)
def _flat_bank() -> tuple[Float[ndarray, " n"], Int[ndarray, " l"], Int[ndarray, " l"]]:
    levels = _bank()
    sides = np.array([level.shape[-1] for level in levels])
    starts = np.concatenate([[0], np.cumsum(NUM_TEXTURES * sides**2)[:-1]])
    return np.concatenate([level.ravel() for level in levels]), sides, starts


def sample(
    texture: Int[ndarray, " n"], u: Float[ndarray, " n"], v: Float[ndarray, " n"], footprint: Float[ndarray, " n"]
) -> Float[ndarray, " n"]:
    """Bilinear lookups: u and v in tiles, `footprint` the tiles a pixel covers, which picks the mip level."""
    flat, sides, starts = _flat_bank()
    level = np.clip(np.log2(np.maximum(footprint * SIDE, 1e-6)).round(), 0, len(sides) - 1).astype(np.int64)
    side, start = sides[level], starts[level] + texture * sides[level] ** 2
    x, y = (u % 1) * side - 0.5, (v % 1) * side - 0.5
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    left, right, top, low = x0 % side, (x0 + 1) % side, start + y0 % side * side, start + (y0 + 1) % side * side
    upper = flat[top + left] * (1 - fx) + flat[top + right] * fx
    lower = flat[low + left] * (1 - fx) + flat[low + right] * fx
    return upper * (1 - fy) + lower * fy


# Hue, saturation and value ranges of what surfaces are often made of; "any" is everything.
_PALETTES = {
    "any": ((0.0, 1.0), (0.0, 1.0), (0.08, 1.0)),
    "grey": ((0.0, 1.0), (0.0, 0.15), (0.1, 1.0)),
    "earth": ((0.03, 0.14), (0.15, 0.7), (0.15, 0.75)),
    "green": ((0.17, 0.42), (0.25, 0.85), (0.12, 0.75)),
    "skin": ((0.02, 0.09), (0.2, 0.6), (0.3, 0.95)),
    "pale": ((0.0, 1.0), (0.0, 0.3), (0.6, 1.0)),
}


def ramp(rng: np.random.Generator, palette: str) -> Float[ndarray, "3 3"]:
    """Three linear-light RGB colours between which a pattern runs: variations of one, now and then unrelated ones."""
    hues, saturations, values = _PALETTES[palette]
    first = np.array([rng.uniform(*hues), rng.uniform(*saturations), rng.uniform(*values)])
    spread = np.array([0.03, 0.12, rng.choice([0.05, 0.15, 0.35])])
    colours = []
    for _ in range(3):
        hsv = first + rng.normal(0, 1, 3) * spread
        if rng.random() < 0.12:
            hsv = rng.uniform(0, 1, 3)
        colours.append(colorsys.hsv_to_rgb(hsv[0] % 1, *np.clip(hsv[1:], 0, 1)))
    return np.array(colours, np.float32) ** 2.2
