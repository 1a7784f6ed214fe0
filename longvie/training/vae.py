"""Trains the refiner of a fitted `BlockVAE`: what the linear decoder misses, on small crops.

It learns from the latents a transformer made of training videos, against the true frames: their errors (edges of
blocks, jumps between latent frames) are those the decoder will meet. It knows frames, latents and an autoencoder;
neither the transformer nor where checkpoints lie.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from longvie.models.block_vae import BlockVAE

LEARNING_RATE = 2e-3
WARMUP = 30
GRADIENT_WEIGHT = 0.5  # on differences between neighbours in space and time: edges, and no rhythm of four frames
TRUE_SHARE = 0.25  # of the crops have the truth's own latents


def crops(
    vae: BlockVAE,
    video: UInt8[Tensor, "n t h w 3"],
    made: Float[Tensor, "n z f h w"],
    side: int,
    batch: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 3 t h w"], Float[Tensor, "b z f h w"]]:
    """Random crops on the grid of blocks: true pixels in [-1, 1] and latents to decode."""
    clips, latents = [], []
    block, (n, _, _, rows, columns) = vae.config.scale_factor_spatial, made.shape
    cells = side // block
    for _ in range(batch):
        highest = (n, rows - cells + 1, columns - cells + 1)
        clip, y, x = (int(torch.randint(high, (), generator=generator)) for high in highest)
        clips.append(video[clip, :, y * block : y * block + side, x * block : x * block + side])
        latents.append(made[clip, :, :, y : y + cells, x : x + cells].float())
    pixels = rearrange(torch.stack(clips), "b t h w c -> b c t h w").float() / 127.5 - 1
    with torch.no_grad():
        true = vae.encode(pixels).latent_dist.mode()
    keep = torch.rand(batch, 1, 1, 1, 1, generator=generator) < TRUE_SHARE
    return pixels, torch.where(keep, true, torch.stack(latents))


def refiner_loss(
    vae: BlockVAE, pixels: Float[Tensor, "b 3 t h w"], latents: Float[Tensor, "b z f h w"]
) -> Float[Tensor, ""]:
    """Square error of decoded pixels and of their differences along time, height and width."""
    assert vae.refiner is not None
    with torch.no_grad():
        linear = vae.decode_linear(latents)
    difference = linear + vae.refiner(linear) - pixels
    gradient = sum((difference.diff(dim=dim).square().mean() for dim in (2, 3, 4)), start=difference.new_zeros(()))
    return difference.square().mean() + GRADIENT_WEIGHT * gradient


def train_refiner(
    vae: BlockVAE,
    video: UInt8[Tensor, "n t h w 3"],
    made: Float[Tensor, "n z f h w"],
    num_steps: int,
    seed: int,
    batch: int = 4,
    side: int = 48,
) -> Iterator[tuple[int, float]]:
    """Train from what the refiner is; yields each step and its loss."""
    assert vae.refiner is not None
    optimizer = torch.optim.AdamW(vae.refiner.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(num_steps):
        rate = min((step + 1) / WARMUP, (num_steps - step) / num_steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = refiner_loss(vae, *crops(vae, video, made, side, batch, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.refiner.parameters(), 1.0)
        optimizer.step()
        yield step, float(loss.detach())
