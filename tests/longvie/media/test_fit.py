"""Frames at another size: centred, antialiased where they shrink, constant where they were constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvie.media import fit_frames

sides = st.integers(2, 60)


@given(sides, sides, sides, sides, st.sampled_from(["crop", "pad", "stretch"]))
def test_one_colour_stays_one_colour(height: int, width: int, to_height: int, to_width: int, fit: Any) -> None:
    fitted = fit_frames(np.full((2, height, width, 3), (9, 130, 255), np.uint8), to_height, to_width, fit)
    assert fitted.shape == (2, to_height, to_width, 3)
    inside = (fitted == (9, 130, 255)).all(-1)
    black = (fitted == 0).all(-1)
    assert (inside | black).all()
    assert inside.any()
    if fit != "pad":
        assert inside.all()


def test_pad_is_centred_and_crop_keeps_the_centre() -> None:
    frame = np.full((1, 20, 60, 3), 200, np.uint8)
    padded = fit_frames(frame, 40, 60, "pad")
    assert (padded[0, :10] == 0).all()
    assert (padded[0, 10:30] == 200).all()
    assert (padded[0, 30:] == 0).all()
    frame[:, :, :20] = 0
    frame[:, :, 40:] = 0
    assert (fit_frames(frame, 20, 20, "crop") == 200).all()


@pytest.mark.parametrize(("height", "contrast"), [(32, 1), (24, 45), (16, 1), (9, 20)])
@pytest.mark.parametrize("width", [48, 96, 150])
def test_fine_stripes_become_grey(height: int, contrast: float, width: int) -> None:
    """Also where the other side grows. Without antialiasing the contrast would stay 127."""
    stripes = np.zeros((1, 64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    for fitted in (
        fit_frames(stripes, height, width, "stretch"),
        fit_frames(stripes.transpose(0, 2, 1, 3).copy(), width, height, "stretch"),
    ):
        assert fitted.mean() == pytest.approx(127.5, abs=3)
        assert fitted.std() < contrast


def test_the_same_size_is_the_same_array() -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    assert fit_frames(frames, 8, 8, "pad") is frames
