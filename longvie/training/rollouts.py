"""What the model makes of the training set: its own first frames to learn from, and latents to refine.

It follows the loop over segments as the pipeline does, many videos at once; it knows latents, no files.
"""

from __future__ import annotations

import itertools

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from longvie.conditioning import first_frame_mask
from longvie.models.block_vae import BlockVAE
from longvie.sampling import shifted, start_latents, unified_noise, unshifted_sigmas
from longvie.training.latents import NUM_HISTORY_FRAMES
from longvie.training.step import Latents, OwnFrames, TinyModel, control_states, first_frame_states
from longvie.training.text import encode_text

SHIFT = 5.0  # released code


@torch.no_grad()
def roll_out(
    model: TinyModel, vae: BlockVAE, data: Latents, num_videos: int, num_steps: int, seed: int, batch: int = 8
) -> tuple[Float[Tensor, "n z f h w"], OwnFrames]:
    """Make the first `num_videos` videos of the set from their controls, `batch` at a time; all float16.

    Returns the latents of their segments, and what each started from: the truth, then what the model had made.
    """
    parts = [
        _roll_out(model, vae, data, torch.arange(start, min(start + batch, num_videos)), num_steps, seed)
        for start in range(0, num_videos, batch)
    ]
    made, first, history = (torch.cat([part[name] for part in parts]) for name in ("made", "first", "history"))
    return made, OwnFrames(first=first, history=history, rows=torch.arange(len(first)))


@torch.no_grad()
def make_segments(
    model: TinyModel, data: Latents, num_videos: int, num_steps: int, seed: int, batch: int = 8
) -> Float[Tensor, "n z f h w"]:
    """Latents, float16, of all segments of the first `num_videos` videos, each made from the true frames before it."""
    made, shape = [], (1, *data.video.shape[1:])
    for index in range(data.num_segments):
        for start in range(0, num_videos, batch):
            rows = torch.arange(start, min(start + batch, num_videos)) * data.num_segments + index
            noise = torch.cat([unified_noise(shape, seed + int(row)) for row in rows])
            history = data.history[rows].float() if index else None
            made.append(_sample(model, data, rows, noise, data.video[rows, :, :1].float(), history, num_steps).half())
    return rearrange(torch.cat(made), "(s v) z f h w -> (v s) z f h w", v=num_videos)


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
    mask = first_frame_mask(noise, model.transformer.config["in_channels"] - 2 * noise.shape[1])
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
