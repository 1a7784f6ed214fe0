"""The frames that a model in training has made itself, for samples to begin with; made anew now and then.

Their state is a tensor of constant shape, so that a checkpoint keeps it and a resumed run goes on with the same frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from longvie.models.transformer import LongVieTransformer3DModel
from longvie.training.encoded_layout import EncodedError
from longvie.training.mixture import EncodedMixture
from longvie.training.recipes import Recipe
from longvie.training.rollouts import BATCH, Chain, draw_chains, noise_seed, roll_out
from longvie.types import Frames, VideoAutoencoder


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What the model made before a sample.

    Args:
        index: of the sample.
        frames: the last ones of the segment before.
        noise_seed: of the noise that the whole video was made from, as generation's unified noise is.
    """

    index: int
    frames: Frames
    noise_seed: int


class OwnFrames:
    """What the model made before each of some samples.

    Args:
        data: each of its datasets has its share of them.
        begins: the step that their stage begins with.

    Raises:
        EncodedError: a dataset has no video of two segments.
    """

    def __init__(self, recipe: Recipe, data: EncodedMixture, seed: int, begins: int) -> None:
        self._recipe, self._data, self._seed, self._begins = recipe, data, seed, begins
        self._keep = max(data.meta.history_frames, default=1)
        self._made_at = begins
        self._chains: list[list[Chain]] = []
        self._rows: list[list[int]] = []  # samples, by dataset
        self._chain_of: dict[int, Chain] = {}
        self.enter(begins)
        meta = data.meta
        count = sum(map(len, self._rows))
        self.frames: UInt8[Tensor, "n k h w 3"] = torch.zeros(
            (count, self._keep, meta.height, meta.width, 3), dtype=torch.uint8
        )

    def is_due(self, step: int) -> bool:
        """Whether they are made anew before this step."""
        return (step - self._begins) % self._recipe.rollouts.every == 0

    def enter(self, step: int) -> None:
        """Know which samples the frames are of that a step sees."""
        every = self._recipe.rollouts.every
        round_number = (step - self._begins) // every
        self._made_at = self._begins + round_number * every
        self._draw(round_number)

    @torch.no_grad()
    def make(
        self,
        step: int,
        model: LongVieTransformer3DModel,
        vae: VideoAutoencoder,
        dtype: torch.dtype,
        rank: int,
        world_size: int,
        *,
        together: bool,
    ) -> None:
        """Let the model make the videos; the workers share them.

        Args:
            together: all workers make all of them, as they must where each holds a part of the weights.
        """
        self.enter(step)
        recipe = self._recipe
        self.frames.zero_()
        places = {row: k for k, row in enumerate(row for rows in self._rows for row in rows)}
        tasks = [part for chains in self._chains for part in _tasks(chains)]
        for number, chains in enumerate(tasks):
            if not together and number % world_size != rank:
                continue
            shorter = [chain[:-1] for chain in chains]  # nothing goes on from the last
            after = {chain[k]: chain[k + 1] for chain in chains for k in range(len(chain) - 1)}
            for made in roll_out(
                model,
                vae,
                self._data,
                shorter,
                num_steps=recipe.num_inference_steps,
                shift=recipe.levels.shift,
                seed=step,
                num_history_frames=recipe.rollouts.num_history_frames,
                keep=self._keep,
                keeps_first_frame=recipe.keeps_first_frame,
                dtype=dtype,
            ):
                self.frames[places[after[made.index]]] = made.frames
        if world_size > 1 and not together:
            device = model.device
            total = self.frames.to(device)
            dist.all_reduce(total)  # each worker has zeros where others made something
            self.frames.copy_(total)

    def at(self, index: int, which: float) -> Beginning:
        """Of one of the samples of the dataset that sample `index` is of, chosen by `which` in [0, 1)."""
        dataset = self._data.dataset_of(index)
        rows = self._rows[dataset]
        k = int(which * len(rows))
        return Beginning(
            index=rows[k],
            frames=self.frames[sum(map(len, self._rows[:dataset])) + k],
            noise_seed=noise_seed(self._made_at, self._chain_of[rows[k]]),
        )

    def _draw(self, round_number: int) -> None:
        self._chains, self._rows = [], []
        for which, share in enumerate(self._data.shares):
            samples = self._data.rows(which)
            chains = draw_chains(
                [self._data.place(row) for row in samples],
                max(1, round(self._recipe.rollouts.num_segments * share)),
                self._seed,
                self._begins,
                round_number,
                which,
            )
            if not chains:
                raise EncodedError(
                    f"{self._data.datasets[which].uri} has no video of two segments and more for the model to go on "
                    "from; encode longer ones, or leave those stages out: --steps degradation=0 --steps history=0"
                )
            self._chains.append([[samples[k] for k in chain] for chain in chains])
            self._rows.append([row for chain in self._chains[-1] for row in chain[1:]])
        self._chain_of = {row: chain for chains in self._chains for chain in chains for row in chain}


def _tasks(chains: list[Chain]) -> list[list[Chain]]:
    """Parts that are made whole by one worker, the same however many there are."""
    ordered = sorted(chains, key=len, reverse=True)
    return [list(ordered[k : k + BATCH]) for k in range(0, len(ordered), BATCH)]
