"""Fits a `BlockVAE`: its linear map to frames, then its refiner to what the linear decoder misses.

The refiner learns from the latents a transformer made of training videos, against the true frames: their errors (edges
of blocks, jumps between latent frames) are those the decoder will meet. It knows frames, latents and an autoencoder;
neither the transformer nor where checkpoints lie.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from longvie.models.block_vae import BlockVAE

LEARNING_RATE = 1e-3
WARMUP = 30
SPACE_WEIGHT = 1.0  # on differences between neighbouring pixels: no borders between blocks
TIME_WEIGHT = 10.0  # on differences between frames: no rhythm of four frames, which square error alone hardly sees
BORDER_WEIGHT = 60.0  # on those across borders between latents, where each has an error of its own
TRUE_SHARE = 0.25  # of the segments have the truth's own latents


SOURCE_WEIGHTS = (0.6, 0.2, 0.2)  # of video, dense and sparse in the choice of components


@torch.no_grad()
def fit_linear(vae: BlockVAE, sources: tuple[UInt8[Tensor, "n t h w 3"], ...], seed: int, blocks: int = 60_000) -> None:
    """Choose the autoencoder's components on a weighted mixture of video and controls."""
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for source, weight in zip(sources, SOURCE_WEIGHTS, strict=True):
        pixels: Float[Tensor, "b 3 t h w"] = rearrange(source, "n t h w c -> n c t h w").float() / 127.5 - 1
        for part, cut in zip(parts, vae.blocks(pixels), strict=True):
            flat = cut.flatten(0, -2)
            part.append(flat[torch.randint(len(flat), (int(weight * blocks),), generator=generator)])
    vae.first.fit(torch.cat(parts[0]))
    vae.rest.fit(torch.cat(parts[1]))


def draw(
    vae: BlockVAE,
    video: UInt8[Tensor, "n t h w 3"],
    made: Float[Tensor, "n z f h w"],
    batch: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 3 t h w"], Float[Tensor, "b z f h w"]]:
    """Random segments: true pixels in [-1, 1] and latents to decode."""
    rows = torch.randint(len(made), (batch,), generator=generator)
    pixels = rearrange(video[rows], "b t h w c -> b c t h w").float() / 127.5 - 1
    with torch.no_grad():
        true = vae.encode(pixels).latent_dist.mode()
    keep = torch.rand(batch, 1, 1, 1, 1, generator=generator) < TRUE_SHARE
    return pixels, torch.where(keep, true, made[rows].float())


def refiner_loss(
    vae: BlockVAE, pixels: Float[Tensor, "b 3 t h w"], latents: Float[Tensor, "b z f h w"]
) -> Float[Tensor, ""]:
    """Square error of decoded pixels and of their differences along time, height and width."""
    difference = vae.unclamped(latents) - pixels
    jumps = difference.diff(dim=2).square().mean(dim=(0, 1, 3, 4))
    weights = torch.full_like(jumps, TIME_WEIGHT)
    weights[:: vae.config["scale_factor_temporal"]] = BORDER_WEIGHT
    height, width = (difference.diff(dim=dim).square().mean() for dim in (3, 4))
    return difference.square().mean() + (weights * jumps).mean() + SPACE_WEIGHT * (height + width)


def train_refiner(
    vae: BlockVAE,
    video: UInt8[Tensor, "n t h w 3"],
    made: Float[Tensor, "n z f h w"],
    num_steps: int,
    seed: int,
    batch: int = 4,
) -> Iterator[tuple[int, float]]:
    """Train from what the refiner is; yields each step and its loss."""
    assert vae.refiner is not None
    optimizer = torch.optim.AdamW(vae.refiner.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(num_steps):
        rate = min((step + 1) / WARMUP, (num_steps - step) / num_steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = refiner_loss(vae, *draw(vae, video, made, batch, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.refiner.parameters(), 1.0)
        optimizer.step()
        yield step, float(loss.detach())
