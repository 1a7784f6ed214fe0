"""Noise, sigmas and guidance: pure functions of numbers and tensors. No model, no scheduler state."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longvie.config import NoiseStrategy, mix_of

Latents = Float[Tensor, "b z f h w"]

# Released code: 0.925926. It is 25/27, the shift-5 image of u = 5/7 (see `shifted`).
HISTORY_NOISE_SIGMA = 25 / 27


def shifted(u: float, shift: float) -> float:
    """The noise level sigma = shift*u / (1 + (shift-1)*u) of an unshifted level u in [0, 1] (flow matching, Wan)."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted_sigmas(num_steps: int) -> list[float]:
    """u = linspace(1, 0, n+1) without its last value: what the scheduler's shift is applied to (released code)."""
    return np.linspace(1.0, 0.0, num_steps + 1)[:-1].tolist()


def unified_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 noise, drawn on the CPU from the seed alone: equal for every segment and device."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def segment_noise(shape: tuple[int, ...], seed: int, index: int, strategy: NoiseStrategy = "unified") -> Tensor:
    """The noise of segment `index`: the shared one (LongVie §2.2); for ablation an independent one a segment, or both.

    `mix:a` is ((1 - a) shared + a fresh) / sqrt((1 - a)^2 + a^2), standard normal again: LongVie's Table 7 varies how
    far a segment's noise is from the shared one; the formula is ours.
    """
    alpha = mix_of(strategy)
    shared = unified_noise(shape, seed)
    if alpha == 0 or index == 0:
        return shared
    derived = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    fresh = unified_noise(shape, derived)
    if alpha == 1:
        return fresh
    return ((1 - alpha) * shared + alpha * fresh) / math.hypot(1 - alpha, alpha)


def start_latents(noise: Latents, history: Latents | None) -> Latents:
    """Where denoising starts: the noise; after a history, its first latent frame is mixed with the last history latent.

    Released code: `(1 - s) * history[-1] + s * noise[0]` with s = 25/27. The arguments are left as they are.
    """
    if history is None or history.shape[2] == 0:
        return noise
    s = HISTORY_NOISE_SIGMA
    first = (1 - s) * history[:, :, -1:] + s * noise[:, :, :1]
    return torch.cat([first, noise[:, :, 1:]], dim=2)


def model_timestep(timestep: Tensor, dtype: torch.dtype) -> Tensor:
    """The timestep as the model is given it: rounded to the model's dtype; the scheduler's own stays exact.

    The released 14B model runs in bfloat16 and so was trained and sampled with timesteps rounded to bfloat16.
    """
    return timestep.to(dtype).to(torch.float32)


def guide(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: negative + scale * (positive - negative)."""
    return negative + scale * (positive - negative)
