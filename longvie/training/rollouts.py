"""What the model makes of videos of the training set: to learn from its own first frames, and to refine its latents.

It follows the loop over segments as the pipeline does, many videos at once; it knows latents, no files.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from longvie.conditioning import first_frame_mask
from longvie.models.block_vae import BlockVAE
from longvie.sampling import shifted, start_latents, unified_noise, unshifted_sigmas
from longvie.training.latents import NUM_HISTORY_FRAMES
from longvie.training.step import Latents, OwnFrames, TinyModel, control_states, first_frame_states
from longvie.training.text import encode_text

SHIFT = 5.0  # released code


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What became of the first n segments of the training set, float16: their latents, and what they started from."""

    made: Float[Tensor, "n z f h w"]
    own: OwnFrames


@torch.no_grad()
def roll_out(
    model: TinyModel, vae: BlockVAE, data: Latents, num_videos: int, num_steps: int, seed: int, batch: int = 8
) -> Rollouts:
    """Make the first `num_videos` videos of the set from their controls, `batch` at a time."""
    parts = [
        _roll_out(model, vae, data, torch.arange(start, min(start + batch, num_videos)), num_steps, seed)
        for start in range(0, num_videos, batch)
    ]
    made, first, history = (torch.cat([part[name] for part in parts]) for name in ("made", "first", "history"))
    return Rollouts(made=made, own=OwnFrames(first=first, history=history))


def _roll_out(
    model: TinyModel, vae: BlockVAE, data: Latents, videos: Tensor, num_steps: int, seed: int
) -> dict[str, Tensor]:
    rows = videos * data.num_segments
    shape = (1, *data.video.shape[1:])
    noise = torch.cat([unified_noise(shape, seed + int(video)) for video in videos])
    first, history = data.video[rows, :, :1].float(), None
    kept: dict[str, list[Tensor]] = {"made": [], "first": [], "history": []}
    for _ in range(data.num_segments):
        made = _sample(model, data, rows, noise, first, history, num_steps)
        nothing = torch.zeros_like(data.history[rows])
        for name, part in (("made", made), ("first", first), ("history", nothing if history is None else history)):
            kept[name].append(part.half())
        frames = (vae.decode(made).sample * 127.5 + 127.5).round() / 127.5 - 1
        used = 1 + (NUM_HISTORY_FRAMES - 1) // 4 * 4  # as `conditioning.history_states`
        history = vae.encode(frames[:, :, -NUM_HISTORY_FRAMES:][:, :, :used]).latent_dist.mode()
        first = vae.encode(frames[:, :, -1:]).latent_dist.mode()
        rows = rows + 1
    return {name: torch.stack(steps, dim=1).flatten(0, 1) for name, steps in kept.items()}


def _sample(
    model: TinyModel,
    data: Latents,
    rows: Tensor,
    noise: Tensor,
    first: Tensor,
    history: Tensor | None,
    num_steps: int,
) -> Float[Tensor, "b z f h w"]:
    """One segment from both controls, in Euler steps, as the pipeline with the scheduler does."""
    mask = first_frame_mask(noise, model.transformer.config.in_channels - 2 * noise.shape[1])
    image = first_frame_states(torch.cat([first, noise[:, :, 1:]], dim=2), data.zero)
    text = encode_text(model.text_encoder, data.ids[rows], data.mask[rows])
    dense, sparse = (control_states(part[rows].float(), data.zero, mask.shape[1]) for part in (data.dense, data.sparse))
    sigmas = [shifted(u, SHIFT) for u in unshifted_sigmas(num_steps)] + [0.0]
    latents = start_latents(noise, history)
    for sigma, lower in itertools.pairwise(sigmas):
        (velocity,) = model.transformer(
            hidden_states=torch.cat([latents, mask, image], dim=1),
            timestep=torch.full((len(rows),), 1000 * sigma),
            encoder_hidden_states=text,
            dense_states=dense,
            sparse_states=sparse,
            history_states=history,
            return_dict=False,
        )
        latents = latents + (lower - sigma) * velocity
    return latents
