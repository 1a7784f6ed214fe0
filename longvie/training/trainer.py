"""One training step, and the state that steps change. It knows no files, no Ray, and of other workers only their sum.

A worker takes its part of each step's batch, one sample a pass. The gradient is the mean over all samples of all
workers; of float32 models it is summed in float64, where the order of a sum does not show, so that how many workers
there are decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from longvie import conditioning
from longvie.models.block_vae import BlockVAE
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.training.conditions import ConditionBuilder, Inputs, draw, draws_own
from longvie.training.ema import Average
from longvie.training.loss import (
    FRAME_WEIGHTS,
    add_noise,
    first_frame_terms,
    velocity_error,
    velocity_target,
    weight,
)
from longvie.training.mixture import EncodedMixture
from longvie.training.muon import Muon
from longvie.training.order import share_of
from longvie.training.own_frames import OwnFrames
from longvie.training.recipes import MODALITIES, Recipe, Stage, learning_names
from longvie.training.sharding import learn_others, part_of, whole
from longvie.training.start import DTYPES
from longvie.types import VideoAutoencoder


class NotFiniteError(RuntimeError):
    """The loss of a step is no number; the state is that of the step before."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Means over a step's batch, of all workers.

    Args:
        losses: by the modalities that occurred.
        norm: of the gradient, before it was clipped.
        rate: share of the peak rates.
    """

    step: int
    stage: str
    loss: float
    losses: Mapping[str, float]
    norm: float
    rate: float


def learning_parameters(model: nn.Module, recipe: Recipe, lora: bool = False) -> list[tuple[str, nn.Parameter]]:
    """What learns in any stage of a recipe."""
    parameters = dict(model.named_parameters())
    names = set().union(*(learning_names(parameters, stage.trained, lora) for stage in recipe.stages))
    return [(name, value) for name, value in parameters.items() if name in names]


class Trainer:
    """A model in training.

    Args:
        model: its transformer, on `device`; only what learns should be float32. If it is sharded (sharding.py), the
            batch must be a multiple of `world_size`.
        vae: of the model whose encoders made the data.
        lora: whether only its LoRA layers learn, in every stage.
        rank, world_size: of this worker; the process group must exist if there are others.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: LongVieTransformer3DModel,
        data: EncodedMixture,
        vae: VideoAutoencoder | None,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        lora: bool = False,
    ) -> None:
        self.recipe, self.model, self.data = recipe, model, data
        self._seed, self._device = seed, torch.device(device)
        self._rank, self._world_size, self._lora = rank, world_size, lora
        self._builder = ConditionBuilder(data, vae, self._device)
        self._temporal = data.meta.temporal
        self._sharded = isinstance(model, FSDPModule)
        if self._sharded and recipe.batch % world_size:
            raise ValueError(f"a batch of {recipe.batch} is not shared evenly by {world_size} workers; give a multiple")
        self._learning = learning_parameters(model, recipe, lora)
        self.average = Average(self._learning, recipe.average)
        self._weights = _latent_weights(recipe, vae, data.meta.latent.frames, self._device)
        self._own: OwnFrames | None = None
        self._stage: Stage | None = None
        self._optimizers: dict[str, tuple[float, torch.optim.Optimizer]] = {}
        if recipe.recompute:
            model.enable_gradient_checkpointing()
        model.train()

    def step(self, step: int) -> StepResult:
        """Make step `step`; those before it must have been made.

        Raises:
            NotFiniteError: a loss is NaN or infinite; names the step and the samples. Nothing has changed.
        """
        self.enter(step)
        if self._own is not None and self._own.is_due(step):
            self._make_own(self._own, step)
        samples = self.data.batch_at(self._seed, step, self.recipe.batch)
        places = share_of(range(len(samples)), self._rank, self._world_size)
        inputs = self._remembered([self._inputs(step, place, samples[place]) for place in places])
        sums = torch.zeros(len(MODALITIES), 2, dtype=torch.float64)
        parameters = [value for _, value in self._learning if value.requires_grad]
        gradients = _Gradients(parameters) if self.recipe.dtype == "float32" else None
        for one in inputs:
            loss = self.loss(one)
            if loss.requires_grad:  # not without controls while only the control learns
                (loss / len(samples)).backward()
            if gradients is not None:
                gradients.take()
            sums[MODALITIES.index(one.draw.modality)] += torch.tensor([float(loss.detach()), 1.0])
        if self._world_size > 1:
            total = sums.to(self._device)
            dist.all_reduce(total)
            sums.copy_(total)
        if gradients is not None:
            gradients.put(over_workers=self._world_size > 1 and not self._sharded)
        for value in parameters:  # nobody used it: 0, with any number of workers
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        loss = float(sums[:, 0].sum() / len(samples))
        norm = float(whole(nn.utils.clip_grad_norm_(parameters, self.recipe.clip)))
        if not (torch.isfinite(sums).all() and norm < float("inf")):
            self.model.zero_grad(set_to_none=True)
            raise NotFiniteError(
                f"the loss of step {step} is {loss} and its gradient's norm {norm}; its samples are {samples}; the "
                "last checkpoint is kept: look at those samples, or give a lower --rate"
            )
        rate = self.recipe.rate_at(step)
        for peak, optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(step)
        return StepResult(
            step=step,
            stage=self._stage.name if self._stage else "",
            loss=loss,
            losses={name: float(total / n) for name, (total, n) in zip(MODALITIES, sums, strict=True) if n},
            norm=norm,
            rate=rate,
        )

    def loss(self, one: Inputs) -> Float[Tensor, ""]:
        """The weighted loss of a sample."""
        sigma = torch.tensor([one.draw.sigma], device=self._device)
        predicted = self._velocity(one, add_noise(one.x0, one.noise, sigma), sigma)
        terms = self.recipe.first_frame_terms
        frames = FRAME_WEIGHTS if terms and one.history is not None else ()
        error = velocity_error(predicted, velocity_target(one.x0, one.noise), frames, self._weights)
        if terms and one.degraded is not None:
            last = None if one.history is None else one.history[:, :, -1:]
            error = error + first_frame_terms(predicted, one.noise, one.x0, one.degraded, last)
        return (weight(sigma, self.recipe.weighting, self.recipe.levels.shift) * error).squeeze(0)

    def state(self) -> dict[str, Tensor]:
        """All that steps change, as the live tensors: what is loaded into them is resumed from."""
        tensors = {f"weights.{name}": value.data for name, value in self._learning}
        tensors |= {f"average.{name}": value for name, value in self.average.weights.items()}
        names = {id(value): name for name, value in self._learning}
        for kind, (_, optimizer) in self._optimizers.items():
            for group in optimizer.param_groups:
                for value in group["params"]:
                    for key, part in optimizer.state[value].items():
                        tensors[f"{kind}.{key}.{names[id(value)]}"] = part
        if self._own is not None:
            tensors["own.frames"] = self._own.frames
        return tensors

    def enter(self, step: int) -> None:
        """Be ready for a step: choose what learns and, if its stage has just begun, start its optimisers anew."""
        stage, within = self.recipe.stage_at(step)
        if stage is self._stage:
            return
        self._stage = stage
        self._own = None
        if stage.conditions.own:
            self._own = OwnFrames(self.recipe, self.data, self._seed, step - within)
            self._own.enter(step)
        parameters = dict(self.model.named_parameters())
        names = learning_names(parameters, stage.trained, self._lora)
        for name, value in parameters.items():
            value.requires_grad_(name in names)
        if self._sharded:
            learn_others(self.model)
        self._optimizers = self._new_optimizers(stage)

    def _new_optimizers(self, stage: Stage) -> dict[str, tuple[float, torch.optim.Optimizer]]:
        """With their state allocated, so that a checkpoint can be loaded into it."""
        recipe = self.recipe
        learning = [(name, value) for name, value in self._learning if value.requires_grad]
        muon = None if self._lora else recipe.muon  # which LoRA's factors are not made for
        matrices = [v for name, v in learning if muon is not None and v.ndim == 2 and name.startswith("blocks.")]
        taken = {id(value) for value in matrices}
        rest = [value for _, value in learning if id(value) not in taken]
        adamw = torch.optim.AdamW(
            rest,
            lr=0.0,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=self._device.type == "cuda" or not self._sharded,
        )
        optimizers: dict[str, tuple[float, torch.optim.Optimizer]] = {"adamw": (stage.rate, adamw)}
        if muon is not None and matrices:
            peak = muon * stage.rate / recipe.stages[0].rate
            alike = {} if self._sharded else {"rank": self._rank, "world_size": self._world_size}
            optimizers["muon"] = (peak, Muon(matrices, lr=0.0, weight_decay=recipe.weight_decay, **alike))
        for _, optimizer in optimizers.values():
            for group in optimizer.param_groups:
                for value in group["params"]:
                    value.grad = torch.zeros_like(value)
            optimizer.step()  # at rate 0: nothing moves
            optimizer.zero_grad(set_to_none=True)
            for parts in optimizer.state.values():
                for part in parts.values():
                    part.zero_()
        return optimizers

    def _inputs(self, step: int, place: int, index: int) -> Inputs:
        own = None
        if self._own is not None:
            which = draws_own(self.recipe, self._seed, step, place)
            if which is not None:
                own = self._own.at(index, which)
                index = own.index
        sample = self.data[index]
        drawn = draw(self.recipe, self._seed, step, place, sample, begins_own=own is not None)
        return self._builder.build(sample, drawn, own)

    def _make_own(self, own: OwnFrames, step: int) -> None:
        was_training = self.model.training
        self.model.eval()
        with self.average.applied():
            own.make(
                step,
                self.model,
                self._builder.vae,
                DTYPES[self.recipe.dtype],
                self._rank,
                self._world_size,
                together=self._sharded,
            )
        self.model.train(was_training)

    @torch.no_grad()
    def _remembered(self, inputs: list[Inputs]) -> list[Inputs]:
        """Inputs with the first frames that the model is to remember.

        Of a sharded model all workers make as many passes as the one that has most to make: each gathers weights.
        """
        wanted = [one for one in inputs if one.draw.first == "renoise"]
        most = torch.tensor(len(wanted), device=self._device)
        if self._sharded:
            dist.all_reduce(most, dist.ReduceOp.MAX)
        for _ in range(int(most) - len(wanted)):
            self._velocity(inputs[0], inputs[0].x0, torch.ones(1, device=self._device))
        return [self._renoised(one) if one.draw.first == "renoise" else one for one in inputs]

    def _renoised(self, inputs: Inputs) -> Inputs:
        sigma = torch.tensor([inputs.draw.first_sigma], device=self._device)
        noised = add_noise(inputs.x0, inputs.noise, sigma)
        made = noised - sigma.view(-1, 1, 1, 1, 1) * self._velocity(inputs, noised, sigma)
        image, degraded = self._builder.encode_first(self._builder.decode_first(made[:, :, :1]))
        return replace(inputs, image=image, degraded=degraded)

    def _velocity(self, one: Inputs, noised: Tensor, sigma: Tensor) -> Tensor:
        dense_scale = torch.full((1, noised.shape[2]), one.draw.dense_scale, device=self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.dtype == "bfloat16"):
            (velocity,) = self.model(
                hidden_states=torch.cat([noised, conditioning.stack_image(one.image, self._temporal)], dim=1),
                timestep=1000 * sigma,
                encoder_hidden_states=one.text,
                encoder_hidden_states_image=one.image_embeds,
                dense_states=one.dense,
                sparse_states=one.sparse,
                history_states=one.history,
                dense_scale=dense_scale,
                return_dict=False,
            )
        return velocity.float()


