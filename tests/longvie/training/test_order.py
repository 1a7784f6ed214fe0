from __future__ import annotations

from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from longvie.training.order import batch_at, generator_for, sample_at, share_of


@given(seed=st.integers(0, 2**31), num_samples=st.integers(1, 60), epoch=st.integers(0, 5))
def test_every_epoch_shows_every_sample_once(seed: int, num_samples: int, epoch: int) -> None:
    seen = [sample_at(seed, epoch * num_samples + k, num_samples) for k in range(num_samples)]
    assert sorted(seen) == list(range(num_samples))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(sample_at(seed, epoch * 50 + k, 50) for k in range(50)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


@given(
    seed=st.integers(0, 99),
    step=st.integers(0, 300),
    batch=st.integers(1, 9),
    num_samples=st.integers(1, 40),
    workers=st.integers(1, 5),
)
def test_workers_share_what_one_would_see(seed: int, step: int, batch: int, num_samples: int, workers: int) -> None:
    whole = batch_at(seed, step, batch, num_samples)
    shares = [share_of(whole, rank, workers) for rank in range(workers)]
    assert list(chain(*shares)) == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_place_decides_what_is_drawn() -> None:
    def drawn(*place: int) -> float:
        return float(torch.rand((), generator=generator_for(*place)))

    assert drawn(0, 3, 1) == drawn(0, 3, 1)
    assert len({drawn(seed, step, k) for seed in (0, 1) for step in (0, 1) for k in (0, 1)}) == 8
