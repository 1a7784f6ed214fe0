"""Shots cover the timeline in order, are the same whatever the batches, and are left out for measured reasons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longvie.shots import Shot, ShotFilters, detect_shots

SIZE = (72, 128)


def scene(seed: int, count: int, speed: int = 1) -> np.ndarray:
    """Coloured noise of its own, moving sideways."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = np.kron(small, np.ones((8, 8, 1), np.uint8))
    return np.stack([np.roll(picture, speed * t, axis=1) for t in range(count)])


def film(*lengths: int) -> np.ndarray:
    return np.concatenate([scene(seed, length) for seed, length in enumerate(lengths)])


def test_cuts_are_found_where_they_are() -> None:
    flash = np.concatenate([scene(0, 20, speed=0), scene(1, 1), scene(0, 20, speed=0)])
    assert [shot.start for shot in detect_shots([flash], fps=16)] == [0, 20, 21]
    shots = detect_shots([film(20, 35, 12)], fps=16)
    assert [(shot.start, shot.stop) for shot in shots] == [(0, 20), (20, 55), (55, 67)]


@pytest.mark.parametrize("place", [1, 2, 28, 29])
def test_cuts_beside_the_ends_are_found(place: int) -> None:
    assert [shot.start for shot in detect_shots([film(place, 30 - place)], fps=16)] == [0, place]


def test_motion_and_slow_change_are_no_cuts() -> None:
    assert len(detect_shots([scene(0, 40, speed=3)], fps=16)) == 1
    fade = (scene(1, 1) * np.linspace(1, 0.2, 40)[:, None, None, None]).astype(np.uint8)
    assert len(detect_shots([fade], fps=16)) == 1


def test_without_a_threshold_a_video_is_one_shot() -> None:
    assert [(s.start, s.stop) for s in detect_shots([film(9, 9)], fps=16, threshold=None)] == [(0, 18)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_shots_partition_the_timeline_however_it_is_batched(lengths: list[int], sizes: list[int]) -> None:
    frames = film(*lengths)
    whole = detect_shots([frames], fps=24)
    assert [shot.start for shot in whole] == [0, *[shot.stop for shot in whole[:-1]]]
    assert whole[-1].stop == len(frames)
    assert all(shot.num_frames > 0 for shot in whole)
    batches, at = [], 0
    while at < len(frames):
        size = sizes[len(batches) % len(sizes)]
        batches.append(frames[at : at + size])
        at += size
    assert detect_shots(iter(batches), fps=24) == whole


def test_no_frames_no_shots() -> None:
    assert detect_shots([], fps=16) == []


def test_batches_are_let_go() -> None:
    """At most one batch lives: the next is asked for only when the last is done with."""
    asked = []

    def batches() -> object:
        for number in range(5):
            asked.append(number)
            yield scene(0, 4)

    assert detect_shots(batches(), fps=16)[-1].stop == 20  # type: ignore[arg-type]
    assert asked == list(range(5))


def test_what_is_measured() -> None:
    """Brightness is mean luma, motion the mean change of luma; the change at a cut belongs to neither shot."""
    frames = np.zeros((12, *SIZE, 3), np.uint8)
    frames[:6] = (np.arange(6) * 4 + 100)[:, None, None, None]
    frames[6:] = (10, 10, 250)
    bright, blue = detect_shots([frames], fps=16)
    assert (bright.brightness, bright.motion) == (110, 4)
    assert blue.motion == 0
    assert blue.brightness == pytest.approx(0.299 * 10 + 0.587 * 10 + 0.114 * 250, abs=0.6)


def test_filters_say_what_they_measured() -> None:
    shot = Shot(start=10, stop=40, brightness=3.456, motion=0.0321)
    assert ShotFilters().reject(shot) is None
    for filters, reason in (
        (ShotFilters(min_frames=31), "too short: 30 frames, at least 31 are asked for"),
        (ShotFilters(black=10), "black: mean luma 3.46, at least 10 is asked for"),
        (ShotFilters(static=0.05), "static: motion 0.032, at least 0.05 is asked for"),
        (ShotFilters(min_motion=0.5), "too little motion: 0.032, at least 0.5 is asked for"),
        (ShotFilters(max_motion=0.01), "too much motion: 0.032, at most 0.01 is asked for"),
    ):
        assert filters.reject(shot) == reason
    assert ShotFilters(min_frames=30, black=3, static=0.01).reject(shot) is None
    assert ShotFilters(static=0.05).reject(dataclasses.replace(shot, motion=0.05)) is None
    with pytest.raises(ValueError, match="min_frames is 0"):
        ShotFilters(min_frames=0)
    with pytest.raises(ValueError, match="black is 300"):
        ShotFilters(black=300)
