"""The synthetic world: exact, seeded, and with ground truth that agrees with what is drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from longvie.controls.render import uniform_grid
from longvie.scenes import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, Scene, render_scene

SIZE = (32, 48)


def test_seeds_do_not_overlap() -> None:
    ranges = (TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS)
    ordered = sorted(ranges, key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ordered))


def test_one_seed_one_video() -> None:
    first, second, other = render_scene(3, 5, *SIZE), render_scene(3, 5, *SIZE), render_scene(4, 5, *SIZE)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.depth, second.depth)
    assert first.caption == second.caption
    assert not np.array_equal(first.frames, other.frames)


def test_a_longer_video_starts_with_the_shorter_one() -> None:
    assert np.array_equal(render_scene(3, 9, *SIZE).frames[:4], render_scene(3, 4, *SIZE).frames)


def test_shapes_and_ranges() -> None:
    video = render_scene(0, 3, *SIZE)
    assert video.frames.shape == (3, *SIZE, 3)
    assert video.frames.dtype == np.uint8
    assert video.depth.shape == video.surface.shape == (3, *SIZE)
    assert (video.depth > 0).all()
    assert np.isfinite(video.depth).all()


def test_the_caption_names_every_object() -> None:
    scene = Scene.from_seed(7)
    assert all(thing.colour_name in scene.caption and thing.shape in scene.caption for thing in scene.things)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tracks_start_on_the_grid_and_agree_with_depth(seed: int) -> None:
    video = render_scene(seed, 9, *SIZE)
    points = uniform_grid(*SIZE, 6, 8)
    tracks, visible, depth = video.tracks(2, 5, points)
    assert tracks.shape == (5, 48, 2)
    np.testing.assert_allclose(tracks[0], points, atol=1e-3)
    assert visible[0].mean() > 0.95
    np.testing.assert_array_equal(depth, video.depth[2][points[:, 1].astype(int), points[:, 0].astype(int)])


def test_a_visible_track_stays_on_its_surface() -> None:
    video = render_scene(1, 17, 64, 96)
    points = uniform_grid(64, 96, 10, 15)
    tracks, visible, _ = video.tracks(0, 17, points)
    start = video.surface[0][points[:, 1].astype(int), points[:, 0].astype(int)]
    column = tracks[..., 0].astype(int).clip(0, 95)
    row = tracks[..., 1].astype(int).clip(0, 63)
    now = video.surface[np.arange(17)[:, None], row, column]
    assert (now == start)[visible].mean() > 0.95


def test_depth_range_moves_over_a_long_video() -> None:
    nearest = render_scene(1_000_000, 97, *SIZE).depth.reshape(97, -1).min(axis=1)
    assert nearest.max() / nearest.min() > 1.3
