"""What the model makes of training videos, segment after segment: the frames that it will have to go on from.

A rollout follows the loop of generation: each segment starts from the last frames of the one made before. It knows
samples, a model and an autoencoder; no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longvie import conditioning
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.sampling import unified_noise
from longvie.training.encoded import Sample
from longvie.training.mixture import EncodedMixture
from longvie.training.order import generator_for
from longvie.training.samples import denoise
from longvie.types import Frames, VideoAutoencoder

BATCH = 8  # videos denoised together
Chain = Sequence[int]  # samples of one video that follow one another, by their numbers


@dataclass(frozen=True, kw_only=True)
class Made:
    """A segment that was made of a sample: its latents and its last frames, uint8."""

    index: int
    latents: Float[Tensor, "z f h w"]
    frames: UInt8[Tensor, "k h w 3"]


def draw_chains(places: Sequence[Mapping[str, Any]], count: int, seed: int, *place: int) -> list[list[int]]:
    """Videos in an order drawn from the seed, until they have `count` segments that follow another.

    Args:
        places: of each sample what `EncodedMixture.place` says, in order.

    Returns:
        Rows of `places`, a list a video: segment 0 and those that follow without a gap and have the same controls. The
        last video may be cut short, so that there are just `count` rows beside segments 0; fewer if there are no more.
    """
    chains: list[list[int]] = []
    for row, said in enumerate(places):
        if said["segment"] == 0:
            chains.append([row])
        elif chains:
            last = places[chains[-1][-1]]
            follows = last["segment"] + 1 == said["segment"]
            if follows and all(last[name] == said[name] for name in ("video_id", "has_dense", "has_sparse")):
                chains[-1].append(row)
    chains = [chain for chain in chains if len(chain) > 1]
    chosen = []
    for number in torch.randperm(len(chains), generator=generator_for(seed, *place)).tolist():
        if count == 0:
            break
        chosen.append(chains[number][: count + 1])
        count -= len(chosen[-1]) - 1
    return chosen


def noise_seed(seed: int, chain: Chain) -> int:
    """Of the noise that `roll_out` makes all segments of a video from."""
    return seed + chain[0]


@torch.no_grad()
def roll_out(
    model: LongVieTransformer3DModel,
    vae: VideoAutoencoder,
    data: EncodedMixture,
    chains: Sequence[Chain],
    *,
    num_steps: int,
    shift: float,
    seed: int,
    num_history_frames: int,
    keep: int,
    keeps_first_frame: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Made]:
    """Make all segments of the chains, the first from its own sample's conditions, each other from what was made.

    Args:
        seed: with a chain's first sample it decides the noise that its segments share.
        num_history_frames: handed on, if the data has latents of as many; keep: last frames that are returned.
        keeps_first_frame: see `LongViePipeline`.
    """
    device, length = model.device, data.meta.segment_length
    for alike in _batches(data, chains):
        first = [data[chain[0]] for chain in alike]
        noise = [
            unified_noise((1, *_latents(sample.video).shape), noise_seed(seed, chain))
            for sample, chain in zip(first, alike, strict=True)
        ]
        images = [_latents(sample.image)[None].float() for sample in first]
        histories = [_history(sample, num_history_frames) for sample in first]
        for depth in range(max(map(len, alike))):
            going = [k for k, chain in enumerate(alike) if depth < len(chain)]
            samples = [data[alike[k][depth]] for k in going]
            past = [histories[k] for k in going]
            made = denoise(
                model,
                data,
                samples,
                torch.cat([noise[k] for k in going]),
                torch.cat([images[k] for k in going]),
                None if past[0] is None else torch.cat([part for part in past if part is not None]),
                num_steps=num_steps,
                shift=shift,
                keeps_first_frame=keeps_first_frame,
                dtype=dtype,
            )
            for k, latents in zip(going, made, strict=True):
                frames = conditioning.to_frames(conditioning.decode(vae, latents[None].to(device)))
                yield Made(index=alike[k][depth], latents=latents.cpu(), frames=frames[-keep:])
                images[k], histories[k] = handed_on(vae, frames, num_history_frames, length, device)


def _batches(data: EncodedMixture, chains: Sequence[Chain]) -> Iterator[list[Chain]]:
    """Chains that are made together: of equal form, the longest first."""
    ordered = sorted(chains, key=lambda chain: (_form(data, chain), -len(chain)))
    for _, same in groupby(ordered, key=lambda chain: _form(data, chain)):
        alike = list(same)
        yield from (alike[start : start + BATCH] for start in range(0, len(alike), BATCH))


def _form(data: EncodedMixture, chain: Chain) -> tuple[bool, ...]:
    """Chains of equal form are denoised together: the same controls, and all with a history at first or none."""
    said = data.place(chain[0])
    return (said["has_dense"], said["has_sparse"], said["segment"] > 0)


@torch.no_grad()
def handed_on(
    vae: VideoAutoencoder, frames: Frames, num_history_frames: int, segment_length: int, device: torch.device
) -> tuple[Float[Tensor, "1 z f h w"], Float[Tensor, "1 z k h w"] | None]:
    """What a segment starts from after these frames: latents of the last one followed by grey, and of the history."""
    last = conditioning.to_pixels(frames[-1:].to(device))
    history = conditioning.history_states(vae, frames[-num_history_frames:].to(device)) if num_history_frames else None
    return conditioning.encode_first_frame(vae, last, segment_length), history


def _history(sample: Sample, num_history_frames: int) -> Tensor | None:
    past = sample.history.get(num_history_frames)
    return None if past is None else past[None].float()


def _latents(latents: Tensor | None) -> Tensor:
    assert latents is not None
    return latents
