"""What the built-in depth estimator is trained on: disparity up to scale and shift, sharp edges, a steady scale.

Ranftl et al. 2020, "Towards Robust Monocular Depth Estimation" (MiDaS), equations 5 to 7 and 11, with one change: the
scale and shift are those of a whole clip, not of each frame, so that neighbouring frames must agree on them.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

GRADIENT_SCALES = 4  # MiDaS: K = 4
ANCHOR_WEIGHT = 0.3  # ours: on the output itself, which would otherwise be free to drift in scale and shift
ANCHOR_QUANTILE = 0.95  # of a clip's disparity: what the output calls 1
_MIN_SPREAD = 1e-3  # of normalised disparity; a clip of a single plane has no spread to divide by


def depth_loss(
    predicted: Float[Tensor, "b v h w"], disparity: Float[Tensor, "b v h w"], gradient_weight: float
) -> Float[Tensor, ""]:
    """Of b clips of v views: predicted disparity against true disparity (1 / depth, 0 in the sky).

    `gradient_weight` is MiDaS's alpha, 0.5 there: how much sharp edges count.
    """
    anchor = disparity.flatten(1).quantile(ANCHOR_QUANTILE, dim=1).clamp_min(1e-6)
    target = disparity / anchor[:, None, None, None]
    target = target.clamp_max(2.0)  # the last few per cent may be almost at the lens: near is near enough
    residual = _normalised(predicted) - _normalised(target)
    gradients = residual.new_zeros(())
    for scale in range(GRADIENT_SCALES):
        coarse = residual[..., :: 2**scale, :: 2**scale]
        gradients = gradients + coarse.diff(dim=-1).abs().mean() + coarse.diff(dim=-2).abs().mean()
    return residual.abs().mean() + gradient_weight * gradients + ANCHOR_WEIGHT * (predicted - target).abs().mean()


def _normalised(disparity: Float[Tensor, "b v h w"]) -> Float[Tensor, "b v h w"]:
    """Less the clip's median, in units of its mean absolute deviation from it."""
    shift = disparity.flatten(1).median(dim=1).values[:, None, None, None]
    centred = disparity - shift
    spread = centred.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(_MIN_SPREAD)
    return centred / spread
