from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longvie.metrics import temporal
from longvie.segments import Segment
from longvie.video import fit_frames, read_frames
from tests.longvie.metrics.frames import FILM


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return fit_frames(read_frames(FILM, 0, 8), 96, 128).numpy()


def moving(count: int, step: float, height: int = 96, width: int = 128) -> np.ndarray:
    """A soft texture that moves right by `step` pixels a frame."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = [(rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.5), rng.uniform(0, 6)) for _ in range(8)]
    frames = [sum(np.sin(a * (x - step * t) + b * y + c) for a, b, c in waves) for t in range(count)]
    return np.repeat((127 + 14 * np.stack(frames)).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def at(index: int, count: int) -> Segment:
    return Segment(index=index, start=0, num_frames=count, num_valid=count)


def warping(made: np.ndarray, truth: np.ndarray) -> float:
    flow = temporal.DisFlow()
    errors = []
    for t in range(len(truth) - 1):
        there, back = flow(truth[t], truth[t + 1]), flow(truth[t + 1], truth[t])
        errors.append(temporal.warping_error(made[t], made[t + 1], there, temporal.visible(there, back)))
    return float(np.nanmean(errors))


def test_a_still_video_does_not_flicker(film: np.ndarray) -> None:
    still = np.repeat(film[:1], 4, axis=0)
    assert (temporal.flickering(temporal.jumps(still)) == 1).all()


@given(seed=st.integers(0, 2**16), amount=st.integers(2, 40))
@settings(max_examples=20, deadline=None)
def test_noise_makes_it_flicker_more(seed: int, amount: int) -> None:
    still = np.full((3, 16, 16, 3), 128, np.uint8)
    noise = np.random.default_rng(seed).normal(0, 1, still.shape)
    less, more = (np.clip(still + k * noise, 0, 255).astype(np.uint8) for k in (amount, 2 * amount))
    scores = [temporal.flickering(temporal.jumps(frames)).mean() for frames in (still, less, more)]
    assert scores[0] > scores[1] > scores[2]


def test_flow_finds_a_known_shift() -> None:
    frames = moving(2, 3.0)
    flow = temporal.DisFlow()(frames[0], frames[1])
    assert np.median(flow[..., 0]) == pytest.approx(3, abs=0.2)
    assert np.median(flow[..., 1]) == pytest.approx(0, abs=0.2)
    assert temporal.largest_motion(flow) >= np.linalg.norm(flow, axis=-1).mean()


def test_frames_that_follow_the_true_motion_warp_onto_each_other(film: np.ndarray) -> None:
    truth = moving(6, 3.0)
    still = np.repeat(truth[:1], 6, axis=0)
    noise = np.random.default_rng(0).normal(0, 12, truth.shape)
    noisy = np.clip(truth + noise, 0, 255).astype(np.uint8)
    shuffled = truth[[0, 3, 1, 5, 2, 4]]
    assert warping(truth, truth) < 1e-3
    for worse in (still, noisy, shuffled):
        assert warping(worse, truth) > 3 * warping(truth, truth)


def test_what_is_hidden_in_the_next_frame_does_not_count() -> None:
    there = np.zeros((8, 8, 2), np.float32)
    there[..., 0] = 6  # the right side leaves the frame
    seen = temporal.visible(there, -there)
    assert seen[:, :2].all()
    assert not seen[:, 2:].any()
    frames = np.zeros((8, 8, 3), np.uint8)
    assert math.isnan(temporal.warping_error(frames, frames, there, np.zeros((8, 8), bool)))


def test_a_seam_shows_as_a_jump() -> None:
    frames = moving(6, 2.0)
    smooth = temporal.boundary_ratio(temporal.jumps(frames), at(1, 6))
    assert smooth == pytest.approx(1, abs=0.15)
    jumped = frames.copy()
    jumped[1:] = np.clip(jumped[1:].astype(int) + 40, 0, 255)
    assert temporal.boundary_ratio(temporal.jumps(jumped), at(1, 6)) > 2 * smooth


def test_there_is_no_ratio_without_a_seam_or_motion() -> None:
    assert math.isnan(temporal.boundary_ratio(temporal.jumps(moving(4, 2.0)), at(0, 4)))
    assert math.isnan(temporal.boundary_ratio(temporal.jumps(moving(2, 2.0)), at(1, 2)))
    assert math.isnan(temporal.boundary_ratio(np.zeros(3), at(1, 4)))


def test_dynamic_is_what_moves_often_enough() -> None:
    fast, slow = np.full(15, 7.0), np.full(15, 5.0)
    assert temporal.is_dynamic(fast, 256, 300) == 1
    assert temporal.is_dynamic(slow, 256, 300) == 0
    assert temporal.is_dynamic(slow, 128, 300) == 1  # relative to the short side
    assert temporal.is_dynamic(np.where(np.arange(15) < 3, 7.0, 0.0), 256, 256) == 0  # 3 of the 4 pairs it takes
