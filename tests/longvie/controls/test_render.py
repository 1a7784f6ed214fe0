from __future__ import annotations

import time

import numpy as np
import pytest

from longvie.controls.render import default_grid, render_tracks, track_colours, uniform_grid


def draw(tracks: list, grey: list[float] | None = None, height: int = 20, width: int = 40) -> np.ndarray:
    """Tracks given frame by frame, all visible; every channel of a colour may be 0, so see `shown`."""
    points = np.array(tracks, np.float32)
    return render_tracks(
        points, np.ones(points.shape[:2], bool), np.array(grey or [0] * points.shape[1]), height, width
    )


def test_grid_lies_at_cell_centres() -> None:
    assert uniform_grid(4, 8, 1, 2).tolist() == [[2.0, 2.0], [6.0, 2.0]]


def test_the_release_s_grid_has_2500_points_in_its_margins() -> None:
    grid = default_grid(480, 832)
    assert grid.shape == (2500, 2)
    np.testing.assert_allclose(grid[0], [13.0, 11.25])  # 11.25 pixels at 720x480
    np.testing.assert_allclose(grid[-1], [819.0, 468.75])
    np.testing.assert_allclose(grid[1] - grid[0], [806 / 49, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"), [((352, 640), (50, 50)), ((176, 320), (29, 50)), ((48, 80), (8, 13)), ((3, 5), (1, 1))]
)
def test_smaller_frames_get_as_many_points_as_have_room(size: tuple[int, int], expected: tuple[int, int]) -> None:
    grid = default_grid(*size)
    rows, columns = len(np.unique(grid[:, 1])), len(np.unique(grid[:, 0]))
    assert (rows, columns) == expected
    assert len(grid) == rows * columns
    if size == (48, 80):  # what the tiny model was trained with
        np.testing.assert_array_equal(grid, uniform_grid(48, 80, 8, 13))


def test_place_is_red_and_green_over_the_points_own_extent() -> None:
    points = np.array([[13.0, 11.0], [413.0, 211.0], [813.0, 411.0]], np.float32)
    assert track_colours(points, np.zeros(3))[:, :2].tolist() == [[0, 0], [127, 127], [255, 255]]


def test_far_points_are_blue_by_one_over_distance_from_white() -> None:
    points = np.zeros((100, 2), np.float32)
    grey = np.repeat([0, 235, 245, 250], 25)  # 1/z: about 0, 1/20, 1/10, 1/5
    low, high = 1 / 255, 1 / 5
    expected = [int((1 / z - low) / (high - low) * 255) for z in (255, 20, 10, 5)]
    assert track_colours(points, grey)[::25, 2].tolist() == expected


def test_more_than_two_percent_at_the_far_end_turn_all_blue_off() -> None:
    points = np.zeros((100, 2), np.float32)
    grey = np.linspace(0, 250, 100)
    assert track_colours(points, grey)[:, 2].max() == 255
    grey[-1] = 255  # one of a hundred: it alone is beyond the 98th percentile
    assert track_colours(points, grey)[-1, 2] == 255
    grey[-4:] = 255
    assert track_colours(points, grey)[:, 2].max() == 0


def test_colours_of_no_and_of_one_point() -> None:
    assert track_colours(np.zeros((0, 2), np.float32), np.zeros(0)).shape == (0, 3)
    assert track_colours(np.ones((1, 2), np.float32), np.zeros(1)).tolist() == [[0, 0, 0]]
    assert not render_tracks(np.zeros((2, 0, 2)), np.zeros((2, 0), bool), np.zeros(0), 8, 8).any()


def test_rectangles_have_the_released_size_and_place() -> None:
    image = draw([[[416.0, 240.0], [100.0, 100.0]]], height=480, width=832)[0]
    rows, columns = np.nonzero(image.any(axis=-1))
    assert (rows.min(), rows.max()) == (236, 242)
    assert (columns.min(), columns.max()) == (411, 420)


def test_hidden_points_are_not_drawn_and_there_are_no_trails() -> None:
    tracks = np.array([[[10.0, 10.0], [2, 2]], [[30.0, 10.0], [2, 2]], [[30.0, 10.0], [2, 2]]], np.float32)
    made = render_tracks(tracks, np.array([[True, True], [True, True], [False, True]]), np.zeros(2), 20, 40)
    assert made[0, 10, 10].any()
    assert not made[1, 10, 10].any()
    assert made[1, 10, 30].any()
    assert not made[2, 10, 30].any()


def test_far_points_cover_near_ones() -> None:
    """As in the release, whose largest z, drawn first, is the nearest."""
    for near in (0, 1):
        grey = [200.0, 200.0]
        grey[near] = 10.0
        tracks = [[[4, 4], [20, 10]], [[20, 10], [20, 10]]]
        made = draw(tracks, grey)
        far_place = tracks[0][1 - near]
        assert made[1, 10, 20].tolist() == made[0, far_place[1], far_place[0]].tolist()


def test_points_outside_leave_the_frame_alone_and_those_across_its_edge_are_cut() -> None:
    assert not draw([[[-50.0, 5.0], [500.0, 5.0]]]).any()
    assert not draw([[[-1e9, 5.0], [1e9, 5.0]]]).any()
    image = draw([[[0.0, 0.0], [40.0, 20.0]]])[0]
    assert image[-1, -1].any()
    assert image[:10].sum() == 0  # black, the smallest red and green


def test_a_segment_is_drawn_in_a_second() -> None:
    rng = np.random.default_rng(0)
    tracks = default_grid(352, 640) + rng.normal(0, 3, (81, 2500, 2)).astype(np.float32)
    start = time.process_time()
    render_tracks(tracks, np.ones((81, 2500), bool), rng.integers(0, 256, 2500), 352, 640)
    assert time.process_time() - start < 1.0
