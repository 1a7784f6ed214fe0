from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from longvie.controls.normalize import DepthHistogram, depth_range, normalize_depth, store_depth


def test_near_is_black_and_far_is_white() -> None:
    depth = np.linspace(1, 9, 2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    grey = normalize_depth(depth, 2.0, 8.0)
    assert grey.shape == (2, 4, 5, 3)
    assert grey[0, 0, 0].tolist() == [0, 0, 0]
    assert grey[-1, -1, -1].tolist() == [255, 255, 255]
    assert (np.diff(grey[..., 0].ravel().astype(int)) >= 0).all()


def test_disparity_has_the_opposite_polarity() -> None:
    disparity = np.array([[[0.0, 1.0]]], np.float32)
    assert normalize_depth(disparity, 0.0, 1.0, disparity=True)[0, 0, :, 0].tolist() == [255, 0]


def test_flat_depth_does_not_divide_by_zero() -> None:
    flat = np.ones((1, 2, 2), np.float32)
    assert (normalize_depth(flat, *depth_range(flat)) == 0).all()


def test_without_a_finite_value_the_remedy_is_named() -> None:
    with pytest.raises(ValueError, match="depth estimator"):
        depth_range(np.full((2, 2), np.nan))


def test_equals_the_released_conversion(golden: Path) -> None:
    units = load_file(golden / "dev_units.safetensors")
    raw, expected = units["depth.raw"], units["depth.u8"]
    made = normalize_depth(raw, *depth_range(raw), disparity=True)
    expected = expected if expected.ndim == 4 else np.repeat(expected[..., None], 3, axis=-1)
    assert np.abs(made.astype(int) - expected.astype(int)).max() <= 1  # the percentiles' own rounding
    assert (made == expected).mean() > 0.999


# Every float16 bit pattern: both zeros, subnormals, infinities and NaNs.
patterns = st.lists(st.integers(0, 0xFFFF), min_size=0, max_size=200).map(lambda bits: np.array(bits, np.uint16))
ordinary = st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=200).map(
    lambda values: np.array(values, np.float16).view(np.uint16)
)
few_values = st.lists(st.sampled_from([0.0, -0.0, 6e-8, 1.0, -2.5, 65504.0]), min_size=1, max_size=60).map(
    lambda values: np.array(values, np.float16).view(np.uint16)
)
depths = st.one_of(patterns, ordinary, few_values)
percentiles = st.one_of(st.sampled_from([0, 2, 5, 50, 95, 98, 100]), st.floats(0, 100))


def same_bits(one: float, other: float) -> bool:
    return np.float64(one).tobytes() == np.float64(other).tobytes()


@given(bits=depths, q=percentiles)
def test_percentiles_are_numpy_s_to_the_bit(bits: np.ndarray, q: float) -> None:
    values = bits.view(np.float16)
    histogram = DepthHistogram.of(values)
    finite = values[np.isfinite(values)].astype(np.float64) + 0.0  # -0.0 counts as 0.0
    assert histogram.count == finite.size
    assert histogram.num_nan == np.isnan(values).sum()
    assert histogram.num_inf == np.isinf(values).sum()
    if not finite.size:
        with pytest.raises(ValueError, match="no finite value"):
            histogram.percentile(q)
        return
    assert same_bits(histogram.percentile(q), np.percentile(finite, q))
    assert same_bits(histogram.min, finite.min())
    assert same_bits(histogram.max, finite.max())


@given(bits=depths, data=st.data())
def test_parts_in_any_order_make_the_whole(bits: np.ndarray, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(bits)))), int)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bits)), max_size=6)))
    parts = [DepthHistogram.of(part.view(np.float16)) for part in np.split(bits[order], cuts)]
    data.draw(st.randoms()).shuffle(parts)
    merged = sum(parts, DepthHistogram.empty())
    assert (merged.counts == DepthHistogram.of(bits.view(np.float16)).counts).all()
    restored = DepthHistogram.from_bytes(merged.to_bytes())
    assert (restored.counts == merged.counts).all()
    assert len(merged.to_bytes()) <= 512 * 1024


@given(bits=few_values, times=st.integers(2**32, 2**45), q=percentiles)
def test_counts_beyond_what_numpy_can_hold(bits: np.ndarray, times: int, q: float) -> None:
    """Each value repeated `times`: the sorted values' entry i is entry i // times of the short list."""
    values = bits.view(np.float16)
    histogram = DepthHistogram(DepthHistogram.of(values).counts * times)
    finite = np.sort(values.astype(np.float64) + 0.0)
    last = len(finite) * times - 1
    place = np.float64(last) * (np.float64(q) / 100)
    below = min(int(place), last)
    a, b = (finite[min(i, last) // times] for i in (below, below + 1))
    t = place - below
    expected = b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t
    assert histogram.count == last + 1
    assert same_bits(histogram.percentile(q), expected)


def test_many_values_count_in_batches() -> None:
    values = np.random.default_rng(0).normal(size=(3, 700, 800)).astype(np.float16)
    histogram = DepthHistogram.of(values)
    for q in (2, 5, 50, 95, 98):
        assert same_bits(histogram.percentile(q), np.percentile(values.astype(np.float64), q))


def test_histogram_refuses_what_it_cannot_count() -> None:
    with pytest.raises(TypeError, match="float16"):
        DepthHistogram.of(np.zeros(3, np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="524288 bytes"):
        DepthHistogram.from_bytes(b"short")
    with pytest.raises(ValueError, match=r"not in 0\.\.100"):
        DepthHistogram.of(np.ones(1, np.float16)).percentile(101)


def test_stored_depth_saturates_and_keeps_what_is_not_finite() -> None:
    stored = store_depth(np.array([1e9, -1e9, np.inf, np.nan, -0.0, 0.5], np.float32))
    assert stored.dtype == np.float16
    assert stored[:3].tolist() == [65504.0, -65504.0, np.inf]
    assert np.isnan(stored[3])
    assert not np.signbit(stored[4])
    assert stored[5] == 0.5


def test_no_value_is_drawn_far_and_infinity_at_the_range_s_ends() -> None:
    depth = np.array([[[np.nan, np.inf, -np.inf, 1.0]]], np.float16)
    assert normalize_depth(depth, 0.0, 2.0)[0, 0, :, 0].tolist() == [255, 255, 0, 127]
