"""Depth, tracks and pixels of the synthetic world agree with its geometry, wherever, whenever and however large."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from longvie.controls.render import uniform_grid
from longvie.scenes import BALANCED, SAMPLE, Category, Scene, render_frame, surface_at, track
from longvie.scenes.scene import CEILING, FLOOR, WALL

SIZE = (32, 48)
SEEDS = st.integers(0, 2_000_999)
FRAMES = st.integers(0, 3000)
CATEGORIES = st.sampled_from([None, *BALANCED, Category(light="changing")])
quick = settings(max_examples=25, deadline=None)


def samples(height: int, width: int) -> np.ndarray:
    """Where each pixel's depth is taken, (n, 2)."""
    x, y = np.meshgrid(np.arange(width) + SAMPLE, np.arange(height) + SAMPLE)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


@quick
@given(seed=SEEDS, t=FRAMES, category=CATEGORIES)
def test_drawn_depth_is_what_rays_meet(seed: int, t: int, category: Category | None) -> None:
    """But for single pixels at an edge, where float32 and float64 may see different sides."""
    scene = Scene.from_seed(seed, category)
    _, depth, surface = render_frame(scene, t, *SIZE)
    met, z, _ = surface_at(scene, samples(*SIZE), t, *SIZE)
    same = met == surface.ravel()
    assert (~same).sum() <= 4
    np.testing.assert_allclose(depth.ravel()[same], z[same], rtol=1e-3)


@quick
@given(seed=SEEDS, t=FRAMES, category=CATEGORIES)
def test_points_project_back_to_their_pixels_and_lie_on_their_surfaces(
    seed: int, t: int, category: Category | None
) -> None:
    scene = Scene.from_seed(seed, category)
    points = uniform_grid(*SIZE, 9, 13).astype(float)
    surface, z, _ = surface_at(scene, points, t, *SIZE)
    world = scene.unproject(points, z, t, *SIZE)
    x, y = scene.project(world - scene.camera_at(t), *SIZE)
    np.testing.assert_allclose(np.stack([x, y], axis=1), points, atol=1e-6)
    np.testing.assert_allclose(world[surface == FLOOR, 1], 0, atol=1e-9)
    np.testing.assert_allclose(world[surface == WALL, 2], scene.wall_at(t), rtol=1e-9)
    if scene.ceiling is not None:
        np.testing.assert_allclose(world[surface == CEILING, 1], scene.ceiling, rtol=1e-9)
    for index, thing in enumerate(scene.things):
        apart = scene.centre_at(index, t)[2] - z[surface == index]
        assert ((apart >= 0) & (apart <= thing.radius)).all()


@quick
@given(seed=SEEDS, t=FRAMES, category=CATEGORIES, frames=st.integers(2, 20))
def test_a_visible_track_lands_on_its_own_surface_at_its_own_depth(
    seed: int, t: int, category: Category | None, frames: int
) -> None:
    scene = Scene.from_seed(seed, category)
    points = uniform_grid(*SIZE, 8, 12).astype(float)
    start, z, _ = surface_at(scene, points, t, *SIZE)
    positions, visible, depth = track(scene, points, t, frames, *SIZE)
    np.testing.assert_allclose(positions[0], points, atol=1e-4)
    np.testing.assert_allclose(depth[0], z, rtol=1e-6)
    assert visible[0].all()
    for k in range(frames):
        now, met, _ = surface_at(scene, positions[k].astype(float), t + k, *SIZE)
        seen = visible[k]
        touching = np.abs(met - depth[k]) < 2e-3  # where an object's foot meets the floor, either may be named
        assert ((now == start) | touching)[seen].all()
        flat = seen & (now == start) & (start < 0)
        np.testing.assert_allclose(met[flat], depth[k][flat], rtol=1e-3)
        x, y = positions[k].T
        in_view = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0])
        assert (in_view | ~seen).all()
        hidden = in_view & ~seen & (depth[k] > 0.1)
        assert (met < depth[k])[hidden].all(), "what hides a point is nearer"


@quick
@given(seed=SEEDS, t=FRAMES, category=CATEGORIES)
def test_two_sizes_show_the_same(seed: int, t: int, category: Category | None) -> None:
    """A frame of half the size is the larger one, averaged; its depth is one of the four."""
    scene = Scene.from_seed(seed, category)
    small, near, _ = render_frame(scene, t, *SIZE)
    large, depth, _ = render_frame(scene, t, 2 * SIZE[0], 2 * SIZE[1])
    averaged = large.reshape(SIZE[0], 2, SIZE[1], 2, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 3
    blocks = depth.reshape(SIZE[0], 2, SIZE[1], 2).transpose(0, 2, 1, 3).reshape(*SIZE, 4)
    inside = (near >= blocks.min(axis=-1) * 0.97) & (near <= blocks.max(axis=-1) * 1.03)
    assert inside.mean() > 0.97


@quick
@given(seed=SEEDS, t=FRAMES, category=CATEGORIES)
def test_tracks_do_not_depend_on_the_size(seed: int, t: int, category: Category | None) -> None:
    scene = Scene.from_seed(seed, category)
    points = uniform_grid(*SIZE, 6, 9).astype(float)
    positions, visible, depth = track(scene, points, t, 5, *SIZE)
    twice, seen, same = track(scene, 2 * points, t, 5, 2 * SIZE[0], 2 * SIZE[1])
    np.testing.assert_allclose(twice, 2 * positions, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(depth, same, rtol=1e-5)
    assert (visible != seen).mean() < 0.01, "but for rounding at an outline"


@quick
@given(seed=SEEDS, t=FRAMES, category=CATEGORIES)
def test_nothing_jumps_in_view(seed: int, t: int, category: Category | None) -> None:
    """From frame to frame every object that can be seen, the camera and the wall move a little."""
    scene = Scene.from_seed(seed, category)
    assert np.abs(scene.camera_at(t + 1) - scene.camera_at(t)).max() < 0.6
    assert abs(scene.wall_at(t + 1) - scene.wall_at(t)) < 0.6
    assert np.abs(scene.sky_at(t + 1) - scene.sky_at(t)).max() < 3
    for index in range(len(scene.things)):
        before, after = scene.centre_at(index, t), scene.centre_at(index, t + 1)
        if min(_beside(before), _beside(after)) < 0:
            assert np.abs(after - before).max() < 1.5


def _beside(centre: np.ndarray) -> float:
    """How far beside the view an object's nearer edge is, metres; negative within it."""
    return abs(centre[0]) - 0.75 - 0.4546 * max(centre[2], 0)
