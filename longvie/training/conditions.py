"""What one sample of a step is given: drawn from (seed, step, place in the batch), then put together from its latents.

The draw knows numbers only; `ConditionBuilder` knows the data and, for degradations in pixels, the VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longvie import conditioning
from longvie.sampling import unified_noise
from longvie.training.degradation import (
    MAX_ROUND_TRIPS,
    ROUND_TRIP_SHARE,
    DataDegradation,
    degrade_dense,
    feature_scale,
    round_trips,
)
from longvie.training.encoded import Sample
from longvie.training.loss import starting_noise
from longvie.training.mixture import EncodedMixture
from longvie.training.order import generator_for
from longvie.training.own_frames import Beginning
from longvie.training.recipes import MODALITIES, Recipe
from longvie.training.rollouts import handed_on
from longvie.types import Image, VideoAutoencoder

Row = Float[Tensor, "1 z f h w"]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Everything chance decides about one sample of a step.

    Args:
        sigma: the noise level.
        history: frames of history; 0: none.
        dense_scale: of the dense branch's features.
        own_noise: whether the noise is the one that made the frames it begins with, where the model made them.
        first: how the first frame is degraded; `trips` times through the VAE, or to `first_sigma` and back.
        noise_level: deviation of Gaussian noise on first-frame and history latents.
        generator: for the noise itself, ready to draw.
    """

    modality: str
    sigma: float
    history: int
    empty_prompt: bool
    dense_scale: float
    degrade_dense: bool
    first: Literal["clean", "round trips", "renoise"]
    trips: int
    first_sigma: float
    noise_level: float
    own_noise: bool = False
    generator: torch.Generator


def draws_own(recipe: Recipe, seed: int, step: int, place: int) -> float | None:
    """Whether the sample at a place of a step's batch is one that begins with the model's own frames.

    Returns a number in [0, 1) that says which of them, or None.
    """
    given = recipe.stage_at(step)[0].conditions
    wanted = torch.rand((), generator=generator_for(seed, step, 0 if given.per_step else place, 1))
    which = torch.rand((), generator=generator_for(seed, step, place, 2))
    return float(which) if wanted < given.own else None


def draw(recipe: Recipe, seed: int, step: int, place: int, sample: Sample, begins_own: bool = False) -> Draw:
    """The draw for the sample at a place of a step's batch.

    Args:
        begins_own: whether it begins with the model's own frames: then it has a history, and nothing else degrades its
            first frame but noise.
    """
    stage, within = recipe.stage_at(step)
    given = stage.conditions
    own = generator_for(seed, step, place)
    shared = generator_for(seed, step) if given.per_step else own
    modality = MODALITIES[int(torch.multinomial(torch.tensor(given.modalities), 1, generator=shared))]
    wants_history, which = torch.rand(2, generator=shared).tolist()
    choices = sorted(sample.history)
    history = choices[int(which * len(choices))] if choices and (begins_own or wants_history < given.history) else 0
    chances = torch.rand(5, generator=own).tolist()
    late = within >= given.degrade_from * stage.num_steps
    first: Literal["clean", "round trips", "renoise"] = "clean"
    if chances[0] < given.first_frame and not begins_own:
        first = "round trips" if chances[1] < ROUND_TRIP_SHARE else "renoise"
    return Draw(
        modality=_present(modality, sample),
        sigma=float(recipe.levels.draw(1, own)),
        history=history,
        empty_prompt=chances[2] < given.prompt_dropout,
        dense_scale=feature_scale(given.features if late else 0.0, own),
        degrade_dense=late and chances[3] < given.data,
        first=first,
        trips=int(torch.randint(1, MAX_ROUND_TRIPS + 1, (), generator=own)),
        first_sigma=given.renoise * (1 - float(torch.rand((), generator=own))),
        noise_level=given.condition_noise * chances[4] ** 2,
        own_noise=given.own_noise,
        generator=own,
    )


