"""Neural trackers load from a checkout. The checkouts here are ours: the interfaces around trivial networks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from longvie.controls.loading import load_point_tracker
from longvie.controls.tracks import TrackError

POINTS = np.array([[4.5, 5.5], [30.5, 8.5]], np.float32)

COTRACKER = """
import torch

class CoTrackerPredictor(torch.nn.Module):
    def __init__(self, checkpoint="x.pth", offline=True, v2=False, window_len=60):
        super().__init__()
        assert checkpoint is None and offline and not v2
        self.model = torch.nn.Linear(1, 2)

    def forward(self, video, queries=None):
        assert video.shape[1:3] == (3, 3) and video.max() > 1  # 0..255
        assert (queries[..., 0] == 0).all()
        steps = torch.arange(video.shape[1])[None, :, None, None]
        tracks = queries[:, None, :, 1:] + steps * self.model.bias
        return tracks, torch.ones(tracks.shape[:3], dtype=torch.bool)
"""
SPATRACKER_NETWORK = """
import torch

class SpaTracker(torch.nn.Linear):
    def __init__(self, stride, S, add_space_attn, space_depth, time_depth):
        super().__init__(1, 2)
"""
SPATRACKER = """
import torch

class SpaTrackerPredictor(torch.nn.Module):
    def __init__(self):
        raise AssertionError("would unpickle")

    def forward(self, video, video_depth=None, queries=None, wind_length=8):
        assert video_depth.shape == (3, 1, 16, 40) and wind_length == 12
        xy = queries[:, None, :, 1:].expand(-1, 3, -1, -1)
        z = video_depth.mean().expand(1, 3, xy.shape[2], 1)
        return torch.cat([xy, z], dim=-1), torch.ones(xy.shape[:3], dtype=torch.bool), None
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of code that is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cotracker", "models")]:
        del sys.modules[name]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 40, 3), np.uint8)


def test_cotracker_runs_from_a_checkout(checkout: Path, frames: np.ndarray) -> None:
    write(checkout / "cotracker" / "predictor.py", COTRACKER)
    save_file({"weight": torch.zeros(2, 1), "bias": torch.tensor([6.0, 0.0])}, checkout / "scaled_offline.safetensors")
    tracker = load_point_tracker(f"cotracker3:{checkout}")
    assert (tracker.name, tracker.needs_torch) == ("cotracker3", True)
    tracks = tracker(frames, POINTS, np.full((3, 16, 40), 7, np.uint8))
    np.testing.assert_allclose(tracks.points[:, 0], [[4.5, 5.5], [10.5, 5.5], [16.5, 5.5]])
    assert tracks.visibility.tolist() == [[True, True], [True, True], [True, False]]  # the second leaves the frame
    assert tracks.depth is not None
    assert tracks.depth.tolist() == [7, 7]


def test_spatialtracker_takes_the_dense_control_as_depth(checkout: Path, frames: np.ndarray) -> None:
    write(checkout / "models" / "spatracker" / "predictor.py", SPATRACKER)
    write(checkout / "models/spatracker/models/core/spatracker/spatracker.py", SPATRACKER_NETWORK)
    tensors = {"weight": torch.zeros(2, 1), "bias": torch.zeros(2), "optimizer.step": torch.ones(1)}
    save_file(tensors, checkout / "spaT_final.safetensors")
    tracker = load_point_tracker(f"spatialtracker:{checkout}")
    tracks = tracker(frames, POINTS, np.full((3, 16, 40), 7, np.uint8))
    np.testing.assert_allclose(tracks.points, np.broadcast_to(POINTS, (3, 2, 2)))
    with pytest.raises(TrackError, match="needs depth"):
        tracker(frames, POINTS)


def test_what_is_missing_is_named(checkout: Path) -> None:
    with pytest.raises(TrackError, match=r"cotracker3: scaled_offline.safetensors is needed; .* convert it once"):
        load_point_tracker("cotracker3")
    (checkout / "scaled_offline.pth").touch()  # the published pickle is never read
    with pytest.raises(TrackError, match=r"has no scaled_offline.safetensors; get https://.*scaled_offline.pth"):
        load_point_tracker(f"cotracker3:{checkout}")
    save_file({"a": torch.ones(1)}, checkout / "scaled_offline.safetensors")
    with pytest.raises(
        TrackError, match=r"its code cannot be imported .* give a checkout of https://github.com/facebook"
    ):
        load_point_tracker(f"cotracker3:{checkout}")
    write(checkout / "cotracker" / "predictor.py", COTRACKER)
    with pytest.raises(TrackError, match="does not fit Linear: 3 keys differ"):
        load_point_tracker(f"cotracker3:{checkout}")
    with pytest.raises(TrackError, match=r"spatialtracker: .* has no spaT_final.safetensors"):
        load_point_tracker(f"spatialtracker:{checkout}")
