from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longvie.controls.loading import load_point_tracker
from longvie.controls.lucas_kanade import LucasKanade
from longvie.controls.render import uniform_grid
from longvie.controls.tracks import SuppliedTracks, TrackError, Tracks, sample_depth
from longvie.segments import plan_segments

HEIGHT, WIDTH = 96, 160


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth random blobs at two scales: something to follow everywhere."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), s) * s for s in (1.5, 5)]
    total = sum(noise)
    return np.clip(128 + 60 * total / total.std(), 0, 255).astype(np.uint8)


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The image moved by `matrix` (2, 3), which maps pixels (x, y) with the first centre at one half."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    return cv2.warpAffine(image, shifted, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    zoom=st.floats(0.99, 1.01),
)
def test_moving_pictures_are_followed_within_half_a_pixel(seed: int, shift: tuple, zoom: float) -> None:
    image, points = texture(seed), uniform_grid(HEIGHT, WIDTH, 10, 16)
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    frames, truth = [], []
    for t in range(9):
        scale = zoom**t
        offset = centre * (1 - scale) + np.array(shift) * t
        frames.append(warp(image, np.hstack([np.eye(2) * scale, offset[:, None]])))
        truth.append(points * scale + offset)
    tracks = LucasKanade()(np.stack(frames), points)
    inner = (np.stack(truth) > 8).all(axis=(0, 2)) & (np.stack(truth) < (WIDTH - 8, HEIGHT - 8)).all(axis=(0, 2))
    seen = tracks.visibility & inner
    errors = np.linalg.norm(tracks.points - np.stack(truth), axis=-1)
    assert np.median(errors[seen]) < 0.5
    assert seen[-1].sum() > 0.9 * inner.sum()


def test_a_still_picture_stays_where_it_is() -> None:
    frames = np.repeat(texture(0)[None], 5, axis=0)
    points = uniform_grid(HEIGHT, WIDTH, 6, 8)
    tracks = LucasKanade()(frames, points)
    assert tracks.visibility.all()
    np.testing.assert_allclose(tracks.points, np.broadcast_to(points, tracks.points.shape), atol=0.01)


def test_points_that_leave_the_frame_become_invisible_for_good() -> None:
    wide = texture(1, HEIGHT, WIDTH + 120)
    frames = np.stack([wide[:, 6 * t : 6 * t + WIDTH] for t in [*range(10), *range(10, 0, -1)]])  # there and back
    points = uniform_grid(HEIGHT, WIDTH, 6, 10)
    tracks = LucasKanade()(frames, points)
    left = points[:, 0] < 50
    assert not tracks.visibility[-1, left].any()
    assert tracks.visibility[-1, points[:, 0] > 80].mean() > 0.9
    lost = ~tracks.visibility
    assert (lost[1:] >= lost[:-1]).all()


def test_covered_points_become_invisible() -> None:
    ground, cover = texture(2), texture(3)[:, :40]
    frames = []
    for t in range(13):
        frame = ground.copy()
        frame[:, 10 * t : 10 * t + 40] = cover
        frames.append(frame)
    frames = np.stack(frames)
    points = uniform_grid(HEIGHT, WIDTH, 8, 14)
    on_ground = points[:, 0] > 55  # not under the cover at first
    tracks = LucasKanade()(frames, points)
    passed = on_ground & (points[:, 0] < 115)
    assert (~tracks.visibility[-1, passed]).mean() > 0.9
    ahead = points[:, 0] > 125
    assert tracks.visibility[7, ahead].mean() > 0.9  # the cover has reached only x = 110


def test_a_cut_loses_the_points() -> None:
    tracks = LucasKanade()(np.stack([texture(4), texture(5)]), uniform_grid(HEIGHT, WIDTH, 8, 14))
    assert tracks.visibility[1].mean() < 0.2


def test_tracks_are_the_same_every_time_and_carry_the_grey_at_their_points() -> None:
    frames = np.stack([texture(6), texture(6)])
    points = uniform_grid(HEIGHT, WIDTH, 3, 4)
    depth = np.tile(np.arange(WIDTH, dtype=np.uint8), (2, HEIGHT, 1))
    one, two = (LucasKanade()(frames, points, depth) for _ in range(2))
    np.testing.assert_array_equal(one.points, two.points)
    assert one.depth is not None
    np.testing.assert_array_equal(one.depth, np.floor(points[:, 0]))
    assert one.render(HEIGHT, WIDTH).shape == (2, HEIGHT, WIDTH, 3)


def test_without_points_or_with_one_frame_there_is_nothing_to_follow() -> None:
    frames = texture(7)[None]
    assert LucasKanade()(frames, np.zeros((0, 2), np.float32)).points.shape == (1, 0, 2)
    tracks = LucasKanade()(frames, np.array([[5, 5], [-1, 5]], np.float32))
    assert tracks.visibility.tolist() == [[True, False]]


