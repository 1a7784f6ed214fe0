"""Which samples a step sees and what is drawn for them: functions of (seed, step) alone, never of a worker.

So a run on two workers, or one that was killed and resumed, sees what an uninterrupted run on one worker sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def sample_at(seed: int, position: int, num_samples: int) -> int:
    """The sample at a position of the endless stream: each epoch is a permutation, all epochs differ.

    Args:
        position: samples before it, counted from the start of training.
    """
    epoch, index = divmod(position, num_samples)
    return int(_permutation(seed, epoch, num_samples)[index])


def batch_at(seed: int, step: int, batch: int, num_samples: int) -> list[int]:
    """The samples of a step's global batch, in order."""
    return [sample_at(seed, step * batch + k, num_samples) for k in range(batch)]


def share_of(batch: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """A worker's part of a global batch: consecutive, as even as can be."""
    return batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size]


def generator_for(seed: int, *place: int) -> torch.Generator:
    """A generator for what is drawn at a place, such as (step,) or (step, k-th sample of the batch)."""
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


_LAST: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    key = (seed, epoch, num_samples)
    if key not in _LAST:
        while len(_LAST) > 1:  # a batch may straddle two epochs
            del _LAST[next(iter(_LAST))]
        _LAST[key] = np.random.default_rng([seed, epoch]).permutation(num_samples)
    return _LAST[key]
