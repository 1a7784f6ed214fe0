from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longvie.metrics.catalogue import METRICS, metric_of
from longvie.metrics.statistics import estimate, holm, paired


def videos(count: int, seeds: int = 1, mean: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(mean, 1, (count, seeds)))


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """95 % of intervals over 20 videos; a percentile bootstrap is a little short (it is known to be)."""
    held = [estimate(videos(20, seed=k), resamples=400) for k in range(200)]
    share = np.mean([said.low <= 0 <= said.high for said in held])
    assert 0.88 <= share <= 0.98


def test_equal_runs_are_found_different_as_rarely_as_p_says() -> None:
    p = [paired(videos(12, 3, seed=k), videos(12, 3, seed=1000 + k), resamples=400).p for k in range(200)]
    assert np.mean([value < 0.05 for value in p]) <= 0.12


def test_a_difference_is_found_and_its_sign_kept() -> None:
    base = videos(20)
    better = [values + 0.5 + 0.1 * k for k, values in enumerate(base)]
    said = paired(better, base)
    assert said.difference.low > 0.5
    assert said.p < 0.001
    assert said.effect.mean == pytest.approx(np.mean(said.effect.mean))
    assert paired(base, better).difference.mean == pytest.approx(-said.difference.mean)


def test_few_videos_prove_nothing() -> None:
    base = videos(5)
    said = paired([values + 10 + k for k, values in enumerate(base)], base)
    assert said.p == pytest.approx(2 / 2**5)
    two = paired(videos(2, mean=9), videos(2))
    assert two.p == pytest.approx(0.5)
    assert two.effect is None
    alone = paired(videos(1), videos(1, seed=1))
    assert (alone.p, alone.difference.low, alone.effect) == (None, None, None)
    assert estimate(videos(1)).low is None


def test_seeds_add_to_what_is_uncertain() -> None:
    """Videos that are all alike, seeds that are not: without resampling seeds there would be no interval."""
    same = [np.array([-1.0, 0.0, 1.0])] * 10
    said = estimate(same)
    assert said.mean == 0
    assert said.low < -0.1 < 0.1 < said.high
    assert estimate([np.zeros(3)] * 10).high == 0


def test_equal_seeds_of_the_bootstrap_give_equal_numbers() -> None:
    assert estimate(videos(9), seed=4) == estimate(videos(9), seed=4)
    assert estimate(videos(9), seed=4) != estimate(videos(9), seed=5)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired(videos(3), videos(4))


def test_holm_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_holm_never_lowers_p_and_keeps_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(new >= old for new, old in zip(adjusted, p, strict=True))
    assert all(0 <= value <= 1 for value in adjusted)
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= -1e-12).all()


def test_every_metric_is_known_by_its_name() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert metric_of("psnr_drift").better == "higher"
    assert metric_of("vbench_subject_consistency").title == "VBench subject consistency"
    with pytest.raises(KeyError):
        metric_of("niqe")
