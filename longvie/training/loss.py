"""Flow matching as numbers: the noised sample, its target, how losses and noise levels are weighted.

Pure functions; no model, no optimiser.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from longvie.sampling import start_latents

# Ours, measured on the tiny model: control is learned where there is most noise. With the usual 1/sigma^2 on x0 it was
# ignored; with this it was used within minutes.
SIGMA_FLOOR = 0.4
SIGMA_LOGIT_MEAN, SIGMA_LOGIT_STD = 1.2, 1.2
PURE_NOISE_SHARE = (
    0.85  # of the draws lie at sigma = 1, where every segment starts: with one step there is nothing else
)

Latents = Float[Tensor, "b z f h w"]


def sample_sigmas(batch: int, generator: torch.Generator) -> Float[Tensor, " b"]:
    """Noise levels in (0, 1]: logit-normal, and a share at exactly 1."""
    logits = SIGMA_LOGIT_MEAN + SIGMA_LOGIT_STD * torch.randn(batch, generator=generator)
    pure = torch.rand(batch, generator=generator) < PURE_NOISE_SHARE
    return torch.where(pure, torch.ones(batch), torch.sigmoid(logits))


def add_noise(x0: Latents, noise: Latents, sigma: Float[Tensor, " b"]) -> Latents:
    """x_t = (1 - sigma) * x0 + sigma * noise."""
    level = sigma.view(-1, 1, 1, 1, 1)
    return (1 - level) * x0 + level * noise


def velocity_target(x0: Latents, noise: Latents) -> Latents:
    """noise - x0: what the model predicts."""
    return noise - x0


def starting_noise(noise: Latents, history: Latents | None) -> Latents:
    """The noise as sampling starts from it: its first frame mixed with the history's last where there is a history."""
    return start_latents(noise, history)


def flow_matching_loss(predicted: Latents, target: Latents, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Mean square of the implied error in x0 over max(sigma, floor), a sample: sigma^2 |dv|^2 / max(sigma, .4)."""
    error = (predicted - target).square().flatten(1).mean(1)
    return sigma.square() / sigma.clamp(min=SIGMA_FLOOR) * error
