"""Frames against the true ones. All numbers are torchmetrics'; this file gives it what it needs and refuses the rest.

VIF is defined on 0..255 (its noise variance of 2 is in those units, Sheikh & Bovik 2006). On 0..1 the same call gives
other numbers (.96 instead of .50 for one pair) and no error, so frames come in as uint8 and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
    visual_information_fidelity,
)

DATA_RANGE = 255.0
PSNR_CAP = 100.0  # dB, in place of infinity for equal frames, so that means stay numbers; ours
VIF_MIN_SIDE = 41  # pixels; torchmetrics' four scales need them
MS_SSIM_MIN_SIDE = 161  # pixels: (11 - 1) * 2**4 + 1, five scales of an 11-pixel window (Wang et al. 2003)

FrameScores = Mapping[str, Float[Tensor, " t"]]
Lpips = Callable[[Float[Tensor, "t 3 h w"], Float[Tensor, "t 3 h w"]], Float[Tensor, " t"]]


def undefined_at(height: int, width: int) -> dict[str, str]:
    """The fidelity metrics that frames of this size do not have, and why."""
    needs = {"vif": VIF_MIN_SIDE, "ms_ssim": MS_SSIM_MIN_SIDE}
    return {
        name: f"needs frames of {side} pixels or more a side, these are {width}x{height}"
        for name, side in needs.items()
        if min(height, width) < side
    }


def fidelity(
    made: UInt8[Tensor, "t h w 3"], truth: UInt8[Tensor, "t h w 3"], lpips: Lpips | None = None
) -> dict[str, Float[Tensor, " t"]]:
    """Scores of each frame, float32.

    psnr: 10 log10(255^2 / MSE), dB, at most `PSNR_CAP`.
    ssim: Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K 0.01 and 0.03, mean over RGB and over the
        whole frame, which is mirrored beyond its border (scikit-image leaves the border out); -1..1.
    ms_ssim: Wang et al. 2003, five scales, negative contrast taken as 0; 0..1; only from 161 pixels on.
    vif: VIF in the pixel domain on 0..255, mean over RGB; 1 for equal frames, above 1 for enhanced contrast; only from
        41 pixels on; NaN where the true frame is flat.
    lpips: Zhang et al. 2018; only with the network (`load_lpips`); 0 for equal frames.

    Raises:
        TypeError: if frames are not uint8: on 0..1 VIF would silently be another number.
        ValueError: if the shapes differ.
    """
    for frames in (made, truth):
        if frames.dtype != torch.uint8:
            raise TypeError(f"frames are {frames.dtype}; give uint8, 0..255: VIF has its meaning on that range alone")
    if made.shape != truth.shape:
        raise ValueError(f"frames are {tuple(made.shape)}, the true ones {tuple(truth.shape)}; give the same shape")
    height, width = made.shape[1:3]
    missing = undefined_at(height, width)
    preds, target = (rearrange(frames, "t h w c -> t c h w").float() for frames in (made, truth))
    psnr = peak_signal_noise_ratio(preds, target, data_range=DATA_RANGE, reduction="none", dim=(1, 2, 3))
    scores = {"psnr": psnr.clamp(max=PSNR_CAP)}
    ssim = structural_similarity_index_measure(preds, target, data_range=DATA_RANGE, reduction="none")
    scores["ssim"] = cast(Tensor, ssim).reshape(-1)  # of one frame it has no axis
    if "ms_ssim" not in missing:
        scores["ms_ssim"] = multiscale_structural_similarity_index_measure(
            preds, target, data_range=DATA_RANGE, reduction="none", normalize="relu"
        ).reshape(-1)
    if "vif" not in missing:
        scores["vif"] = visual_information_fidelity(preds, target, reduction="none").reshape(-1)
    if lpips is not None:
        scores["lpips"] = lpips(preds / (DATA_RANGE / 2) - 1, target / (DATA_RANGE / 2) - 1)
    return scores


class LpipsError(RuntimeError):
    """LPIPS's backbone cannot be had; one line with the remedy."""


def load_lpips() -> Lpips:
    """LPIPS with AlexNet, over frames in -1..1.

    Its backbone is torchvision's, which comes from the network once (to TORCH_HOME). Where it cannot be had this
    raises: another network's distance would not be LPIPS.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    try:
        network = _LPIPS(pretrained=True, net="alex", use_dropout=True).eval()
    except (OSError, RuntimeError) as error:
        raise LpipsError(
            f"LPIPS needs torchvision's AlexNet weights, which cannot be fetched ({type(error).__name__}); put "
            "alexnet-owt-7be5be79.pth into TORCH_HOME/hub/checkpoints, or leave --lpips out"
        ) from error

    @torch.inference_mode()
    def lpips(preds: Float[Tensor, "t 3 h w"], target: Float[Tensor, "t 3 h w"]) -> Float[Tensor, " t"]:
        return network(preds, target).reshape(-1)

    return lpips
