"""What changes over minutes, and what a category holds still."""

from __future__ import annotations

import numpy as np
import pytest

from longvie.scenes import BALANCED, ONSET, TEST_SEEDS, Category, Scene, render_frame, render_scene

SIZE = (24, 36)
MINUTES = range(0, 1440, 17)  # three at 8 frames a second


def ranges(scene: Scene) -> np.ndarray:
    """The 5th and 95th percentile of depth every 17 frames."""
    return np.array([np.percentile(render_frame(scene, t, *SIZE)[1], (5, 95)) for t in MINUTES])


@pytest.mark.parametrize("seed", TEST_SEEDS[:3])
def test_the_depth_range_changes_over_minutes(seed: int) -> None:
    low, high = ranges(Scene.from_seed(seed)).T
    assert high.max() / high.min() > 2
    assert low.max() / low.min() > 1.5


@pytest.mark.parametrize("seed", TEST_SEEDS[:4])
def test_objects_come_and_go(seed: int) -> None:
    scene = Scene.from_seed(seed)
    captions = {scene.caption_at(range(t, t + 17)) for t in MINUTES}
    assert len(captions) > 2
    for thing in scene.things:
        assert thing.outings is not None
        aside = [abs(thing.outings.aside(t)) for t in MINUTES]
        assert min(aside) == 0
        assert max(aside) == 1
        assert abs(thing.outings.aside(ONSET)) == (1 if thing.outings.guest else 0)


def test_an_object_that_is_away_is_out_of_view() -> None:
    for seed in TEST_SEEDS[:8]:
        scene = Scene.from_seed(seed)
        for t in MINUTES:
            surface = render_frame(scene, t, *SIZE)[2]
            for index, thing in enumerate(scene.things):
                if thing.outings is not None and abs(thing.outings.aside(t)) == 1:
                    assert not (surface == index).any()


def test_day_becomes_night_and_day_again() -> None:
    scene = Scene.from_seed(TEST_SEEDS[1])
    light = [render_frame(scene, t, *SIZE)[0].mean() for t in MINUTES]
    assert max(light) / min(light) > 1.5
    words = [scene.caption_at([t]).rsplit(" ", 1)[1] for t in MINUTES]
    assert {"day", "night"} == set(words)


def test_captions_have_words_the_embedded_model_knows() -> None:
    short = {word for seed in range(200) for word in Scene.from_seed(seed).caption.split()}
    for category in (None, *BALANCED):
        for seed in TEST_SEEDS[:10]:
            scene = Scene.from_seed(seed, category)
            for t in MINUTES:
                caption = scene.caption_at(range(t, t + 17))
                assert set(caption.split()) <= short
                assert len(caption.split()) < 24


@pytest.mark.parametrize("category", BALANCED)
def test_a_category_is_what_it_says(category: Category) -> None:
    scene = Scene.from_seed(TEST_SEEDS[5], category)
    assert (scene.ceiling is not None) == (category.place == "indoor")
    assert {scene.darkness_at(t) for t in MINUTES} == {1.0 if category.light == "night" else 0.0}
    still = all((scene.camera_at(t) == scene.camera_at(0)).all() for t in MINUTES)
    assert still == (category.camera == "static")
    high = ranges(scene)[:, 1]
    assert high.max() / high.min() > 1.5, "the depth range changes all the same"


def test_an_empty_category_is_the_seed_alone() -> None:
    one, other = render_scene(9, 2, *SIZE), render_scene(9, 2, *SIZE, category=Category())
    assert np.array_equal(one.frames, other.frames)


def test_a_stretch_is_a_piece_of_the_whole() -> None:
    whole, part = render_scene(9, 130, *SIZE), render_scene(9, 10, *SIZE, first=120)
    assert np.array_equal(whole.frames[120:], part.frames)
    points = np.array([[5.0, 5.0], [20.0, 20.0]])
    for one, other in zip(whole.tracks(121, 4, points), part.tracks(1, 4, points), strict=True):
        assert np.array_equal(one, other)
