"""Trains the refiner of a fitted `BlockVAE`: what the linear decoder misses, on small crops of video and controls.

It knows clips and an autoencoder; neither the transformer nor where checkpoints lie.
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
SOURCE_WEIGHTS = (0.9, 0.05, 0.05)  # how often a crop comes from video, dense, sparse: only video is ever decoded
LATENT_NOISE = 0.15  # the transformer does not hit latents exactly


def crops(
    sources: tuple[UInt8[Tensor, "n t h w 3"], ...], side: int, batch: int, generator: torch.Generator
) -> Float[Tensor, "b 3 t h w"]:
    """Random crops on the grid of blocks, in [-1, 1], mirrored half of the time."""

    def below(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    clips = []
    for _ in range(batch):
        source = sources[int(torch.multinomial(torch.tensor(SOURCE_WEIGHTS), 1, generator=generator))]
        n, _, h, w, _ = source.shape
        video, y, x = below(n), below((h - side) // 8 + 1) * 8, below((w - side) // 8 + 1) * 8
        clip = source[video, :, y : y + side, x : x + side]
        clips.append(clip.flip(2) if below(2) else clip)
    return rearrange(torch.stack(clips), "b t h w c -> b c t h w").float() / 127.5 - 1


def refiner_loss(vae: BlockVAE, pixels: Float[Tensor, "b 3 t h w"], generator: torch.Generator) -> Float[Tensor, ""]:
    """Square error of pixels and of their differences along time, height and width, from slightly noisy latents."""
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        level = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, 1, generator=generator)
        linear = vae.decode_linear(latents + level * torch.randn(latents.shape, generator=generator))
    assert vae.refiner is not None
    difference = linear + vae.refiner(linear) - pixels
    gradient = sum((difference.diff(dim=dim).square().mean() for dim in (2, 3, 4)), start=difference.new_zeros(()))
    return difference.square().mean() + GRADIENT_WEIGHT * gradient


def train_refiner(
    vae: BlockVAE,
    sources: tuple[UInt8[Tensor, "n t h w 3"], ...],
    num_steps: int,
    seed: int,
    batch: int = 8,
    side: int = 32,
) -> Iterator[tuple[int, float]]:
    """Train from the start; yields each step and its loss."""
    assert vae.refiner is not None
    optimizer = torch.optim.AdamW(vae.refiner.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(num_steps):
        rate = min((step + 1) / WARMUP, (num_steps - step) / num_steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = refiner_loss(vae, crops(sources, side, batch, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.refiner.parameters(), 1.0)
        optimizer.step()
        yield step, float(loss.detach())
