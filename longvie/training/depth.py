"""The recipe of the built-in depth estimator: `python -m longvie.training.depth --out DIR` (`make depth`).

scenes -> network -> export. Scenes are rendered once, as training needs them. It resumes from its last checkpoint and
then ends with the same weights as an uninterrupted run on one machine with one thread count.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longvie.models.depth_network import DepthNetwork
from longvie.training.depth_data import DepthShards, DepthWorld, sample_batch
from longvie.training.depth_loss import depth_loss

CHECKPOINT_EVERY = 50
LOG_EVERY = 25
WARMUP = 60  # steps
DECAY_SHARE = 0.45  # the last part of a round, over which the rate falls


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the run, up to step `until`."""

    until: int
    sizes: tuple[tuple[int, int], ...]  # height and width; one a step, at random
    learning_rate: float  # peak, of AdamW
    gradient_weight: float  # of edges in the loss
    strength: float  # of the photometric augmentation
    max_shards: int  # the most scenes it draws from, in shards of 64


# Small frames cost little. The first phase has MiDaS's weight on edges and a strong augmentation, and hardly learned
# more than a vertical gradient; the others are milder. Each round ends at the size of use.
_SMALL, _LARGE = ((64, 96), (64, 112), (80, 112)), ((96, 128), (96, 160), (112, 192))
PHASES = (
    Phase(until=900, sizes=_SMALL, learning_rate=2e-3, gradient_weight=0.5, strength=1.0, max_shards=26),
    Phase(until=1800, sizes=_SMALL, learning_rate=1e-3, gradient_weight=0.1, strength=0.5, max_shards=26),
    Phase(until=2250, sizes=_LARGE, learning_rate=1e-3, gradient_weight=0.2, strength=0.5, max_shards=26),
    Phase(until=4500, sizes=_SMALL, learning_rate=2e-3, gradient_weight=0.1, strength=0.5, max_shards=26),
    Phase(until=4800, sizes=_LARGE, learning_rate=2e-3, gradient_weight=0.2, strength=0.5, max_shards=26),
)
ROUNDS = (2250, 4800)  # in each the rate warms up and falls to zero (SGDR, Loshchilov and Hutter 2017)


@dataclass(frozen=True, kw_only=True)
class DepthRecipe:
    """All numbers of a run; saved beside the weights."""

    seed: int = 0
    world: DepthWorld = field(default_factory=DepthWorld)
    first_shards: int = 17  # of 64 scenes, rendered before the first step
    steps_a_shard: int = 120  # another joins the pool every so many steps
    phases: tuple[Phase, ...] = PHASES
    rounds: tuple[int, ...] = ROUNDS
    num_clips: int = 6  # a step
    weight_decay: float = 0.02
    average_decay: float = 0.995  # of the averaged weights, which are exported

    @property
    def num_steps(self) -> int:
        return self.phases[-1].until

    def phase_at(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step < phase.until)

    def rate_at(self, step: int) -> float:
        """The share of the phase's peak rate: a rise, a plateau, a fall to zero in every round."""
        start, end = next(pair for pair in pairwise((0, *self.rounds)) if step < pair[1])
        step, num_steps = step - start, end - start
        return min(1.0, (step + 1) / WARMUP, (num_steps - step) / (DECAY_SHARE * num_steps))

    def shards_at(self, step: int) -> int:
        return min(self.phase_at(step).max_shards, self.first_shards + step // self.steps_a_shard)


def train(out: Path, recipe: DepthRecipe, shards: DepthShards) -> DepthNetwork:
    """Train from the last checkpoint in `out` on; returns the averaged network.

    Raises FloatingPointError, and keeps the last checkpoint, when the loss is not finite.
    """
    torch.manual_seed(recipe.seed)
    network = DepthNetwork().to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    path = out / "checkpoint.safetensors"
    first = _load_checkpoint(path, network, average, optimizer)
    losses, started = [], time.time()
    for step in range(first, recipe.num_steps):
        shards.resize(recipe.shards_at(step))
        phase = recipe.phase_at(step)
        batch = sample_batch(shards, phase.sizes, phase.strength, recipe.num_clips, recipe.seed, step)
        loss = batch_loss(network, *batch, phase.gradient_weight)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; the checkpoint before it is kept: {path}")
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * recipe.rate_at(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _update_average(average, network, min(recipe.average_decay, (step + 1) / (step + 10)))
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            record = {"step": step + 1, "loss": round(sum(losses) / len(losses), 4)}
            record["seconds_a_step"] = round((time.time() - started) / (step + 1 - first), 3)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            losses.clear()
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.num_steps:
            _save_checkpoint(path, network, average, optimizer, step + 1)
    return average.eval()


def batch_loss(
    network: DepthNetwork,
    frames: UInt8[ndarray, "b v h w 3"],
    disparity: Float[ndarray, "b v hh ww"],
    gradient_weight: float,
) -> Float[Tensor, ""]:
    pixels = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).flatten(0, 1).float() / 255
    return depth_loss(network(pixels).unflatten(0, frames.shape[:2]), torch.from_numpy(disparity), gradient_weight)


def export(folder: Path, network: DepthNetwork, recipe: DepthRecipe) -> None:
    """Weights in float16, and the recipe beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(tensors, folder / "weights.safetensors")
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Parameters and batch statistics alike."""
    current = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)


def _save_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata={"step": str(step)})
    partial.replace(path)


def _load_checkpoint(path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 when there is no checkpoint."""
    if not path.exists():
        return 0
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
    for name, value in load_file(path).items():
        part, rest = name.split(".", 1)
        parts[part][rest] = value
    network.load_state_dict(parts["network"])
    average.load_state_dict(parts["average"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in parts["optimizer"].items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    recipe = DepthRecipe()
    average = train(arguments.out, recipe, DepthShards(arguments.out / "scenes", recipe.world))
    export(arguments.out / "model", average, recipe)


if __name__ == "__main__":
    main()
