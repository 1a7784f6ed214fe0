"""Thumbnails and histograms: what they show is what was measured."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from longvie.controls.normalize import DepthHistogram, store_depth
from pipelines.report.pictures import PLOT_HEIGHT, PLOT_WIDTH, THUMBNAIL_WIDTH, Plot, plot_histogram, thumbnail


def decoded(uri: str) -> np.ndarray:
    head, data = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def plot(depth: np.ndarray, polarity: str = "depth") -> Plot | None:
    histogram = DepthHistogram.of(store_depth(depth.astype(np.float32)))
    if not histogram.count:
        return plot_histogram(histogram.counts, 0.0, 0.0, 0.0, 0.0, polarity)
    p2, p5, p95, p98 = (histogram.percentile(q) for q in (2, 5, 95, 98))
    return plot_histogram(histogram.counts, p2, p5, p95, p98, polarity)


def heights(shown: Plot) -> list[float]:
    """Of the bars, 0..1, read back from the path."""
    tops = re.findall(r"V([\d.]+)H", shown.path)
    return [1 - float(top) / PLOT_HEIGHT for top in tops]


@pytest.mark.parametrize(("height", "width", "shown"), [(352, 640, 158), (640, 352, 524), (2, 4000, 1), (16, 16, 288)])
def test_a_thumbnail_keeps_shape_and_colour(height: int, width: int, shown: int) -> None:
    image = np.zeros((height, width, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
    small = decoded(thumbnail(image))
    assert small.shape == (shown, THUMBNAIL_WIDTH, 3)
    assert np.abs(small.astype(int).mean((0, 1)) - (200, 40, 90)).max() < 4
    assert thumbnail(image) == thumbnail(image.copy())


def test_bars_are_as_high_as_values_are_frequent() -> None:
    values = np.repeat(np.linspace(1, 2, 11), [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1])
    shown = plot(values)
    assert shown is not None
    bars = np.array(heights(shown))
    there = bars[bars > 0.01]
    assert there.tolist() == pytest.approx(np.array([1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]) / 6, abs=0.01)
    assert shown.path.startswith("M0 80V")
    assert shown.path.endswith("H320.0V80Z")


def test_percentiles_stand_where_they_are() -> None:
    shown = plot(np.linspace(0, 10, 2001))
    assert shown is not None
    assert (shown.first, shown.last, shown.outside) == (0, 10, 0)
    assert shown.low_x == pytest.approx(PLOT_WIDTH * 0.05, abs=0.2)
    assert shown.high_x == pytest.approx(PLOT_WIDTH * 0.95, abs=0.2)
    assert (shown.low_grey, shown.high_grey) == (0, 255)  # near is black


def test_disparity_is_large_where_near() -> None:
    shown = plot(np.linspace(0, 10, 2001), "disparity")
    assert shown is not None
    assert (shown.low_grey, shown.high_grey) == (255, 0)


def test_outliers_do_not_squeeze_the_rest() -> None:
    values = np.concatenate([np.linspace(1, 2, 990), np.full(10, 60000.0)])
    shown = plot(values)
    assert shown is not None
    assert shown.last < 2.3
    assert shown.outside == pytest.approx(0.01)


def test_one_value_only_and_none() -> None:
    for value in (0.0, 3.5, -2.0):
        shown = plot(np.full(7, value))
        assert shown is not None
        assert shown.first < value < shown.last
        assert sum(bar > 0 for bar in heights(shown)) == 1
    assert plot(np.array([np.nan, np.inf])) is None


@given(
    values=st.lists(st.floats(-60000, 60000, width=16), min_size=1, max_size=60),
    polarity=st.sampled_from(["depth", "disparity"]),
)
def test_any_depth_can_be_drawn(values: list[float], polarity: str) -> None:
    shown = plot(np.array(values), polarity)
    assert shown is not None
    bars = heights(shown)
    assert max(bars) == 1
    assert all(0 <= bar <= 1 for bar in bars)
    assert 0 <= shown.low_x <= shown.high_x <= PLOT_WIDTH
    # a percentile lies between two values: of few, one more on each side may lie beyond it
    assert 0 <= shown.outside * len(values) <= 0.04 * len(values) + 2
    assert "nan" not in shown.path
