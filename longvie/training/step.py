"""One batch, one update: what the model is shown at a step, a pure function of the seed and the step.

It knows latents and a model; not where they come from nor where checkpoints lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from longvie.conditioning import first_frame_mask
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.training.loss import (
    NoiseLevels,
    add_noise,
    starting_noise,
    velocity_error,
    velocity_target,
    weight,
)
from longvie.training.text import encode_text

MODALITIES = ("both", "dense", "sparse", "none")
# Ours, measured on the tiny model: with one step, there is nothing but pure noise to start from.
NOISE_LEVELS = NoiseLevels(distribution="logit-normal", pure_noise=0.85)


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a batch is made of. Probabilities are of whole batches, as an absent control's branch is left out.

    Args:
        modalities: how often both controls, dense only, sparse only and none are given.
        history: how often segments after the first are given their history (else: as if they were the first).
        prompt_dropout: how often a prompt is emptied.
        condition_noise: the largest deviation of noise on first-frame and history latents; a batch row draws its own.
        own_frames: how often, once there are any, first frame and history are those the model itself made.
    """

    batch: int = 4
    modalities: tuple[float, float, float, float] = (0.76, 0.08, 0.08, 0.08)
    history: float = 0.5
    prompt_dropout: float = 0.1
    condition_noise: float = 0.25
    own_frames: float = 0.35


@dataclass(frozen=True, kw_only=True)
class Latents:
    """The training set: float16 latents of n segments; `zero` are those of a grey video past frame 0, (z,).

    `weights` say how much an error in each number of a latent counts, in frame 0 and in later ones: its deviation in
    pixels, mean 1. Without them details that hardly show count as much as colours.
    """

    video: Float[Tensor, "n z f h w"]
    dense: Float[Tensor, "n z f h w"]
    sparse: Float[Tensor, "n z f h w"]
    history: Float[Tensor, "n z k h w"]
    ids: Int[Tensor, "n l"]
    mask: Int[Tensor, "n l"]
    empty: tuple[Int[Tensor, " l"], Int[Tensor, " l"]]
    zero: Float[Tensor, " z"]
    weights: Float[Tensor, "2 z"]
    num_segments: int  # a video; its segments follow one another


@dataclass(frozen=True, kw_only=True)
class OwnFrames:
    """First frames and histories as the model made them, float16, of n segments (whole videos) of the training set.

    `rows` are those segments' places in it.
    """

    first: Float[Tensor, "n z 1 h w"]
    history: Float[Tensor, "n z k h w"]
    rows: Int[Tensor, " n"]


class TinyModel(nn.Module):
    """The transformer and the text encoder that is trained with it."""

    def __init__(self, transformer: LongVieTransformer3DModel, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder


def first_frame_states(video: Tensor, zero: Float[Tensor, " z"]) -> Tensor:
    """Latents of frame 0 followed by zeros: the video's own latent 0, then those of grey blocks."""
    rest = zero.view(1, -1, 1, 1, 1).expand_as(video[:, :, 1:])
    return torch.cat([video[:, :, :1], rest], dim=2)


def control_states(video: Tensor, zero: Float[Tensor, " z"], mask_channels: int) -> Tensor:
    """As `conditioning.control_states`, from latents: video, mask, first frame followed by zeros."""
    return torch.cat([video, first_frame_mask(video, mask_channels), first_frame_states(video, zero)], dim=1)


def subset(data: Latents, videos: Sequence[int]) -> tuple[Latents, Int[Tensor, " n"]]:
    """Some videos of a training set, and which rows they have there."""
    rows = torch.cat([torch.arange(v * data.num_segments, (v + 1) * data.num_segments) for v in videos])
    names = ("video", "dense", "sparse", "history", "ids", "mask")
    return replace(data, **{name: getattr(data, name)[rows] for name in names}), rows


def draw_rows(num_rows: int, batch: int, seed: int, step: int) -> Int[Tensor, " b"]:
    """Which segments a step sees: every epoch a new permutation, whatever the number of workers."""
    rows = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(position, num_rows)
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed * 10_007 + epoch))
        rows.append(order[index])
    return torch.stack(rows)


def batch_loss(
    model: TinyModel, data: Latents, config: StepConfig, seed: int, step: int, own: OwnFrames | None = None
) -> tuple[Float[Tensor, ""], str]:
    """The loss of one step and the modality its batch had."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    rows = draw_rows(len(data.video), config.batch, seed, step)
    modality = MODALITIES[int(torch.multinomial(torch.tensor(config.modalities), 1, generator=generator))]
    use_history = bool(torch.rand((), generator=generator) < config.history)
    use_own = own is not None and bool(torch.rand((), generator=generator) < config.own_frames)
    seen, at = None, rows
    if own is not None and use_own:
        seen, use_history, at = own, True, rows % len(own.rows)
    if use_history:  # a video's first segment has none: take its second
        at = torch.where(at % data.num_segments == 0, at + 1, at)
    if seen is None:
        rows, first, history = at, data.video[at, :, :1].float(), data.history[at].float()
    else:
        rows, first, history = seen.rows[at], seen.first[at].float(), seen.history[at].float()

    x0 = data.video[rows].float()
    history = history if use_history else None
    sigma = NOISE_LEVELS.draw(config.batch, generator)
    level = config.condition_noise * torch.rand(config.batch, 1, 1, 1, 1, generator=generator) ** 2

    def degrade(latents: Tensor) -> Tensor:
        return latents + level * torch.randn(latents.shape, generator=generator)

    first = degrade(first)
    history = None if history is None else degrade(history)
    noise = starting_noise(torch.randn(x0.shape, generator=generator), history)
    image = first_frame_states(torch.cat([first, x0[:, :, 1:]], dim=2), data.zero)
    mask = first_frame_mask(x0, model.transformer.config["in_channels"] - 2 * x0.shape[1])
    drop = torch.rand(config.batch, 1, generator=generator) < config.prompt_dropout
    ids = torch.where(drop, data.empty[0], data.ids[rows])
    text_mask = torch.where(drop, data.empty[1], data.mask[rows])

    def control(latents: Tensor, wanted: Sequence[str]) -> Tensor | None:
        return control_states(latents[rows].float(), data.zero, mask.shape[1]) if modality in wanted else None

    (velocity,) = model.transformer(
        hidden_states=torch.cat([add_noise(x0, noise, sigma), mask, image], dim=1),
        timestep=1000 * sigma,
        encoder_hidden_states=encode_text(model.text_encoder, ids, text_mask),
        dense_states=control(data.dense, ("both", "dense")),
        sparse_states=control(data.sparse, ("both", "sparse")),
        history_states=history,
        return_dict=False,
    )
    weights = torch.stack([data.weights[min(frame, 1)] for frame in range(x0.shape[2])], dim=1).view(
        1, -1, x0.shape[2], 1, 1
    )
    error = velocity_error(weights.sqrt() * velocity, weights.sqrt() * velocity_target(x0, noise))
    return (weight(sigma, "floor") * error).mean(), modality


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
