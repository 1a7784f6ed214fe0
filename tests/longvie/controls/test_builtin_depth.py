"""The built-in depth estimator loads, is small and repeatable, and sees more than "low is near"."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from longvie.controls.builtin_depth import AREA, WEIGHTS, BuiltinDepth, inner_size
from longvie.training.depth_metrics import depth_errors, vertical_gradient
from longvie.training.depth_scenes import TEST_SEEDS, render_views

MAX_BYTES = 4_000_000
SCENE_CAP = 80.0


@pytest.fixture(scope="module")
def estimator() -> BuiltinDepth:
    return BuiltinDepth()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return render_views(TEST_SEEDS[0], 3, 90, 160)[0]


def test_it_is_small_and_has_a_card() -> None:
    assert WEIGHTS.stat().st_size <= MAX_BYTES
    assert (WEIGHTS.parent / "README.md").is_file()


def test_its_name_polarity_and_fingerprint(estimator: BuiltinDepth) -> None:
    assert (estimator.name, estimator.polarity) == ("builtin", "disparity")
    assert estimator.fingerprint == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


@pytest.mark.parametrize(("height", "width"), [(90, 160), (37, 41), (200, 60), (16, 300)])
def test_any_size(estimator: BuiltinDepth, height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    disparity = estimator(frames)
    assert disparity.shape == (2, height, width)
    assert disparity.dtype == np.float32
    assert np.isfinite(disparity).all()
    assert (disparity >= 0).all()


def test_no_frames_give_no_disparity(estimator: BuiltinDepth) -> None:
    assert estimator(np.empty((0, 32, 48, 3), np.uint8)).shape == (0, 32, 48)


def test_the_inner_size_keeps_area_and_proportions() -> None:
    height, width = inner_size(352, 640)
    assert height % 16 == width % 16 == 0
    assert height * width == pytest.approx(AREA, rel=0.15)
    assert width / height == pytest.approx(640 / 352, rel=0.1)


def test_batching_changes_nothing(estimator: BuiltinDepth, frames: np.ndarray) -> None:
    together = estimator(frames)
    assert np.array_equal(together, np.concatenate([estimator(frame[None]) for frame in frames]))
    assert np.array_equal(together, estimator(frames))
    assert np.array_equal(together, BuiltinDepth()(frames))


def test_brighter_and_noisier_frames_keep_their_depth(estimator: BuiltinDepth, frames: np.ndarray) -> None:
    """What makes video flicker must not make depth flicker: 5 % more light and noise move it little."""
    rng = np.random.default_rng(0)
    changed = np.clip(frames * 1.05 + rng.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)
    before, after = estimator(frames), estimator(changed)
    assert np.abs(after - before).mean() < 0.15 * before.std()


def test_it_beats_the_vertical_gradient_on_held_out_scenes(estimator: BuiltinDepth) -> None:
    threads = cv2.getNumThreads(), torch.get_num_threads()
    errors = []
    for seed in TEST_SEEDS[:16]:
        frames, depth = render_views(seed, 1, 128, 224)
        valid = depth[0] < SCENE_CAP
        for predicted in (estimator(frames)[0], vertical_gradient(128, 224), np.ones((128, 224))):
            errors.append(depth_errors(predicted, depth[0], valid, SCENE_CAP))
    assert threads == (cv2.getNumThreads(), torch.get_num_threads()), "it leaves thread counts alone"
    for metric, better in (("absrel", -1), ("si_rmse", -1), ("delta1", 1)):
        ours, gradient, constant = np.array([getattr(e, metric) for e in errors]).reshape(-1, 3).mean(axis=0)
        assert better * (ours - gradient) > 0, metric
        assert better * (ours - constant) > 0, metric


def test_missing_weights_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors.*make depth"):
        BuiltinDepth(tmp_path / "nothing.safetensors")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"stem.0.weight": torch.zeros(24, 5, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        BuiltinDepth(tmp_path / "other.safetensors")
