"""Depth and tracks against closed forms: any pose, any motion, any moving camera."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.spatial.transform import Rotation

from longvie.controls.render import uniform_grid
from longvie.mesh import Scene, SceneWriter, load_scene
from tests.longvie.mesh.analytic import (
    HEIGHT,
    SQUARE,
    SQUARE_FACES,
    WIDTH,
    Motion,
    Solid,
    World,
    centres,
    is_inner,
)

SEEDS = st.integers(0, 2**32 - 1)
INTERPOLATIONS = st.sampled_from(["STEP", "LINEAR", "CUBICSPLINE"])
TIMES = st.floats(-0.5, 2.5)
few = settings(max_examples=40, deadline=None)


def load(world: World) -> Scene:
    with tempfile.TemporaryDirectory() as folder:
        return world.load(Path(folder))


def camera_motion(rng: np.random.Generator, interpolation: str) -> Motion:
    return Motion.random(rng, np.array([-1, -1, -1]), np.array([1, 1, 1]), 0.3, interpolation)


def moving_boxes(seed: int, interpolation: str) -> World:
    """Three boxes that turn and move before a moving camera."""
    rng = np.random.default_rng(seed)
    solids = tuple(
        Solid(
            shape="box",
            half=rng.uniform(0.3, 1.2, 3),
            motion=Motion.random(rng, np.array([-3, -2, -9]), np.array([3, 2, -4]), 1.0, interpolation),
        )
        for _ in range(3)
    )
    return World(solids=solids, camera=camera_motion(rng, interpolation))


def assert_depth(scene: Scene, world: World, t: float, tolerance: float = 1e-3) -> ndarray:
    expected, which = world.depth(centres(), t)
    which[np.isinf(expected)] = -1
    depth = scene.render(t, HEIGHT, WIDTH).depth
    assert depth.dtype == np.float32
    inner = is_inner(which)
    met = inner & np.isfinite(expected)
    np.testing.assert_allclose(depth.reshape(-1)[met], expected[met], rtol=tolerance)
    assert np.isinf(depth.reshape(-1)[inner & (which == -1)]).all()
    return met


@few
@given(seed=SEEDS, t=TIMES, interpolation=INTERPOLATIONS)
def test_depth_of_a_plane(seed: int, t: float, interpolation: str) -> None:
    rng = np.random.default_rng(seed)
    plane = Motion.random(rng, np.array([-1, -1, -8]), np.array([1, 1, -3]), 0.7, interpolation)
    world = World(
        solids=(Solid(shape="plane", half=np.zeros(3), motion=plane),), camera=camera_motion(rng, interpolation)
    )
    expected, _ = world.depth(centres(), t)
    depth = load(world).render(t, HEIGHT, WIDTH).depth.reshape(-1)
    near = expected < 300  # beyond, the square that stands for the plane may end
    np.testing.assert_allclose(depth[near], expected[near], rtol=1e-4)  # rays in float32 that graze the plane


@few
@given(seed=SEEDS, t=TIMES, interpolation=INTERPOLATIONS)
def test_depth_of_moving_boxes(seed: int, t: float, interpolation: str) -> None:
    world = moving_boxes(seed, interpolation)
    assert_depth(load(world), world, t, tolerance=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, t=TIMES)
def test_depth_of_a_ball(seed: int, t: float) -> None:
    """An icosphere of 20,480 triangles lies up to 2e-4 of its radius within the ball; at the rim it is more depth."""
    rng = np.random.default_rng(seed)
    motion = Motion.random(rng, np.array([-0.5, -0.5, -6]), np.array([0.5, 0.5, -4]), 1.0, "LINEAR")
    ball = Solid(shape="ball", half=np.full(3, 1.5), motion=motion)
    world = World(solids=(ball,), camera=Motion.still(np.zeros(3)))
    expected, _ = world.depth(centres(), t)
    depth = load(world).render(t, HEIGHT, WIDTH).depth.reshape(-1)
    origin, directions = world.rays(centres(), t)
    met = np.isfinite(expected)
    outward = origin + directions[met] * expected[met, None] - motion.at(t)[1]
    facing = -(outward * directions[met]).sum(axis=1) / 1.5 / np.linalg.norm(directions[met], axis=1)
    assert facing.max() > 0.9
    np.testing.assert_allclose(depth[met][facing > 0.3], expected[met][facing > 0.3], rtol=1e-3)


@few
@given(seed=SEEDS, start=st.floats(0, 1), interpolation=INTERPOLATIONS)
def test_tracks_on_moving_boxes(seed: int, start: float, interpolation: str) -> None:
    world = moving_boxes(seed, interpolation)
    times = start + np.linspace(0, 1, 9)
    first, which = world.depth(centres(), start)
    which[np.isinf(first)] = -1
    pixels = centres()[is_inner(which) & (which >= 0)]
    if not len(pixels):
        return
    tracks = load(world).tracks(times, pixels, HEIGHT, WIDTH)
    np.testing.assert_allclose(tracks.depth, world.depth(pixels, start)[0], rtol=1e-5)
    for k, t in enumerate(times):
        expected, z = world.follow(pixels, start, t)
        ahead = z > 0.05
        error = np.abs(tracks.positions[k] - expected)[ahead]
        assert error.max(initial=0) < 0.01
        nearest, _ = world.depth(expected, t)
        margin = np.min([expected[:, 0], expected[:, 1], WIDTH - expected[:, 0], HEIGHT - expected[:, 1]], axis=0)
        hidden = nearest < z * (1 - 1e-3)
        shown = nearest > z * (1 - 1e-6)
        assert not tracks.visibility[k][~ahead].any() or (z[~ahead] > 0).any()
        assert not tracks.visibility[k][ahead & (hidden | (margin < -1e-3))].any()
        missed = ahead & shown & (margin > 1e-3) & ~tracks.visibility[k]
        assert missed.sum() <= 0.01 * len(pixels), "only a ray along an edge may miss its point"


def test_a_grid_starts_where_it_was_put() -> None:
    scene = load(moving_boxes(1, "LINEAR"))
    points = uniform_grid(HEIGHT, WIDTH, 12, 20)
    tracks = scene.tracks([0.4, 0.5], points, HEIGHT, WIDTH)
    np.testing.assert_allclose(tracks.positions[0], points, atol=1e-3)
    assert tracks.visibility[0].all()
    assert tracks.positions.dtype == tracks.depth.dtype == np.float32


def test_a_passing_box_hides_a_wall_for_as_long_as_it_passes() -> None:
    wall = Solid(shape="plane", half=np.zeros(3), motion=Motion.still(np.array([0, 0, -10.0])))
    passing = Motion(
        times=np.array([0.0, 4.0]), places=np.array([[-4.0, 0, -5], [4, 0, -5]]), turns=np.tile([0.0, 0, 0, 1], (2, 1))
    )
    scene = load(World(solids=(wall, Solid(shape="box", half=np.full(3, 0.5), motion=passing))))
    times = np.linspace(0, 3.9, 79) + 0.013  # never just as the box's edge passes
    tracks = scene.tracks(times, np.array([[WIDTH / 2, HEIGHT / 2]]), HEIGHT, WIDTH)
    # the box's front half, at depth 4.5 and 1 m wide, stands before the axis when its centre is within 0.5 m of it
    x = passing.places[0, 0] + 2 * times
    np.testing.assert_array_equal(tracks.visibility[:, 0], np.abs(x) > 0.5)
    assert 5 < (~tracks.visibility).sum() < 15
    assert (tracks.positions == tracks.positions[0]).all(), "the wall does not move, hidden or not"


def test_points_that_leave_the_view_are_invisible() -> None:
    wall = Solid(shape="plane", half=np.zeros(3), motion=Motion.still(np.array([0, 0, -10.0])))
    turn = Rotation.from_rotvec(np.outer([0, np.pi / 2, np.pi * 0.99], [0, 1, 0])).as_quat()
    pan = Motion(times=np.array([0.0, 1, 2]), places=np.zeros((3, 3)), turns=turn)
    scene = load(World(solids=(wall,), camera=pan))
    tracks = scene.tracks([0, 0.1, 1, 1.8], uniform_grid(HEIGHT, WIDTH, 6, 8), HEIGHT, WIDTH)
    assert tracks.visibility[0].all()
    assert 0 < tracks.visibility[1].mean() < 1
    assert not tracks.visibility[2:].any()
    assert np.isnan(tracks.positions[3]).all(), "behind the camera there is no pixel"


def test_the_background_turns_with_the_camera_and_is_hidden_by_what_passes() -> None:
    box = Motion(
        times=np.array([0.0, 1.0]), places=np.array([[5.0, 0, -5], [0, 0, -5]]), turns=np.tile([0.0, 0, 0, 1], (2, 1))
    )
    scene = load(World(solids=(Solid(shape="box", half=np.full(3, 0.5), motion=box),)))
    tracks = scene.tracks([0, 1], np.array([[WIDTH / 2, HEIGHT / 2], [2.0, 2.0]]), HEIGHT, WIDTH)
    assert np.isinf(tracks.depth).all()
    np.testing.assert_array_equal(tracks.visibility, [[True, True], [False, True]])
    np.testing.assert_allclose(tracks.positions[1], tracks.positions[0], atol=1e-4)


def square_scene(folder: Path, material: dict | None = None, camera: dict | None = None, **node: object) -> Scene:
    """A square of 2 x 2 m, 4 m before the camera, which sees it whole."""
    writer = SceneWriter()
    mesh = writer.add_mesh(SQUARE, SQUARE_FACES, None if material is None else writer.add_material(**material))
    writer.add_node("square", mesh=mesh, **{"translation": (0, 0, -4), **node})
    lens = writer.add_camera(np.pi / 2)
    if camera is not None:
        writer.tree["cameras"][lens] = camera
    writer.add_node("camera", camera=lens)
    writer.write(folder / "square.glb")
    return load_scene(folder / "square.glb")


def shown(scene: Scene, size: int = 32) -> ndarray:
    return np.isfinite(scene.render(0, size, size).depth)


def test_the_square_is_where_it_should_be(tmp_path: Path) -> None:
    expected = np.zeros((32, 32), bool)
    expected[12:20, 12:20] = True  # 2 m of the 8 m that the view is wide at 4 m
    np.testing.assert_array_equal(shown(square_scene(tmp_path)), expected)


@pytest.mark.parametrize(
    ("node", "seen"),
    [
        ({"rotation": (0, 1, 0, 0)}, False),
        ({"scale": (-1, 1, 1)}, True),  # mirrored: its front stays its front
        ({"rotation": (0, 1, 0, 0), "scale": (-1, 1, 1)}, False),
    ],
)
def test_one_sided_surfaces_are_seen_from_the_front_only(tmp_path: Path, node: dict, seen: bool) -> None:
    assert shown(square_scene(tmp_path, **node)).any() == seen
    assert shown(square_scene(tmp_path, material={"doubleSided": True}, **node)).any()


def test_near_and_far_cut(tmp_path: Path) -> None:
    def scene(near: float, far: float) -> Scene:
        lens = {"yfov": np.pi / 2, "znear": near, "zfar": far}
        return square_scene(tmp_path, camera={"type": "perspective", "perspective": lens})

    assert shown(scene(3.9, 4.1)).any()
    assert not shown(scene(4.1, 9.0)).any()
    assert not shown(scene(0.1, 3.9)).any()


def test_orthographic_cameras(tmp_path: Path) -> None:
    lens = {"xmag": 2.0, "ymag": 2.0, "znear": 0.0, "zfar": 10.0}
    scene = square_scene(tmp_path, camera={"type": "orthographic", "orthographic": lens})
    depth = scene.render(0, 32, 32).depth
    expected = np.full((32, 32), np.inf)
    expected[8:24, 8:24] = 4  # 2 m of 4 m
    np.testing.assert_allclose(depth, expected)
    tracks = scene.tracks([0, 1], np.array([[10.5, 20.5], [1.0, 1.0]]), 32, 32)
    np.testing.assert_allclose(tracks.positions[:, 0], [[10.5, 20.5]] * 2)
    np.testing.assert_array_equal(tracks.visibility, [[True, False]] * 2)


def test_what_is_scaled_to_nothing_is_not_there(tmp_path: Path) -> None:
    writer = SceneWriter()
    node = writer.add_node("square", mesh=writer.add_mesh(SQUARE, SQUARE_FACES), translation=(0, 0, -4))
    writer.animate(node, "scale", np.array([0.0, 1.0]), np.array([[1, 1, 1], [0, 0, 0]]), "STEP")
    writer.add_node("camera", camera=writer.add_camera(1.0))
    writer.write(tmp_path / "s.glb")
    scene = load_scene(tmp_path / "s.glb")
    assert np.isfinite(scene.render(0.5, 16, 16).depth).any()
    assert np.isinf(scene.render(1.5, 16, 16).depth).all()
    assert not scene.tracks([0, 1.5], np.array([[8.0, 8.0]]), 16, 16).visibility[1].any()


def test_a_hierarchy_carries_its_children(tmp_path: Path) -> None:
    """A box on a turning arm, below a scaled and moved parent, against the product of the matrices."""
    writer = SceneWriter()
    base = writer.add_node("base", translation=(0, 0, -6), scale=(2, 2, 2))
    arm = writer.add_node("arm", parent=base)
    angle = np.array([0.0, np.pi / 2])
    turns = Rotation.from_rotvec(np.outer(angle, [0, 0, 1])).as_quat()
    writer.animate(arm, "rotation", np.array([0.0, 1.0]), turns)
    holder = writer.add_node("holder", parent=arm, translation=(1, 0, 0))
    writer.add_node("square", parent=holder, mesh=writer.add_mesh(SQUARE, SQUARE_FACES), scale=(0.1, 0.1, 0.1))
    writer.add_node("camera", camera=writer.add_camera(np.pi / 2))
    writer.write(tmp_path / "s.glb")
    scene = load_scene(tmp_path / "s.glb")
    focal, times = 50.0, np.array([0, 0.3, 0.5, 1.0])
    start = np.array([[50 + focal * 2 / 6, 50.0]])
    tracks = scene.tracks(times, start, 100, 100)
    x, y = 2 * np.cos(times * np.pi / 2), 2 * np.sin(times * np.pi / 2)
    np.testing.assert_allclose(tracks.positions[:, 0, 0], 50 + focal * x / 6, atol=1e-4)
    np.testing.assert_allclose(tracks.positions[:, 0, 1], 50 - focal * y / 6, atol=1e-4)
    assert tracks.visibility.all()


def test_rendering_is_deterministic_and_independent_of_history() -> None:
    world = moving_boxes(5, "LINEAR")
    scene, again = load(world), load(world)
    again.render(1.7, HEIGHT, WIDTH)
    first, second = scene.render(0.6, HEIGHT, WIDTH), again.render(0.6, HEIGHT, WIDTH)
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.depth, second.depth)


@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, -1), (4097, 4096)])
def test_sizes_are_limited(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="not a size"):
        load(moving_boxes(1, "LINEAR")).render(0, height, width)
