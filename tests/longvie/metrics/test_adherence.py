from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longvie.controls.tracks import Tracks
from longvie.metrics import adherence


def ramp(count: int = 2, height: int = 40, width: int = 60) -> np.ndarray:
    """Grey 1..254 with a step in the middle, so that it has an edge and nothing clipped."""
    row = np.linspace(1, 110, width)
    row[width // 2 :] += 144
    return np.broadcast_to(row.astype(np.uint8), (count, height, width)).copy()


def tracks(points: np.ndarray, visibility: np.ndarray | None = None) -> Tracks:
    seen = np.ones(points.shape[:2], bool) if visibility is None else visibility
    return Tracks(points=points.astype(np.float32), visibility=seen)


def straight(count: int = 6, num: int = 20) -> np.ndarray:
    start = np.random.default_rng(0).uniform(60, 180, (num, 2))
    return start + np.arange(count)[:, None, None] * np.array([2.0, 1.0])


@given(scale=st.floats(0.1, 50), shift=st.floats(-3, 3), polarity=st.sampled_from(["depth", "disparity"]))
@settings(max_examples=30, deadline=None)
def test_depth_as_the_control_says_is_perfect_at_any_scale(scale: float, shift: float, polarity: str) -> None:
    grey = ramp()
    low, high = 1.0, 9.0
    depth, _, _ = adherence.control_depth(grey, low, high, polarity)
    scores = adherence.depth_adherence(scale / depth + shift, "disparity", grey, low, high, polarity)
    assert scores["depth_absrel"] == pytest.approx(0, abs=1e-3)
    assert scores["depth_delta1"] == 1
    assert scores["depth_si_rmse"] == pytest.approx(0, abs=2e-3)
    assert scores["depth_edge_f1"] == 1


def test_metric_depth_is_understood_too() -> None:
    grey = ramp()
    depth, _, _ = adherence.control_depth(grey, 2.0, 8.0, "depth")
    scores = adherence.depth_adherence(depth, "depth", grey, 2.0, 8.0, "depth")
    assert scores["depth_absrel"] == pytest.approx(0, abs=1e-3)


def test_worse_depth_scores_worse() -> None:
    grey = ramp()
    disparity = 1 / adherence.control_depth(grey, 1.0, 9.0, "depth")[0]
    noise = np.random.default_rng(0).normal(0, 1, disparity.shape)
    scores = [
        adherence.depth_adherence(disparity + amount * noise, "disparity", grey, 1.0, 9.0, "depth")
        for amount in (0.0, 0.02, 0.2)
    ]
    for name, sign in (("depth_absrel", 1), ("depth_si_rmse", 1), ("depth_delta1", -1)):
        one, two, three = (sign * said[name] for said in scores)
        assert one < two < three, name
    flat = adherence.depth_adherence(np.ones_like(disparity), "disparity", grey, 1.0, 9.0, "depth")
    assert flat["depth_edge_f1"] == 0


def test_a_control_that_is_clipped_everywhere_says_nothing() -> None:
    grey = np.zeros((1, 8, 8), np.uint8)
    scores = adherence.depth_adherence(np.ones((1, 8, 8), np.float32), "disparity", grey, 1.0, 9.0, "depth")
    assert all(math.isnan(value) for value in scores.values())


def test_equal_tracks_are_perfect() -> None:
    truth = tracks(straight())
    assert adherence.track_adherence(truth, truth, 256, 256) == {
        "track_delta_avg": 1.0,
        "track_jaccard": 1.0,
        "track_occlusion": 1.0,
    }


@given(off=st.floats(0.01, 40))
@settings(max_examples=30, deadline=None)
def test_delta_counts_thresholds_by_distance(off: float) -> None:
    truth = straight()
    scores = adherence.track_adherence(tracks(truth + np.array([off, 0])), tracks(truth), 256, 256)
    expected = np.mean([off < pixels * (1 - 1e-5) for pixels in adherence.DELTA_PIXELS])
    if min(abs(off - pixels) for pixels in adherence.DELTA_PIXELS) > 1e-3:
        assert scores["track_delta_avg"] == pytest.approx(expected)


def test_distances_are_those_at_256() -> None:
    truth = straight()
    small = adherence.track_adherence(tracks(truth / 4 + np.array([1.0, 0])), tracks(truth / 4), 64, 64)
    large = adherence.track_adherence(tracks(truth + np.array([4.0 - 1e-3, 0])), tracks(truth), 256, 256)
    assert small["track_delta_avg"] == pytest.approx(2 / 5)  # 4 px: not within 1, 2 and 4
    assert large["track_delta_avg"] == pytest.approx(3 / 5)


def test_lost_points_cost_jaccard_and_occlusion_accuracy() -> None:
    truth = straight()
    seen = np.ones(truth.shape[:2], bool)
    lost = seen.copy()
    lost[:, :10] = False
    scores = adherence.track_adherence(tracks(truth, lost), tracks(truth, seen), 256, 256)
    assert scores["track_delta_avg"] == 1
    assert scores["track_jaccard"] == scores["track_occlusion"] == pytest.approx(0.5)
    unseen = adherence.track_adherence(tracks(truth), tracks(truth, ~seen), 256, 256)
    assert all(math.isnan(value) for value in unseen.values())


def test_colour_along_exact_tracks() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    frames = np.stack([np.roll(picture, 2 * t, axis=1) for t in range(4)])
    start = np.stack(np.meshgrid(np.arange(10, 60, 5), np.arange(5, 60, 5)), axis=-1).reshape(-1, 2) + 0.5
    truth = tracks(start + np.arange(4)[:, None, None] * np.array([2.0, 0.0]))
    assert adherence.track_colour(frames, truth) == 0
    assert adherence.track_colour(np.stack([picture] * 4), truth) > 20
    assert math.isnan(adherence.track_colour(frames[:1], tracks(start[None])))
