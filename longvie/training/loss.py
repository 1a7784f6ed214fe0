"""Flow matching as numbers: the noised sample, its target, how noise levels are drawn and losses weighted.

Pure functions; no model, no optimiser. `v = noise - x0` is what the model predicts, so `noise - v` is the clean sample
it implies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longvie.sampling import start_latents

Latents = Float[Tensor, "b z f h w"]
FrameLatent = Float[Tensor, "b z 1 h w"]
Levels = Float[Tensor, " b"]

SCHEDULE_STEPS = 1000  # released code: training draws one of these noise levels
SIGMA_FLOOR = 0.4  # ours, measured on the tiny model: see `Weighting`
FRAME_WEIGHTS = (0.05, 0.325, 0.757)  # LongVie 2: of the first three latent frames after a history
LOW_WEIGHT, HIGH_WEIGHT, HISTORY_WEIGHT = 0.2, 0.15, 0.5  # LongVie 2: of the terms on latent frame 0

Weighting = Literal["bell", "floor", "none"]
"""How the loss of a noise level counts.

bell: the bell over timesteps that the release trains with (`bell_weight`).
floor: sigma^2 / max(sigma, .4), which makes it an error in x0 with most weight on high noise. Ours, measured on the
    tiny model: control is learned where there is most noise; with the usual 1 / sigma^2 on x0 it was ignored.
none: 1.
"""


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """How noise levels sigma in (0, 1] are drawn.

    Args:
        distribution: `schedule`: one of the 1,000 levels of the shifted schedule, all as likely (released code);
            `logit-normal`: sigmoid of a normal number, and a share at exactly 1, where every segment starts.
        shift: of the schedule (released code: 5).
        mean, deviation: of the logits.
        pure_noise: share of draws at sigma = 1.
    """

    distribution: Literal["schedule", "logit-normal"] = "schedule"
    shift: float = 5.0
    mean: float = 1.2
    deviation: float = 1.2
    pure_noise: float = 0.0

    def draw(self, batch: int, generator: torch.Generator) -> Levels:
        if self.distribution == "schedule":
            return schedule_sigmas(self.shift)[torch.randint(SCHEDULE_STEPS, (batch,), generator=generator)]
        logits = self.mean + self.deviation * torch.randn(batch, generator=generator)
        pure = torch.rand(batch, generator=generator) < self.pure_noise
        return torch.where(pure, torch.ones(batch), torch.sigmoid(logits))


@cache
def schedule_sigmas(shift: float = 5.0) -> Float[Tensor, " n"]:
    """The noise levels of training, from 1 down: shift*u / (1 + (shift-1)*u), u = linspace(1, 0, 1001)[:-1]."""
    u = torch.linspace(1, 0, SCHEDULE_STEPS + 1)[:-1]
    return shift * u / (1 + (shift - 1) * u)


def bell_weight(sigma: Levels, shift: float = 5.0) -> Levels:
    """exp(-2 ((1000 sigma - 500) / 1000)^2), moved to 0 at its lowest and scaled to mean 1 over the schedule.

    Released code. Pure noise, the lowest, has weight 0.
    """

    def bell(level: Tensor) -> Tensor:
        return torch.exp(-2 * (level - 0.5) ** 2)

    over = bell(schedule_sigmas(shift).to(sigma.device))
    return (bell(sigma) - over.min()) / (over - over.min()).mean()


def weight(sigma: Levels, weighting: Weighting, shift: float = 5.0) -> Levels:
    """What a sample's square error in the velocity is multiplied by."""
    if weighting == "bell":
        return bell_weight(sigma, shift)
    if weighting == "floor":
        return sigma.square() / sigma.clamp(min=SIGMA_FLOOR)
    return torch.ones_like(sigma)


def add_noise(x0: Latents, noise: Latents, sigma: Levels) -> Latents:
    """x_t = (1 - sigma) * x0 + sigma * noise."""
    level = sigma.view(-1, 1, 1, 1, 1)
    return (1 - level) * x0 + level * noise


def velocity_target(x0: Latents, noise: Latents) -> Latents:
    """noise - x0: what the model predicts."""
    return noise - x0


def starting_noise(noise: Latents, history: Latents | None) -> Latents:
    """The noise as sampling starts from it: its first frame mixed with the history's last where there is a history."""
    return start_latents(noise, history)


def velocity_error(
    predicted: Latents,
    target: Latents,
    frame_weights: tuple[float, ...] = (),
    latent_weights: Float[Tensor, "z f 1 1"] | None = None,
) -> Levels:
    """Mean square error of the velocity, a sample.

    Args:
        frame_weights: the first latent frames count otherwise (`FRAME_WEIGHTS`).
        latent_weights: how much each number of a latent counts.
    """
    error = (predicted - target).square()
    if latent_weights is not None:
        error = error * latent_weights
    if frame_weights:
        frames = error.new_ones(error.shape[2])
        frames[: len(frame_weights)] = error.new_tensor(frame_weights[: len(frames)])
        error = error * frames.view(1, 1, -1, 1, 1)
    return error.flatten(1).mean(1)


def low_pass(latents: FrameLatent) -> FrameLatent:
    """What half the resolution keeps: bilinear to half the size and back (LongVie 2's frequency terms)."""
    frame = latents[:, :, 0]
    half = F.interpolate(frame, scale_factor=0.5, mode="bilinear")
    return F.interpolate(half, size=frame.shape[-2:], mode="bilinear").unsqueeze(2)


def high_pass(latents: FrameLatent) -> FrameLatent:
    """What half the resolution loses."""
    return latents - low_pass(latents)


def first_frame_terms(
    predicted: Latents, noise: Latents, x0: Latents, degraded: FrameLatent, history: FrameLatent | None
) -> Levels:
    """LongVie 2's terms on latent frame 0 of a segment whose first frame was degraded, a sample.

    Its low frequencies shall follow the degraded frame that the segment starts from, its high frequencies the truth,
    and the whole the last latent of the history, where there is one:
    .2 |L(y) - L(degraded)|^2 + .15 |H(y) - H(x0)|^2 + .5 |y - history|^2, means, with y = noise - v.
    """
    made = noise[:, :, :1] - predicted[:, :, :1]

    def mean_square(difference: Tensor) -> Levels:
        return difference.square().flatten(1).mean(1)

    terms = LOW_WEIGHT * mean_square(low_pass(made) - low_pass(degraded))
    terms = terms + HIGH_WEIGHT * mean_square(high_pass(made) - high_pass(x0[:, :, :1]))
    if history is not None:
        terms = terms + HISTORY_WEIGHT * mean_square(made - history)
    return terms
