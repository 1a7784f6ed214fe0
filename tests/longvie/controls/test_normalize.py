from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from longvie.controls.normalize import depth_range, normalize_depth


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