class _Gradients:
    """The sum of gradients over samples, in float64; of a worker's parts, where the weights are spread over several."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        sizes = [part_of(value).numel() for value in parameters]
        self._sum = torch.zeros(sum(sizes), dtype=torch.float64, device=parameters[0].device)
        self._parts = [
            part.view(part_of(value).shape) for part, value in zip(self._sum.split(sizes), parameters, strict=True)
        ]

    def take(self) -> None:
        """Add a sample's, and forget them where they are."""
        for part, value in zip(self._parts, self._parameters, strict=True):
            if value.grad is not None:
                part += part_of(value.grad)
                value.grad = None

    def put(self, *, over_workers: bool) -> None:
        """Give each parameter the sum, of all workers if they are not summed in the backward pass."""
        if over_workers:
            dist.all_reduce(self._sum)
        for part, value in zip(self._parts, self._parameters, strict=True):
            value.grad = torch.zeros_like(value)
            part_of(value.grad).copy_(part)


def _latent_weights(
    recipe: Recipe, vae: VideoAutoencoder | None, num_frames: int, device: torch.device
) -> Float[Tensor, "z f 1 1"] | None:
    """How much an error in each latent counts; None: all alike, as with autoencoders that do not say.

    Nothing counts in frame 0 where a result does not hold it.
    """
    if not recipe.pixel_errors or not isinstance(vae, BlockVAE):
        return None
    first, rest = vae.latent_weights().float().to(device)
    if recipe.keeps_first_frame:
        first = torch.zeros_like(first)
    return torch.stack([first, *[rest] * (num_frames - 1)], dim=1)[..., None, None]


def describe(result: StepResult) -> dict[str, Any]:
    """A step's numbers as a log keeps them."""
    return {
        "step": result.step + 1,
        "stage": result.stage,
        "loss": result.loss,
        **{f"loss/{name}": value for name, value in result.losses.items()},
        "norm": result.norm,
        "rate": result.rate,
    }
