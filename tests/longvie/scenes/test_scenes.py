"""The synthetic world: exact, seeded, and with ground truth that agrees with what is drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from longvie.controls.render import uniform_grid
from longvie.scenes import (
    ONSET,
    SPLITS,
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    Scene,
    SceneVideo,
    render_frame,
    render_scene,
    surface_at,
)

SIZE = (32, 48)


def test_seeds_do_not_overlap() -> None:
    ranges = (TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS)
    ordered = sorted(ranges, key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ordered))


def test_a_short_video_is_what_the_embedded_model_learned() -> None:
    """Pixels of the first 97 frames, as recorded. Another CPU rounds sines otherwise."""
    assert ONSET == 96
    with np.load(Path(__file__).with_name("classic.npz")) as recorded:
        for seed in (TRAIN_SEEDS[0], VALIDATION_SEEDS[3], TEST_SEEDS[0]):
            video = render_scene(seed, ONSET + 1, 24, 36)
            apart = np.abs(video.frames[::24].astype(int) - recorded[f"frames_{seed}"])
            assert apart.max() <= 1
            assert (apart > 0).mean() < 1e-3
            np.testing.assert_allclose(video.depth[::24], recorded[f"depth_{seed}"], rtol=1e-5)


def test_every_split_has_its_seeds() -> None:
    assert SPLITS == {"train": TRAIN_SEEDS, "validation": VALIDATION_SEEDS, "test": TEST_SEEDS}


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


def test_the_caption_names_every_object_of_the_start() -> None:
    scene = Scene.from_seed(7)
    first = [thing for thing in scene.things if thing.outings is not None and not thing.outings.guest]
    assert first
    assert all(f"a {thing.colour_name} {thing.shape}" in scene.caption for thing in first)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tracks_start_on_the_grid_and_agree_with_depth(seed: int) -> None:
    video = render_scene(seed, 9, *SIZE)
    points = uniform_grid(*SIZE, 6, 8)
    tracks, visible, depth = video.tracks(2, 5, points)
    assert tracks.shape == (5, 48, 2)
    np.testing.assert_allclose(tracks[0], points, atol=1e-3)
    assert visible[0].mean() > 0.95
    seen = video.depth[2][points[:, 1].astype(int), points[:, 0].astype(int)]
    assert np.median(np.abs(depth / seen - 1)) < 0.05, "a pixel's depth is taken at one place in it"


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


def test_a_drifting_pattern_moves_its_tracks_and_not_its_depth() -> None:
    """What only tracks can show: the texture goes where the tracks say."""
    scene = next(scene for scene in map(Scene.from_seed, range(50)) if np.abs(scene.wall_drift).max() > 0.05)
    still = replace(scene, things=(), camera=np.zeros((3, 3)))
    rendered = [render_frame(still, t, 64, 96) for t in range(9)]
    frames, depth, surface = (np.stack(parts) for parts in zip(*rendered, strict=True))
    video = SceneVideo(scene=still, frames=frames, depth=depth, surface=surface, caption="")
    assert np.array_equal(depth[0], depth[8])
    points = uniform_grid(64, 96, 8, 12)
    tracks, visible, _ = video.tracks(0, 9, points)
    seen = visible[8]
    assert np.abs(tracks[8] - tracks[0])[seen].max() > 1

    def colours(t: int, at: np.ndarray) -> np.ndarray:
        x, y = (at[seen].astype(int).clip(0, (95, 63))).T
        return frames[t, y, x].astype(float)

    followed = np.abs(colours(8, tracks[8]) - colours(0, tracks[0])).mean()
    assert followed < 0.5 * np.abs(colours(8, tracks[0]) - colours(0, tracks[0])).mean()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_flickers(seed: int) -> None:
    """With the objects gone, one frame is as far from the next as any other."""
    scene = replace(Scene.from_seed(seed), things=())
    frames = np.stack([render_frame(scene, t, *SIZE)[0] for t in range(17)]).astype(float)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert change.max() < 2 * np.median(change) + 0.3


def test_a_track_follows_what_is_drawn() -> None:
    """Along a track the colour stays, on objects too: a point keeps its place on the texture."""
    points = uniform_grid(64, 96, 10, 16)
    apart = []
    for seed in (1, 4, TEST_SEEDS[0], TEST_SEEDS[3]):
        video = render_scene(seed, 17, 64, 96)
        tracks, visible, _ = video.tracks(0, 17, points)
        on, _, _ = surface_at(video.scene, points, 0, 64, 96)
        places = tracks[:, visible[16] & (on >= 0)] - 0.5  # remap counts from pixels' centres
        first, last = (_colours(video.frames[t], places[t]) for t in (0, 16))
        apart.append(np.abs(last - first).mean(axis=-1))
    assert np.median(np.concatenate(apart)) < 1, "it was 3 when objects' points were moved as if they were solid"


def _colours(frame: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Between pixels' centres, (n, 3)."""
    x, y = (np.ascontiguousarray(axis[:, None], np.float32) for axis in places.T)
    return cv2.remap(frame.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