def _present(modality: str, sample: Sample) -> str:
    """A modality without the controls that a sample lacks."""
    wanted = [name for name in ("dense", "sparse") if modality in (name, "both") and getattr(sample, name) is not None]
    return "both" if len(wanted) == 2 else (wanted or ["none"])[0]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One sample as the model takes it, batch axis 1. `degraded`: latent of a degraded first frame, else None."""

    draw: Draw
    x0: Row
    noise: Row  # as sampling starts: mixed with the history's last latent
    image: Row  # latents of the first frame followed by grey
    dense: Float[Tensor, "1 zmz f h w"] | None
    sparse: Float[Tensor, "1 zmz f h w"] | None
    history: Float[Tensor, "1 z k h w"] | None
    text: Float[Tensor, "1 l d"]
    image_embeds: Float[Tensor, "1 n e"] | None
    degraded: Float[Tensor, "1 z 1 h w"] | None = None


class ConditionBuilder:
    """Builds inputs from samples.

    Args:
        vae: of the model whose encoders made the data; None where no stage degrades pixels.
    """

    def __init__(self, data: EncodedMixture, vae: VideoAutoencoder | None, device: torch.device) -> None:
        self._data, self._vae, self._device = data, vae, device
        self._empty_text = data.empty.text

    def build(self, sample: Sample, draw: Draw, own: Beginning | None = None) -> Inputs:
        """Inputs with everything but a renoised first frame, which needs the model.

        Args:
            own: what the model made of the segment before, in place of the true frames.
        """
        x0, image = self._row(sample.video), self._row(sample.image)
        noise = torch.randn(x0.shape, generator=draw.generator)
        history = self._row(sample.history[draw.history]) if draw.history else None
        if own is not None:
            if draw.own_noise:
                noise = unified_noise(tuple(x0.shape), own.noise_seed)
            image, history = handed_on(self.vae, own.frames, draw.history, self._data.meta.segment_length, self._device)
        degraded = None
        if draw.first == "round trips":
            image, degraded = self.encode_first(round_trips(_frame(sample), draw.trips, self._round_trip))
        image, history = self._with_noise(image, history, draw)
        text = self._empty_text if draw.empty_prompt else sample.text
        assert text is not None
        embeds = sample.image_embeds
        return Inputs(
            draw=draw,
            x0=x0,
            noise=starting_noise(noise.to(self._device), history),
            image=image,
            dense=self._dense(sample, draw) if draw.modality in ("both", "dense") else None,
            sparse=self._control(sample.sparse, sample.sparse_image) if draw.modality in ("both", "sparse") else None,
            history=history,
            text=self._data.padded_text(text).float().to(self._device),
            image_embeds=None if embeds is None else embeds[None].float().to(self._device),
            degraded=degraded,
        )

    @torch.no_grad()
    def encode_first(self, frame: Image) -> tuple[Row, Float[Tensor, "1 z 1 h w"]]:
        """Latents of a first frame followed by grey, and its own latent alone."""
        pixels = conditioning.to_pixels(frame[None].to(self._device))
        image = conditioning.encode_first_frame(self.vae, pixels, self._data.meta.segment_length)
        return image, image[:, :, :1]

    @torch.no_grad()
    def decode_first(self, latent: Float[Tensor, "1 z 1 h w"]) -> Image:
        """The frame of one latent, 8 bits."""
        return conditioning.to_frames(conditioning.decode(self.vae, latent))[0]

    @property
    def vae(self) -> VideoAutoencoder:
        if self._vae is None:
            raise ValueError("this stage degrades pixels and needs the VAE of the model that encoded the data")
        return self._vae

    def _round_trip(self, frame: Image) -> Image:
        return self.decode_first(self.encode_first(frame)[1])

    def _with_noise(self, image: Row, history: Tensor | None, draw: Draw) -> tuple[Row, Tensor | None]:
        """Noise on what the first frame and the history say; grey stays grey."""
        if not draw.noise_level:
            return image, history
        first = image[:, :, :1]
        noise = torch.randn(first.shape, generator=draw.generator).to(self._device)
        image = torch.cat([first + draw.noise_level * noise, image[:, :, 1:]], dim=2)
        if history is not None:
            noise = torch.randn(history.shape, generator=draw.generator).to(self._device)
            history = history + draw.noise_level * noise
        return image, history

    @torch.no_grad()
    def _dense(self, sample: Sample, draw: Draw) -> Tensor:
        if not draw.degrade_dense:
            return self._control(sample.dense, sample.dense_image)
        if sample.dense_degraded:  # encoded from the control itself: no VAE is needed, and nothing is decoded
            which = int(torch.randint(len(sample.dense_degraded), (), generator=draw.generator))
            return self._control(sample.dense_degraded[which], sample.dense_degraded_image[which])
        frames = conditioning.to_frames(conditioning.decode(self.vae, self._row(sample.dense)))
        frames = degrade_dense(frames, draw.generator, DataDegradation())
        return conditioning.control_states(self.vae, frames.to(self._device))

    def _control(self, latents: Tensor | None, first: Tensor | None) -> Tensor:
        return conditioning.stack_control(self._row(latents), self._row(first), self._data.meta.temporal)

    def _row(self, latents: Tensor | None) -> Tensor:
        assert latents is not None
        return latents[None].float().to(self._device)


def _frame(sample: Sample) -> Image:
    assert sample.first_frame is not None
    return sample.first_frame
