"""One training step, and the state that steps change. It knows no files, no Ray, and of other workers only their sum.

A worker takes its part of each step's batch. The gradient is the sum over all samples of all workers, divided by the
batch, so that how many workers there are decides nothing but the order of a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
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
from longvie.training.sharding import learn_others, whole
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
        for group in self._groups(inputs):
            losses = self.losses(group)
            if losses.requires_grad:  # not without controls while only the control learns
                (losses.sum() / len(samples)).backward()
            for one, loss in zip(group, losses.detach().tolist(), strict=True):
                sums[MODALITIES.index(one.draw.modality)] += torch.tensor([loss, 1.0])
        parameters = [value for _, value in self._learning if value.requires_grad]
        self._sum_over_workers(parameters, sums)
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

    def losses(self, group: list[Inputs]) -> Float[Tensor, " b"]:
        """The weighted loss of each sample of a group of equal form."""
        x0, noise = (torch.cat([getattr(one, name) for one in group]) for name in ("x0", "noise"))
        sigma = torch.tensor([one.draw.sigma for one in group], device=self._device)
        predicted = self._velocity(group, add_noise(x0, noise, sigma), sigma)
        frames = FRAME_WEIGHTS if self.recipe.first_frame_terms and group[0].history is not None else ()
        error = velocity_error(predicted, velocity_target(x0, noise), frames, self._weights)
        if self.recipe.first_frame_terms:
            terms = [self._terms(one, row, predicted[row : row + 1]) for row, one in enumerate(group)]
            error = error + torch.cat(terms)
        return weight(sigma, self.recipe.weighting, self.recipe.levels.shift) * error

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
            rest, lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=self._device.type == "cuda"
        )
        optimizers: dict[str, tuple[float, torch.optim.Optimizer]] = {"adamw": (stage.rate, adamw)}
        if muon is not None and matrices:
            peak = muon * stage.rate / recipe.stages[0].rate
            optimizers["muon"] = (peak, Muon(matrices, lr=0.0, weight_decay=recipe.weight_decay))
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

    def _groups(self, inputs: list[Inputs]) -> list[list[Inputs]]:
        """Samples for one forward pass each: as many of equal form as there are; of a sharded model one, as all
        workers must make as many passes."""
        if self._sharded:
            return [[one] for one in inputs]
        ordered = sorted(inputs, key=lambda one: str(one.form))
        return [list(same) for _, same in groupby(ordered, key=lambda one: one.form)]

    def _inputs(self, step: int, place: int, index: int) -> Inputs:
        own = None
        if self._own is not None:
            which = draws_own(self.recipe, self._seed, step, place)
            if which is not None:
                index, own = self._own.at(index, which)
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
            self._velocity(inputs[:1], inputs[0].x0, torch.ones(1, device=self._device))
        return [self._renoised(one) if one.draw.first == "renoise" else one for one in inputs]

    def _renoised(self, inputs: Inputs) -> Inputs:
        sigma = torch.tensor([inputs.draw.first_sigma], device=self._device)
        noised = add_noise(inputs.x0, inputs.noise, sigma)
        made = noised - sigma.view(-1, 1, 1, 1, 1) * self._velocity([inputs], noised, sigma)
        image, degraded = self._builder.encode_first(self._builder.decode_first(made[:, :, :1]))
        return replace(inputs, image=image, degraded=degraded)

    def _velocity(self, group: list[Inputs], noised: Tensor, sigma: Tensor) -> Tensor:
        def together(name: str) -> Tensor | None:
            parts = [getattr(one, name) for one in group]
            return None if parts[0] is None else torch.cat(parts)

        image = together("image")
        assert image is not None
        frames = noised.shape[2]
        dense_scale = torch.tensor([[one.draw.dense_scale] * frames for one in group], device=self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.dtype == "bfloat16"):
            (velocity,) = self.model(
                hidden_states=torch.cat([noised, conditioning.stack_image(image, self._temporal)], dim=1),
                timestep=1000 * sigma,
                encoder_hidden_states=together("text"),
                encoder_hidden_states_image=together("image_embeds"),
                dense_states=together("dense"),
                sparse_states=together("sparse"),
                history_states=together("history"),
                dense_scale=dense_scale,
                return_dict=False,
            )
        return velocity.float()

    @staticmethod
    def _terms(one: Inputs, row: int, predicted: Tensor) -> Tensor:
        if one.degraded is None:
            return predicted.new_zeros(1)
        last = None if one.history is None else one.history[:, :, -1:]
        return first_frame_terms(predicted, one.noise, one.x0, one.degraded, last)

    def _sum_over_workers(self, parameters: Iterable[nn.Parameter], sums: Tensor) -> None:
        """Sum gradients and losses over workers; a parameter that nobody used has gradient 0, as with any number."""
        for value in parameters:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
            if self._world_size > 1 and not self._sharded:  # a sharded model has summed them in its backward pass
                dist.all_reduce(value.grad)
        if self._world_size > 1:
            total = sums.to(self._device)
            dist.all_reduce(total)
            sums.copy_(total)


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
