from __future__ import annotations

import numpy as np

from longvie.controls.render import render_tracks, track_colours, uniform_grid


def test_grid_lies_at_cell_centres() -> None:
    assert uniform_grid(4, 8, 1, 2).tolist() == [[2.0, 2.0], [6.0, 2.0]]


def test_colours_are_place_and_nearness() -> None:
    points = np.array([[0.0, 0.0], [24.0, 16.0]], np.float32)
    colours = track_colours(points, np.array([1.0, 4.0], np.float32), 32, 48)
    assert colours[0].tolist() == [0, 0, 255]
    assert colours[1].tolist() == [127, 127, 0]


def test_rectangles_have_the_released_size() -> None:
    tracks = np.array([[[416.0, 240.0]]], np.float32)
    image = render_tracks(tracks, np.ones((1, 1), bool), np.ones(1, np.float32), 480, 832)[0]
    rows, columns = np.nonzero(image.any(axis=-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (7, 10)


def test_hidden_points_are_not_drawn_and_there_are_no_trails() -> None:
    tracks = np.array([[[10.0, 10.0]], [[30.0, 10.0]], [[30.0, 10.0]]], np.float32)
    made = render_tracks(tracks, np.array([[True], [True], [False]]), np.ones(1, np.float32), 20, 40)
    assert made[0, 10, 10].any()
    assert not made[1, 10, 10].any()
    assert made[1, 10, 30].any()
    assert not made[2].any()


def test_near_points_cover_far_ones() -> None:
    tracks = np.full((2, 2, 2), 10, np.float32)
    tracks[0, 1] = 4  # colours are those of frame 0
    made = render_tracks(tracks, np.ones((2, 2), bool), np.array([1.0, 9.0], np.float32), 20, 40)
    assert made[1, 10, 10].tolist() == made[0, 10, 10].tolist()


def test_points_outside_leave_the_frame_alone() -> None:
    tracks = np.array([[[-50.0, 5.0], [500.0, 5.0]]], np.float32)
    assert not render_tracks(tracks, np.ones((1, 2), bool), np.ones(2, np.float32), 20, 40).any()
