"""How far predicted disparity is from true depth: AbsRel, delta1 and SI-RMSE after aligning scale and shift.

The alignment is MiDaS's (Ranftl et al. 2020, section 6): least squares in disparity, 1 / depth, over the valid pixels;
depth is then its inverse, at most `cap`. Baselines are aligned in the same way, so they too know each frame's truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

DELTA = 1.25  # Eigen et al. 2014


@dataclass(frozen=True, kw_only=True)
class DepthErrors:
    absrel: float  # mean |z' - z| / z
    delta1: float  # share of pixels with max(z' / z, z / z') < 1.25
    si_rmse: float  # standard deviation of log z' - log z (Eigen et al. 2014)


def aligned_depth(
    predicted: Float[ndarray, "*shape"], depth: Float[ndarray, "*shape"], valid: Bool[ndarray, "*shape"], cap: float
) -> Float[ndarray, "*shape"]:
    """Predicted disparity as metres: scaled and shifted to the true disparity by least squares over valid pixels."""
    p, d = predicted[valid].astype(np.float64), 1 / depth[valid].astype(np.float64)
    spread = p.var()
    scale = ((p - p.mean()) * (d - d.mean())).mean() / spread if spread > 0 else 0.0
    disparity = d.mean() + scale * (predicted - p.mean())
    return 1 / np.maximum(disparity, 1 / cap)


def depth_errors(
    predicted: Float[ndarray, "*shape"], depth: Float[ndarray, "*shape"], valid: Bool[ndarray, "*shape"], cap: float
) -> DepthErrors:
    """Errors of predicted disparity over the valid pixels, which must have finite depth up to `cap` metres."""
    made, true = aligned_depth(predicted, depth, valid, cap)[valid], depth[valid].astype(np.float64)
    ratio = made / true
    return DepthErrors(
        absrel=float(np.abs(ratio - 1).mean()),
        delta1=float((np.maximum(ratio, 1 / ratio) < DELTA).mean()),
        si_rmse=float(np.log(ratio).std()),
    )


def vertical_gradient(height: int, width: int) -> Float[ndarray, "h w"]:
    """The baseline disparity that grows linearly from the top row to the bottom row, 0 to 1."""
    return np.broadcast_to(np.linspace(0, 1, height)[:, None], (height, width))
