"""`BlockVAE`: a video autoencoder small enough to be fitted on a laptop, with the interface of `AutoencoderKLWan`.

Frame 0 alone, then every four frames, are cut into 8x8-pixel blocks. A linear map (principal components) makes each
block one latent; the decoder inverts it and adds what small convolutions over neighbouring latents say is missing. It
knows nothing of what the videos show. Why not a small `AutoencoderKLWan`: trained from scratch for a quarter of an hour
on two cores, one of 1.6 M parameters reached 19 dB on held-out scenes; this one's linear map reaches 29 dB without
training.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["BlockVAE", "ModelMixin"]  # diffusers looks for `ModelMixin` in the module of a class it is to load

DETERMINISTIC_LOGVAR = -30.0  # the posterior is a point: its mode, mean and sample agree


class BlockVAE(ModelMixin, AutoencoderMixin, ConfigMixin):
    """8x8x4 pixels (8x8x1 in frame 0) to `z_dim` numbers and back.

    Args:
        z_dim: numbers a block. Latents are scaled so that their mean square is about 1; `latents_mean` and
            `latents_std` are 0 and 1, there for code written for Wan's VAE.
        refiner_width: channels of the decoder's convolutions; 0 leaves a linear autoencoder.
        border_smoothing: how far two frames on either side of a border between latents are drawn to each other, 0..0.5
            of their difference each; as a deblocking filter of video codecs, along time. Each latent's error is its
            own, so that without it frames jump every fourth time.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        refiner_width: int = 96,
        scale_factor_spatial: int = 8,
        scale_factor_temporal: int = 4,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        border_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_to_config(latents_mean=list(latents_mean or [0.0] * z_dim))
        self.register_to_config(latents_std=list(latents_std or [1.0] * z_dim))
        block = 3 * scale_factor_spatial**2
        self.first = _LinearMap(block, z_dim)
        self.rest = _LinearMap(block * scale_factor_temporal, z_dim)
        self.refiner = _Refiner(z_dim, refiner_width, block, block * scale_factor_temporal) if refiner_width else None

    @apply_forward_hook
    def encode(self, x: Float[Tensor, "b 3 t h w"], return_dict: bool = True) -> Any:
        """To an `AutoencoderKLOutput`, of pixels in [-1, 1]; what exceeds whole latents is dropped."""
        first, rest = self.blocks(x)
        mean = rearrange(
            torch.cat([self.first.analyse(first), self.rest.analyse(rest)], dim=1), "b f h w z -> b z f h w"
        )
        posterior = DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, DETERMINISTIC_LOGVAR)], dim=1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Float[Tensor, "b z f h w"], return_dict: bool = True) -> Any:
        """To a `DecoderOutput` of pixels, clamped to [-1, 1]."""
        pixels = self.unclamped(z).clamp(-1, 1)
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)

    def latent_weights(self) -> Float[Tensor, "2 z"]:
        """How much an error in each number of a latent shows in pixels, in frame 0 and in later ones; mean 1 each.

        It is the linear map's scale. Errors weighted so are between those of latents and those of pixels: details that
        hardly show do not count as much as colours.
        """
        return torch.stack([part.scale.detach() / part.scale.detach().mean() for part in (self.first, self.rest)])

    def unclamped(self, z: Float[Tensor, "b z f h w"]) -> Float[Tensor, "b 3 t h w"]:
        """The inverse of the linear map, block by block, and the refiner's correction."""
        latents = rearrange(z, "b z f h w -> b f h w z")
        side, temporal = self.config["scale_factor_spatial"], self.config["scale_factor_temporal"]
        first, rest = self.first.synthesise(latents[:, :1]), self.rest.synthesise(latents[:, 1:])
        if self.refiner is not None:
            first, rest = (linear + more for linear, more in zip((first, rest), self.refiner(z), strict=True))
        frame = rearrange(first, "b f h w (c y x) -> b c f (h y) (w x)", y=side, x=side)
        frames = rearrange(rest, "b f h w (c t y x) -> b c (f t) (h y) (w x)", t=temporal, y=side, x=side)
        return self._smoothed(torch.cat([frame, frames], dim=2))

    def _smoothed(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 t h w"]:
        """Frames with softer borders between latents. Frame 0 is what a segment was given and stays: its neighbour
        goes both ways."""
        share, temporal = self.config["border_smoothing"], self.config["scale_factor_temporal"]
        if not share or frames.shape[2] < 2:
            return frames
        jump = frames[:, :, 1::temporal] - frames[:, :, :-1:temporal]
        weight = frames.new_full((jump.shape[2], 1, 1), share)
        weight[0] = 2 * share
        frames = frames.clone()
        frames[:, :, 1::temporal] -= weight * jump
        frames[:, :, temporal:-1:temporal] += share * jump[:, :, 1:]
        return frames

    def blocks(self, x: Float[Tensor, "b 3 t h w"]) -> tuple[Tensor, Tensor]:
        """Frame 0 as (b, 1, h, w, 192), the rest as (b, f, h, w, 768)."""
        side, temporal = self.config["scale_factor_spatial"], self.config["scale_factor_temporal"]
        used = (x.shape[2] - 1) // temporal * temporal
        first = rearrange(x[:, :, :1], "b c f (h y) (w x) -> b f h w (c y x)", y=side, x=side)
        rest = rearrange(
            x[:, :, 1 : 1 + used], "b c (f t) (h y) (w x) -> b f h w (c t y x)", t=temporal, y=side, x=side
        )
        return first, rest


class _LinearMap(nn.Module):
    """Orthonormal components and one scale each: analyse divides by it, synthesise multiplies."""

    def __init__(self, size: int, z_dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.components = nn.Parameter(torch.zeros(size, z_dim), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(z_dim), requires_grad=False)

    def analyse(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.components / self.scale

    def synthesise(self, z: Tensor) -> Tensor:
        return (z * self.scale) @ self.components.T + self.mean

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n d"]) -> None:
        """Principal components, each scaled by the square root of its deviation: a middle way to whitening."""
        self.mean.copy_(x.mean(0))
        covariance = torch.cov(x.T.double())
        variance, vectors = torch.linalg.eigh(covariance)
        z_dim = self.scale.shape[0]
        deviation = variance.flip(0)[:z_dim].clamp(min=1e-12).sqrt()
        self.components.copy_(vectors.flip(1)[:, :z_dim])
        scale = deviation.sqrt()
        self.scale.copy_(scale * (deviation / scale).square().mean().sqrt())


class _Refiner(nn.Module):
    """What a linear inverse misses, from a block's latents and its neighbours'; zero when new.

    It works on whole blocks, so that it knows where in its block a pixel lies: borders between blocks, in space and
    in time, are where most is to be mended.
    """

    def __init__(self, z_dim: int, width: int, first: int, rest: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(z_dim + 1, width, 3, padding=1),  # latents, and whether this is frame 0
            nn.SiLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.first, self.rest = nn.Linear(width, first), nn.Linear(width, rest)
        for head in (self.first, self.rest):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, z: Float[Tensor, "b z f h w"]) -> tuple[Tensor, Tensor]:
        """Corrections of the blocks of frame 0, (b, 1, h, w, 192), and of the rest, (b, f - 1, h, w, 768)."""
        flag = torch.zeros_like(z[:, :1])
        flag[:, :, 0] = 1
        features = rearrange(self.layers(torch.cat([z, flag], dim=1)), "b c f h w -> b f h w c")
        return self.first(features[:, :1]), self.rest(features[:, 1:])
