"""What training does to its conditions so that neither control drowns the other and mistakes do not add up.

Feature-level and data-level degradation weaken the dense control, which would otherwise decide everything (LongVie
§2.3); first-frame degradation prepares the model for frames it made itself (LongVie 2). Every draw comes from the
generator given; no module state, no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from longvie.training.loss import add_noise
from longvie.types import Frames, Image

DEGRADE_FROM = 2 / 3  # of the iterations: LongVie, 2,000 of 3,000
FEATURE_PROBABILITY, LOWEST_FEATURE_SCALE = 0.15, 0.05  # LongVie §2.3
DATA_PROBABILITY = 0.10
NUM_SCALES = 5  # n of {1, 1/2, ..., 1/2^n}
BLUR_KERNELS = (3, 5, 7, 9, 11, 13, 15)
FIRST_FRAME_PROBABILITY, ROUND_TRIP_SHARE, MAX_ROUND_TRIPS = 0.20, 0.20, 10  # LongVie 2
MAX_RENOISE_SIGMA = 0.15  # ours: the paper says "a small t"; at .15 shapes stay and texture is the model's own

Control = Float[Tensor, "t c h w"]  # [0, 1]


def begins_at(num_steps: int) -> int:
    """The first step with feature- and data-level degradation: after two thirds of them (LongVie)."""
    return -(-2 * num_steps // 3)


def feature_scale(probability: float, generator: torch.Generator) -> float:
    """lambda of phi(lambda * dense + sparse): U[.05, 1] with the probability, else 1 (LongVie §2.3)."""
    draw, scale = torch.rand(2, generator=generator).tolist()
    return LOWEST_FEATURE_SCALE + (1 - LOWEST_FEATURE_SCALE) * scale if draw < probability else 1.0


@dataclass(frozen=True, kw_only=True)
class DataDegradation:
    """Data-level degradation of a dense control: random scale fusion, average blur, or one after the other.

    Args:
        fusion, blur: how likely each is, once a control is degraded; one of them always is (ours: the paper says
            "and/or").
    """

    num_scales: int = NUM_SCALES
    kernels: tuple[int, ...] = BLUR_KERNELS
    fusion: float = 2 / 3
    blur: float = 2 / 3


def degrade_dense(frames: Frames, generator: torch.Generator, config: DataDegradation = DataDegradation()) -> Frames:
    """A dense control with less detail: all frames are degraded alike, so that it stays steady in time."""
    draws = torch.rand(2, generator=generator).tolist()
    fuse, blur = draws[0] < config.fusion, draws[1] < config.blur
    if not (fuse or blur):
        fuse = draws[0] * config.blur <= draws[1] * config.fusion
        blur = not fuse
    control = rearrange(frames, "t h w c -> t c h w").float() / 255
    if fuse:
        excluded = int(torch.randint(config.num_scales + 1, (), generator=generator))
        control = scale_fusion(control, excluded, torch.rand(config.num_scales, generator=generator))
    if blur:
        kernel = config.kernels[int(torch.randint(len(config.kernels), (), generator=generator))]
        control = average_blur(control, kernel)
    return rearrange((control * 255).round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c").contiguous()


def scale_fusion(control: Control, excluded: int, weights: Float[Tensor, " n"]) -> Control:
    """Random scale fusion (LongVie §2.3): a convex mixture of copies at the scales {1, 1/2, ..., 1/2^n} but one.

    Args:
        excluded: exponent of the scale left out, 0..n.
        weights: of the n scales kept, from large to small; at least 0; they are divided by their sum.
    """
    height, width = control.shape[-2:]
    kept = [n for n in range(len(weights) + 1) if n != excluded]
    mixture = torch.zeros_like(control)
    for n, share in zip(kept, (weights / weights.sum()).tolist(), strict=True):
        small = (max(1, height // 2**n), max(1, width // 2**n))
        copy = control if n == 0 else F.interpolate(control, size=small, mode="bilinear")
        mixture += share * (copy if n == 0 else F.interpolate(copy, size=(height, width), mode="bilinear"))
    return mixture


def average_blur(control: Control, kernel: int) -> Control:
    """Mean over kernel x kernel pixels; past the borders there are zeros (released code), so they darken."""
    return F.avg_pool2d(control, kernel, stride=1, padding=kernel // 2)


def round_trips(frame: Image, times: int, round_trip: Callable[[Image], Image]) -> Image:
    """A frame encoded and decoded again and again, 8 bits in between (LongVie 2, first-frame degradation)."""
    for _ in range(times):
        frame = round_trip(frame)
    return frame


@torch.no_grad()
def renoise(
    latents: Float[Tensor, "b z 1 h w"],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b z 1 h w"],
    velocity: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "b z 1 h w"]:
    """A first frame as the model itself remembers it: noised to a small sigma, denoised in one step (LongVie 2).

    Args:
        velocity: the model, called with noised latents and sigma.
    """
    noised = add_noise(latents, noise, sigma)
    return noised - sigma.view(-1, 1, 1, 1, 1) * velocity(noised, sigma)
