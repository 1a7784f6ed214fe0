"""What a user asks `longvie train` for, checked at the door."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from longvie.config import MAX_SEED
from longvie.training.encoded import EncodedDataset
from longvie.training.mixture import EncodedMixture
from longvie.training.recipes import RECIPES, Recipe, degraded
from pipelines.errors import UserError
from pipelines.hashes import fingerprint
from pipelines.training.trackers import check_trackers


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """All a run is asked for. Out-of-range values raise `UserError` naming the flag.

    Args:
        data: what `longvie encode` wrote, one folder or several.
        shares: how often samples of each are seen, in any unit; empty: as many as each has.
        out: where checkpoints, logs and the model go, any of storage.py's URIs that all workers see.
        model: the pipeline to begin with, in diffusers layout, whose encoders made the data; None: the embedded one.
        fresh: begin with random weights of the recipe's own size; only the other parts are the model's.
        steps: for some stages, other numbers of steps than the recipe's.
        degrade: for some degradations, other shares of the samples than the recipe's.
        batch, rate: other than the recipe's; the rate is of the first stage, and the others' follow.
        lora: rank of a LoRA that learns instead of the recipe's parameters.
        workers: 0: this process, without Ray.
        sample_every: steps between validation videos; 0: none.
        trackers: told of the loss beside TensorBoard, by their names (trackers.py).
        retries: how often lost workers are replaced.
    """

    recipe: str
    data: tuple[str, ...]
    out: str
    shares: tuple[float, ...] = ()
    model: str | None = None
    fresh: bool = False
    steps: tuple[tuple[str, int], ...] = ()
    degrade: tuple[tuple[str, float], ...] = ()
    batch: int | None = None
    rate: float | None = None
    lora: int | None = None
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 100
    sample_every: int = 500
    keep: int = 3
    trackers: tuple[str, ...] = ()
    restart: bool = False
    workers: int = 1
    gpus_per_worker: int | None = None
    threads_per_worker: int = 1
    retries: int = 3
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UserError(f"--recipe is {self.recipe}; choose one of {', '.join(RECIPES)}")
        for flag, value, low, high in (
            ("--batch", self.batch, 1, 1 << 20),
            ("--lora", self.lora, 1, 4096),
            ("--seed", self.seed, 0, MAX_SEED),
            ("--log-every", self.log_every, 1, math.inf),
            ("--checkpoint-every", self.checkpoint_every, 1, math.inf),
            ("--sample-every", self.sample_every, 0, math.inf),
            ("--keep", self.keep, 1, math.inf),
            ("--workers", self.workers, 0, math.inf),
            ("--gpus-per-worker", self.gpus_per_worker, 0, 1),
            ("--threads-per-worker", self.threads_per_worker, 1, math.inf),
            ("--retries", self.retries, 0, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(f"{flag} is {value}; give a number from {low} to {high}")
        check_trackers(self.trackers)
        if self.rate is not None and not (0 < self.rate < 1):
            raise UserError(f"--rate is {self.rate}; give a number between 0 and 1")
        if self.shares and len(self.shares) != len(self.data):
            raise UserError(f"--share is given {len(self.shares)} times, --data {len(self.data)}; give one for each")
        for share in self.shares:
            if not 0 < share < math.inf:
                raise UserError(f"--share is {share}; give a number above 0")
        if self.fresh and self.lora is not None:
            raise UserError("--fresh and --lora exclude each other: a LoRA adapts weights that have learned")
        if self.workers > self.chosen.batch:
            raise UserError(f"--workers is {self.workers}, more than the {self.chosen.batch} samples of a batch")
        if self.chosen.sharded and self.workers > 1 and self.chosen.batch % self.workers:
            raise UserError(
                f"--workers {self.workers} do not share a batch of {self.chosen.batch} evenly, as a sharded model "
                "needs; give --batch a multiple of them"
            )

    def dataset(self) -> EncodedMixture:
        """Everything that is trained on; `EncodedError` if some of it cannot be."""
        return EncodedMixture([EncodedDataset(uri) for uri in self.data], self.shares or None)

    @property
    def chosen(self) -> Recipe:
        """The recipe with what the user changed."""
        recipe = RECIPES[self.recipe]()
        try:
            recipe = recipe.shortened(dict(self.steps))
        except ValueError as error:
            raise UserError(f"--steps: {error}") from error
        try:
            recipe = degraded(recipe, dict(self.degrade))
        except ValueError as error:
            raise UserError(f"--degrade: {error}") from error
        if self.rate is not None:
            ratio = self.rate / recipe.stages[0].rate
            stages = tuple(replace(stage, rate=stage.rate * ratio) for stage in recipe.stages)
            recipe = replace(recipe, stages=stages)
        return recipe if self.batch is None else replace(recipe, batch=self.batch)


def decisive(options: TrainOptions, data_fingerprint: str, model_fingerprint: str) -> dict[str, Any]:
    """All that decides a run's weights; a checkpoint of another run is never gone on from."""
    recipe = asdict(options.chosen)
    return {
        "recipe": recipe,
        "seed": options.seed,
        "fresh": options.fresh,
        "lora": options.lora,
        "data": data_fingerprint,
        "model": model_fingerprint,
        "key": fingerprint([recipe, options.seed, options.fresh, options.lora, data_fingerprint, model_fingerprint]),
    }
