"""What a model in training makes of a sample, to look at: truth, result and controls side by side.

Every condition is the sample's own encoded one; only what is shown is decoded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from longvie import conditioning
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.sampling import guide, model_timestep, shifted, start_latents, unified_noise, unshifted_sigmas
from longvie.training.encoded import EncodedDataset, Sample
from longvie.training.mixture import EncodedMixture
from longvie.types import Frames, VideoAutoencoder

BORDER = 2  # pixels of black between pictures


@torch.no_grad()
def make_latents(
    model: LongVieTransformer3DModel,
    data: EncodedDataset | EncodedMixture,
    sample: Sample,
    *,
    num_steps: int,
    shift: float,
    seed: int,
    num_history_frames: int = 0,
    keeps_first_frame: bool = False,
    guidance_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "1 z f h w"]:
    """Denoise a sample's segment from its own conditions; float32.

    Args:
        num_history_frames: used where the sample has such a history.
        keeps_first_frame: see `LongViePipeline`.
        guidance_scale: above 1 the empty prompt is predicted, too.
        dtype: activations are cast to it (`torch.autocast`); float32: they are not.
    """
    assert sample.image is not None
    assert sample.video is not None
    past = sample.history.get(num_history_frames)
    return denoise(
        model,
        data,
        [sample],
        unified_noise((1, *sample.video.shape), seed),
        sample.image[None],
        None if past is None else past[None],
        num_steps=num_steps,
        shift=shift,
        keeps_first_frame=keeps_first_frame,
        guidance_scale=guidance_scale,
        dtype=dtype,
    )


@torch.no_grad()
def denoise(
    model: LongVieTransformer3DModel,
    data: EncodedDataset | EncodedMixture,
    samples: Sequence[Sample],
    noise: Float[Tensor, "b z f h w"],
    image: Float[Tensor, "b z f h w"],
    history: Float[Tensor, "b z k h w"] | None,
    *,
    num_steps: int,
    shift: float,
    keeps_first_frame: bool = False,
    guidance_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b z f h w"]:
    """A segment of each sample from its controls and prompt, in Euler steps as the pipeline does; float32.

    Args:
        samples: all with the same controls present.
        image: latents of the first frames followed by grey; history: of the frames before, None for first segments.
    """
    device, temporal = model.device, data.meta.temporal

    def rows(name: str) -> Tensor | None:
        parts = [getattr(sample, name) for sample in samples]
        return None if parts[0] is None else torch.stack(parts).float().to(device)

    def control(name: str) -> Tensor | None:
        latents, first = rows(name), rows(f"{name}_image")
        return None if latents is None or first is None else conditioning.stack_control(latents, first, temporal)

    history = None if history is None else history.float().to(device)
    condition = conditioning.stack_image(image.float().to(device), temporal)
    dense, sparse, embeds = control("dense"), control("sparse"), rows("image_embeds")
    latents = start_latents(noise.to(device), history)

    def predict(texts: Sequence[Tensor | None], sigma: float) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            (velocity,) = model(
                hidden_states=torch.cat([latents, condition], dim=1),
                timestep=model_timestep(torch.full((len(samples),), 1000 * sigma, device=device), dtype),
                encoder_hidden_states=torch.cat([data.padded_text(cast(Tensor, t)) for t in texts]).float().to(device),
                encoder_hidden_states_image=embeds,
                dense_states=dense,
                sparse_states=sparse,
                history_states=history,
                return_dict=False,
            )
        return velocity.float()

    sigmas = [shifted(u, shift) for u in unshifted_sigmas(num_steps)] + [0.0]
    for sigma, lower in itertools.pairwise(sigmas):
        velocity = predict([sample.text for sample in samples], sigma)
        if guidance_scale > 1:
            velocity = guide(velocity, predict([data.empty.text] * len(samples), sigma), guidance_scale)
        latents = latents + (lower - sigma) * velocity
    return conditioning.with_first_latent(latents, image) if keeps_first_frame else latents


@torch.no_grad()
def side_by_side(vae: VideoAutoencoder, sample: Sample, made: Float[Tensor, "1 z f h w"]) -> Frames:
    """Two rows of two: the true video and what was made, the dense and the sparse control (grey where absent).

    Returns uint8 (num_valid, 2h + 2, 2w + 2, 3), all decoded by the autoencoder.
    """
    assert sample.video is not None

    def decoded(latents: Tensor | None) -> Frames:
        if latents is None:
            return torch.full_like(truth, 127)
        return conditioning.to_frames(conditioning.decode(vae, latents.float().to(made.device)))

    truth = decoded(sample.video[None])
    pictures = [truth, decoded(made), *(None if c is None else c[None] for c in (sample.dense, sample.sparse))]
    tiles = [part if part is not None and part.dtype == torch.uint8 else decoded(part) for part in pictures]
    rows = [_joined(tiles[0], tiles[1], dim=2), _joined(tiles[2], tiles[3], dim=2)]
    return _joined(*rows, dim=1)[: sample.num_valid]


def without_controls(sample: Sample) -> Sample:
    """The sample as a model without control sees it: what the difference to the whole sample owes to control."""
    return replace(sample, dense=None, sparse=None, dense_image=None, sparse_image=None)


def _joined(one: Frames, other: Frames, dim: int) -> Frames:
    shape = list(one.shape)
    shape[dim] = BORDER
    return torch.cat([one, one.new_zeros(shape), other], dim=dim)
