from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest

from longvie.controls.depth import DepthError
from longvie.controls.depth_files import SuppliedDepth, fit_depth
from longvie.media import fit_frames, write_video

HEIGHT, WIDTH, FRAMES = 24, 32, 4


@pytest.fixture
def depth() -> np.ndarray:
    ramp = np.linspace(0.1, 0.9, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    return np.stack([ramp * (1 - 0.1 * t) for t in range(FRAMES)])


def write_png(folder: Path, depth: np.ndarray) -> Path:
    folder.mkdir()
    for t, one in enumerate(depth):
        cv2.imwrite(str(folder / f"{t:03d}.png"), np.rint(one * 65535).astype(np.uint16))
    return folder


def write_exr(folder: Path, depth: np.ndarray) -> Path:
    folder.mkdir()
    for t, one in enumerate(depth):
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, {"Z": one}).write(str(folder / f"{t:03d}.exr"))
    return folder


def write_npys(folder: Path, depth: np.ndarray) -> Path:
    folder.mkdir()
    for t, one in enumerate(depth):
        np.save(folder / f"{t:03d}.npy", one)
    return folder


def write_npy(path: Path, depth: np.ndarray) -> Path:
    np.save(path.with_suffix(".npy"), depth)
    return path.with_suffix(".npy")


def write_grey(path: Path, depth: np.ndarray) -> Path:
    grey = np.rint(depth * 255).astype(np.uint8)
    write_video(path.with_suffix(".mp4"), np.repeat(grey[..., None], 3, axis=3), 8)
    return path.with_suffix(".mp4")


@pytest.mark.parametrize(
    ("write", "tolerance"),
    [(write_png, 1e-5), (write_exr, 0), (write_npys, 0), (write_npy, 0), (write_grey, 0.02)],
)
def test_every_format_gives_its_frames_back(tmp_path: Path, depth: np.ndarray, write, tolerance: float) -> None:
    supplied = SuppliedDepth(str(write(tmp_path / "depth", depth)), polarity="disparity")
    assert supplied.num_frames == FRAMES
    assert supplied.polarity == "disparity"
    made = supplied.read(1, 3, HEIGHT, WIDTH)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, depth[1:3], atol=tolerance + 1e-7)


def test_metric_values_beyond_one_are_kept(tmp_path: Path, depth: np.ndarray) -> None:
    supplied = SuppliedDepth(str(write_exr(tmp_path / "depth", depth * 1000)), polarity="depth")
    np.testing.assert_array_equal(supplied.read(0, 1, HEIGHT, WIDTH)[0], depth[0] * np.float32(1000))


def test_depth_follows_the_source_s_or_the_prepared_frames(tmp_path: Path, depth: np.ndarray) -> None:
    supplied = SuppliedDepth(str(write_npy(tmp_path / "depth", depth)), polarity="depth")
    timeline = [0, 0, 1, 1, 2, 3, 3]
    of_source = supplied.for_video(FRAMES, timeline)
    assert of_source.num_frames == len(timeline)
    np.testing.assert_array_equal(of_source.read(1, 3, HEIGHT, WIDTH), depth[[0, 1]])
    of_prepared = supplied.for_video(99, [0, 20, 40, 60])
    np.testing.assert_array_equal(of_prepared.read(0, 4, HEIGHT, WIDTH), depth)
    with pytest.raises(DepthError, match=r"has 4 frames, but its video has 5 \(3 after resampling\)"):
        supplied.for_video(5, [0, 1, 2])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(12, 16), (24, 20), (12, 40), (48, 64), (31, 17)])
def test_depth_is_fitted_as_frames_are(depth: np.ndarray, fit, size: tuple[int, int]) -> None:
    """The geometry of a smooth ramp agrees with what `fit_frames` makes of it."""
    made = fit_depth(depth[0], *size, fit)
    grey = np.repeat((depth[:1, ..., None] * 255).astype(np.uint8), 3, axis=3)
    expected = fit_frames(grey, *size, fit)[0, ..., 0]
    assert made.shape == size
    border = np.isnan(made)
    assert (expected[border] == 0).all()
    assert border.any() == (fit == "pad" and (expected == 0).any())
    assert np.abs(made[~border] * 255 - expected[~border]).max() < 12


def test_shrinking_averages_but_never_spreads_what_is_not_finite() -> None:
    depth = np.array([[1.0, 3.0], [1.0, 3.0]], np.float32)
    assert fit_depth(depth, 1, 1, "stretch").tolist() == [[2.0]]
    holes = np.array([[1.0, np.inf, 1.0, 1.0]] * 4, np.float32)
    assert np.isfinite(fit_depth(holes, 2, 2, "stretch")).sum() >= 2
    grown = fit_depth(np.array([[0.0, 1.0]], np.float32), 4, 8, "stretch")
    assert set(np.unique(grown)) == {0.0, 1.0}


class Evil:
    def __reduce__(self) -> tuple:
        return (Path("/nonexistent").touch, ())


def test_mistakes_are_named_in_one_line(tmp_path: Path, depth: np.ndarray) -> None:
    def fails(uri: Path, match: str, read: bool = False) -> None:
        with pytest.raises(DepthError, match=match) as caught:
            supplied = SuppliedDepth(str(uri), polarity="depth")
            if read:
                supplied.read(0, 1, HEIGHT, WIDTH)
        assert "\n" not in str(caught.value)

    fails(tmp_path / "missing.mp4", "missing.mp4 does not exist")
    fails(tmp_path / "missing.npy", "missing.npy does not exist")
    (tmp_path / "text.mp4").write_text("not a video")
    fails(tmp_path / "text.mp4", "not a readable video")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", r"holds no \.png, \.exr or \.npy files")
    mixed = write_png(tmp_path / "mixed", depth)
    np.save(mixed / "9.npy", depth[0])
    fails(mixed, r"\.npy and \.png files; give one file a frame, all of one kind")
    eight = tmp_path / "eight"
    eight.mkdir()
    cv2.imwrite(str(eight / "0.png"), np.zeros((4, 4), np.uint8))
    fails(eight, "uint8 with 1 channels; give 16-bit grey PNG", read=True)
    (eight / "0.png").write_bytes(b"garbage")
    fails(eight, "not a readable PNG", read=True)
    fails(write_npy(tmp_path / "flat", depth[0]), r"shape \(24, 32\); give \(frames, height, width\)")
    fails(write_npy(tmp_path / "whole", (depth * 9).astype(np.int32)), "int32 .* give float", read=True)
    exr = tmp_path / "exr"
    exr.mkdir()
    (exr / "0.exr").write_bytes(b"garbage")
    fails(exr, "not a readable EXR", read=True)
    (tmp_path / "evil.npy").write_bytes(pickle.dumps(Evil()))
    fails(tmp_path / "evil.npy", "not a readable .npy of numbers")
    np.save(tmp_path / "objects.npy", np.array([Evil()], object), allow_pickle=True)
    fails(tmp_path / "objects.npy", "not a readable .npy of numbers")


def test_frames_that_are_not_there_are_refused(tmp_path: Path, depth: np.ndarray) -> None:
    supplied = SuppliedDepth(str(write_npy(tmp_path / "depth", depth)), polarity="depth")
    with pytest.raises(DepthError, match=r"has 4 frames; 3\.\.4 were asked for"):
        supplied.read(3, 5, HEIGHT, WIDTH)
