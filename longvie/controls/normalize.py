"""From float depth to the dense control: one range for the whole video, near black, far white.

Percentiles per segment are the fault that LongVie's global normalisation cures (P1 §2.2): the range is an argument
here, and whoever calls takes it over the whole video before cutting segments.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

LOW_PERCENTILE, HIGH_PERCENTILE = 5.0, 95.0  # P1 §2.2


def depth_range(depth: Float[ndarray, ...]) -> tuple[float, float]:
    """The 5th and 95th percentile of all finite depth values given; give those of the whole video."""
    finite = depth[np.isfinite(depth)]
    if not finite.size:
        raise ValueError("depth has no finite value; check the depth estimator's output")
    low, high = np.percentile(finite, (LOW_PERCENTILE, HIGH_PERCENTILE))
    return float(low), float(high)


def normalize_depth(
    depth: Float[ndarray, "t h w"], low: float, high: float, *, disparity: bool = False
) -> UInt8[ndarray, "t h w 3"]:
    """Clip to the video's range and scale to grey 0..255, near = 0 (black), far = 255 (white), truncated.

    Args:
        depth: metric depth (large is far), or disparity (large is near) as most estimators give it.
        low, high: the 5th and 95th percentile over the whole video, of the same quantity.

    Released code: ((p95 - d) / (p95 - p5)) * 255 from disparity d, truncated to uint8.
    """
    scale = max(high - low, np.finfo(np.float32).tiny)
    clipped = np.clip(depth, low, high)
    far = (high - clipped) / scale if disparity else (clipped - low) / scale
    grey = (far * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