def test_tracks_survive_their_file(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 640, (5, 7, 2)).astype(np.float32)
    visibility = np.random.default_rng(1).random((5, 7)) > 0.5
    tracks = Tracks(points=points, visibility=visibility, depth=np.arange(7, dtype=np.float32))
    tracks.save(tmp_path / "a.npz")
    tracks.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = Tracks.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.points, points.astype(np.float16))
    np.testing.assert_array_equal(loaded.visibility, visibility)
    np.testing.assert_array_equal(loaded.depth, tracks.depth)
    with pytest.raises(TrackError, match=r"have no depth"):
        Tracks(points=points, visibility=visibility).render(8, 8)
    with pytest.raises(TrackError, match=r"differ"):
        Tracks(points=points[1:], visibility=visibility)


def test_depth_is_taken_from_the_pixel_that_holds_the_point() -> None:
    depth = np.arange(12).reshape(3, 4)
    points = np.array([[0.9, 0.9], [1.0, 0.0], [3.9, 2.9], [9, -5]], np.float32)
    assert sample_depth(depth, points).tolist() == [0, 1, 11, 3]


def test_supplied_tracks_give_each_segment_what_its_first_frame_shows(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 40, (12, 5, 2)).astype(np.float32)
    visibility = np.ones((12, 5), bool)
    visibility[0, 1] = visibility[8, 2] = False
    points[3, 4] = np.nan
    np.savez(tmp_path / "all.npz", tracks=points, visibility=visibility)
    supplied = SuppliedTracks(tmp_path / "all.npz", num_frames=12)
    first, second = (supplied.at(segment) for segment in plan_segments(12, 9))
    assert first.points.shape == (9, 4, 2)  # point 1 is hidden at the start
    assert second.points.shape == (4, 4, 2)
    np.testing.assert_array_equal(second.points[:, 0], points[8:12, 0])
    assert not first.visibility[3, 3]  # NaN is never visible
    assert np.isfinite(first.points).all()


def test_tracks_may_come_one_file_a_segment(tmp_path: Path) -> None:
    segments = plan_segments(12, 9)
    for segment in segments:
        np.savez(
            tmp_path / f"{segment.index}.npz",
            tracks=np.full((segment.num_valid, 2, 2), segment.index, np.float32),
            visibility=np.ones((segment.num_valid, 2), bool),
        )
    supplied = SuppliedTracks([tmp_path / "0.npz", tmp_path / "1.npz"])
    assert supplied.at(segments[1]).points.shape == (4, 2, 2)
    assert (supplied.at(segments[1]).points == 1).all()
    with pytest.raises(TrackError, match=r"tracks for 1 segments, not for segment 1"):
        SuppliedTracks([tmp_path / "0.npz"]).at(segments[1])
    with pytest.raises(TrackError, match=r"have 4 frames, segment 0 needs 9"):
        SuppliedTracks([tmp_path / "1.npz"]).at(segments[0])


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"tracks": np.zeros((3, 2, 2), np.float32)}, "has no array visibility"),
        ({"tracks": np.zeros((3, 2), np.float32), "visibility": np.ones((3, 2), bool)}, r"give float \(frames"),
        ({"tracks": np.zeros((3, 2, 2), int), "visibility": np.ones((3, 2), bool)}, "tracks are int64"),
        ({"tracks": np.zeros((3, 2, 2), np.float32), "visibility": np.ones((3, 2))}, "visibility is float64"),
        ({"tracks": np.zeros((3, 2, 2), np.float32), "visibility": np.ones((4, 2), bool)}, r"give bool \(3, 2\)"),
        ({"tracks": np.array([None], object), "visibility": np.ones((3, 2), bool)}, "not a readable .npz"),
    ],
)
def test_wrong_tracks_are_named(tmp_path: Path, arrays: dict, match: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(TrackError, match=match) as caught:
        SuppliedTracks(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_missing_and_broken_tracks_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrackError, match=r"missing.npz is not a readable"):
        SuppliedTracks(tmp_path / "missing.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 garbage")
    with pytest.raises(TrackError, match=r"broken.npz is not a readable"):
        SuppliedTracks(tmp_path / "broken.npz")
    np.savez(tmp_path / "short.npz", tracks=np.zeros((3, 2, 2), np.float32), visibility=np.ones((3, 2), bool))
    with pytest.raises(TrackError, match=r"have 3 frames, the video 5"):
        SuppliedTracks(tmp_path / "short.npz", num_frames=5)


def test_trackers_are_named() -> None:
    tracker = load_point_tracker()
    assert (tracker.name, tracker.needs_torch) == ("lucas-kanade", False)
    assert tracker.fingerprint != LucasKanade(window=15).fingerprint
    with pytest.raises(TrackError, match=r"there is no tracker 'optical'; give one of: lucas-kanade"):
        load_point_tracker("optical")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_tracking_worker_needs_no_torch_and_little_memory() -> None:
    code = """
import re, sys
from pathlib import Path
import numpy as np
from longvie.controls import depth, depth_files, edges, normalize
from longvie.controls.render import default_grid
from longvie.controls.loading import load_point_tracker
frames = np.random.default_rng(0).integers(0, 256, (81, 352, 640, 3), np.uint8)
points = default_grid(352, 640)
tracks = load_point_tracker()(frames[:3], points, np.zeros((3, 352, 640), np.uint8))
many = type(tracks)(points=np.tile(points, (81, 1, 1)), visibility=np.ones((81, len(points)), bool), depth=tracks.depth)
many.render(352, 640)
assert "torch" not in sys.modules
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 400  # MB
