"""Patterns of floors, walls and ceilings: sums of a few waves, smooth enough not to flicker."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_WAVES = 6  # sines that make a surface's pattern


def draw_waves(rng: np.random.Generator, frequency: float) -> Float[ndarray, "n 4"]:
    """Waves of about this many radians a unit of length, in all directions: x and y frequency, phase, weight."""
    angle, phase = rng.uniform(0, 2 * np.pi, (2, _WAVES))
    size = frequency * rng.uniform(0.4, 1.3, _WAVES)
    return np.stack([size * np.cos(angle), size * np.sin(angle), phase, rng.uniform(0.4, 1, _WAVES)], axis=1)


def wave_sum(waves: Float[ndarray, "n 4"], x: ndarray, y: ndarray) -> Float[ndarray, "h w"]:
    """The waves' sum at x (h or 1, w) and y (h, 1), about -1..1, float32."""
    total = np.zeros((len(y), x.shape[1]), np.float32)
    for fx, fy, phase, weight in waves.astype(np.float32):
        across, down = fx * x.astype(np.float32), fy * y.astype(np.float32) + phase
        if len(x) == 1:  # a wall: sines of one row and one column are enough
            total += weight * (np.sin(across) * np.cos(down) + np.cos(across) * np.sin(down))
        else:
            total += weight * np.sin(across + down)
    return total / 3
