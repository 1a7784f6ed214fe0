"""Edges and keypoints: controls drawn by controlnet-aux, with random weights in the published names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from longvie.controls.depth import DepthError
from longvie.controls.edges import load_dense_detector
from longvie.controls.keypoints import load_pose_detector
from longvie.controls.tracks import TrackError

SIZE = (44, 70)


@pytest.fixture
def frames() -> np.ndarray:
    frames = np.zeros((2, *SIZE, 3), np.uint8)
    frames[:, 10:30, 20:50] = 200
    return frames


def save(network: torch.nn.Module, path: Path, *, drop_first_name: bool = False) -> None:
    tensors = network.state_dict()
    save_file({k.partition(".")[2] if drop_first_name else k: v.contiguous() for k, v in tensors.items()}, path)


def test_canny_marks_edges_only(frames: np.ndarray) -> None:
    detector = load_dense_detector("canny")
    made = detector(frames)
    assert made.shape == frames.shape
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made[0, ..., 0], cv2.Canny(frames[0], 100, 200))
    assert made[0, 8:12, 30].max() == 255
    assert (made == made[..., :1]).all()
    assert not made[0, 20, 30].any()


def test_lineart_and_softedge_run_from_safetensors(tmp_path: Path, frames: np.ndarray) -> None:
    from controlnet_aux.hed import ControlNetHED_Apache2
    from controlnet_aux.lineart import Generator

    torch.manual_seed(0)
    save(Generator(3, 1, 3), tmp_path / "sk_model.safetensors")
    save(ControlNetHED_Apache2(), tmp_path / "ControlNetHED.safetensors")
    prints = set()
    for name in ("lineart", "softedge"):
        detector = load_dense_detector(f"{name}:{tmp_path}", resolution=64)
        made = detector(frames[:1])
        assert made.shape == (1, *SIZE, 3)
        assert made.dtype == np.uint8
        prints.add(detector.fingerprint)
    assert len(prints) == 2


@pytest.mark.slow
def test_openpose_runs_from_safetensors(tmp_path: Path, frames: np.ndarray) -> None:
    from controlnet_aux.open_pose.body import bodypose_model

    torch.manual_seed(0)
    network = bodypose_model()
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and "Mconv7" in name:
            torch.nn.init.constant_(parameter, -1.0)  # no joint anywhere
    save(network, tmp_path / "body_pose_model.safetensors", drop_first_name=True)
    detector = load_pose_detector(f"openpose:{tmp_path}", resolution=64)
    made = detector(frames[:1])
    assert made.shape == (1, *SIZE, 3)
    assert not made.any()  # nobody is there: black
    with pytest.raises(TrackError, match=r"openpose-full: .* has no hand_pose_model.safetensors"):
        load_pose_detector(f"openpose-full:{tmp_path}")


def test_missing_weights_and_code_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DepthError, match=r"lineart: .* has no sk_model.safetensors; get https.*sk_model.pth and convert"
    ):
        load_dense_detector(f"lineart:{tmp_path}")
    with pytest.raises(DepthError, match=r"softedge: ControlNetHED.safetensors is needed"):
        load_dense_detector("softedge")
    with pytest.raises(DepthError, match=r"no dense control 'sketch'; give depth, canny"):
        load_dense_detector("sketch")
    with pytest.raises(TrackError, match=r"openpose: body_pose_model.safetensors is needed"):
        load_pose_detector("openpose")
    with pytest.raises(TrackError, match=r"dwpose needs the packages mmcv, mmdet and mmpose"):
        load_pose_detector(f"dwpose:{tmp_path}")
    with pytest.raises(TrackError, match=r"no pose detector 'alphapose'"):
        load_pose_detector("alphapose")
