"""`longvie scenes`: what comes out is exact, recorded, and what generation takes; the same command goes on anywhere."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet
import pytest

from longvie.controls.render import default_grid
from longvie.media import Video
from longvie.scenes import BALANCED, SPLITS, TEST_SEEDS, render_scene
from longvie.scenes.category import Category
from pipelines.cli import main
from pipelines.errors import UserError
from pipelines.scenes.options import ScenesOptions
from tests.pipelines.helpers import WRITE_PHASES
from tests.pipelines.scenes.scenes_helpers import (
    COUNT,
    HEIGHT,
    NUM_FRAMES,
    NUM_SEGMENTS,
    WIDTH,
    run,
    run_to_death,
    tree,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run makes. Read only."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(out / f"{name}.parquet").to_pylist()


def test_videos_depth_and_tracks_are_the_scenes_own(whole: Path) -> None:
    for seed in TEST_SEEDS[:COUNT]:
        truth = render_scene(seed, NUM_FRAMES, HEIGHT, WIDTH)
        source = whole / "source"
        frames = Video(source / f"videos/scene-{seed}.mp4").read(range(NUM_FRAMES))
        np.testing.assert_array_equal(frames, truth.frames)
        np.testing.assert_array_equal(np.load(source / f"depth/scene-{seed}.npy"), truth.depth.astype(np.float16))
        for index, start, count in ((0, 0, 5), (1, 4, 5), (2, 8, 4)):
            positions, visible, depth = truth.tracks(start, count, default_grid(HEIGHT, WIDTH))
            with np.load(source / f"tracks/scene-{seed}/{index:05d}.npz") as tracks:
                np.testing.assert_array_equal(tracks["tracks"], positions)
                np.testing.assert_array_equal(tracks["visibility"], visible)
                np.testing.assert_array_equal(tracks["depth"][0], depth)


def test_seeds_and_kinds_are_recorded(whole: Path) -> None:
    table = rows(whole, "scenes")
    assert [row["seed"] for row in table] == list(TEST_SEEDS[:COUNT])
    assert {row["split"] for row in table} == {"test"}
    assert {row["video_id"] for row in table} == {row["video_id"] for row in rows(whole, "videos")}
    for row in table:
        truth = render_scene(row["seed"], NUM_FRAMES, HEIGHT, WIDTH)
        assert (row["place"], row["camera"], row["num_frames"]) == ("outdoor", "moving", NUM_FRAMES)
        assert row["light"] == ("night" if truth.scene.night else "day")
        named = {
            f"{truth.scene.things[i].colour_name} {truth.scene.things[i].shape}"
            for i in np.unique(truth.surface)
            if i >= 0
        }
        assert set(row["objects"]) == named


def test_it_comes_out_as_any_prepared_video(whole: Path) -> None:
    manifest = [json.loads(line) for line in (whole / "manifest.jsonl").read_text().splitlines()]
    assert [row["num_frames"] for row in manifest] == [NUM_FRAMES] * COUNT
    for row in manifest:
        assert len(row["dense"]) == len(row["sparse"]) == len(row["prompts"]) == NUM_SEGMENTS
        for name in (row["first_frame"], *row["dense"], *row["sparse"]):
            assert (whole / name).is_file()
    segments = rows(whole, "segments")
    assert len(segments) == COUNT * NUM_SEGMENTS
    assert {row["prompt"] for row in segments} == {render_scene(s, 1, 8, 8).caption for s in TEST_SEEDS[:COUNT]}
    assert not rows(whole, "errors")
    assert {"dataset", "video"} == {row["scope"] for row in rows(whole, "stats")}
    assert (whole / "report.html").is_file()


def test_the_embedded_model_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, rate and segment length are the embedded model's own without any flag; two segments of it."""
    base = ["--workers", "0", "--out"]
    for line in (
        ["scenes", "--split", "test", "--num-frames", "33", *base, str(tmp_path / "prepared")],
        ["generate", str(tmp_path / "prepared"), *base, str(tmp_path / "made")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert ended.value.code == 0
    (video,) = (tmp_path / "made").glob("*/video.mp4")
    made, truth = Video(video), render_scene(TEST_SEEDS[0], 33, 64, 96).frames
    assert made.info.num_frames == 33
    apart = np.abs(made.read(range(17)).astype(float) - truth[:17]).mean()
    frozen = np.abs(truth[:1].astype(float) - truth[:17]).mean()
    assert apart < frozen, "it follows the controls: closer than the first frame is"


def test_again_makes_nothing_and_equal_runs_give_equal_bytes(whole: Path, tmp_path: Path) -> None:
    run(tmp_path)
    before = tree(tmp_path)
    assert [stage.num_made for stage in run(tmp_path).stages] == [0, 0, 0, 0, 0]
    assert tree(tmp_path) == before
    assert tree(tmp_path / "source") == tree(whole / "source")


def test_more_keeps_what_is_there_and_fewer_removes_the_rest(tmp_path: Path) -> None:
    run(tmp_path, count=1, num_frames=9)
    assert run(tmp_path, count=1).stages[0].num_made == 1, "another length is another video"
    assert run(tmp_path, count=3).stages[0].num_made == 2
    assert run(tmp_path, start=1, count=1).stages[0].num_made == 0
    assert [path.stem for path in (tmp_path / "source/videos").iterdir()] == [f"scene-{TEST_SEEDS[1]}"]
    assert [row["seed"] for row in rows(tmp_path, "scenes")] == [TEST_SEEDS[1]]
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 1


def test_a_long_video_says_what_changes(tmp_path: Path) -> None:
    run(tmp_path, count=1, num_frames=450, segment_length=81, keep_depth=False)
    (row,) = rows(tmp_path, "scenes")
    prompts = {segment["prompt"] for segment in rows(tmp_path, "segments")}
    assert len(prompts) > 2, "who is there changes from segment to segment"
    assert row["light"] == "changing"


def test_balanced_takes_all_kinds_in_turn(tmp_path: Path) -> None:
    run(tmp_path, count=8, num_frames=2, balanced=True)
    kinds = [Category(place=row["place"], light=row["light"], camera=row["camera"]) for row in rows(tmp_path, "scenes")]
    assert kinds == list(BALANCED)


def test_one_kind_alone(tmp_path: Path) -> None:
    run(tmp_path, num_frames=2, place="indoor", light="night", camera="static", split="validation", start=5)
    for row in rows(tmp_path, "scenes"):
        assert (row["place"], row["light"], row["camera"], row["split"]) == ("indoor", "night", "static", "validation")
        assert row["seed"] in SPLITS["validation"][5:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "train"}, "split test, now train"),
        ({"size": "64x32"}, "width 48, now 64"),
        ({"segment_length": 9}, "segment_length 5, now 9"),
    ],
)
def test_two_kinds_of_data_are_not_mixed(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run(tmp_path, num_frames=2, count=1)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=said):
        run(tmp_path, num_frames=2, count=1, **change)
    assert tree(tmp_path) == before
    run(tmp_path, num_frames=2, count=1, restart=True, **change)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "tests"}, "--split is tests; choose one of train, validation, test"),
        ({"count": 0}, "--count is 0"),
        ({"start": 990, "count": 11}, "test has 1,000 seeds"),
        ({"start": -1}, "--start is -1"),
        ({"num_frames": 1}, "--num-frames is 1"),
        ({"num_frames": 9, "seconds": 3.0}, "exclude each other"),
        ({"num_frames": None, "seconds": 1e9}, "--seconds"),
        ({"num_frames": None, "seconds": float("nan")}, "--seconds"),
        ({"place": "space"}, "--place is space"),
        ({"light": "dusk"}, "--light is dusk"),
        ({"camera": "shaky"}, "--camera is shaky"),
        ({"balanced": True, "light": "day"}, "--balanced takes all"),
        ({"size": "33x48"}, "--size"),
        ({"size": "4096x4096"}, "pixels"),
        ({"workers": -1}, "--workers"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_seconds_are_counted_in_frames(tmp_path: Path) -> None:
    (plan,) = ScenesOptions(split="train", out=str(tmp_path), seconds=60, fps=8, size="96x64").plan()
    assert (plan.num_frames, plan.segment_length) == (480, 81)


def test_in_memory() -> None:
    assert run("memory://scenes-test", count=1, num_frames=5).num_segments == 1
    assert fsspec.filesystem("memory").exists("/scenes-test/scenes.parquet")


def points() -> list[str]:
    """Some writes of a run, of every kind."""
    stem = f"scene-{TEST_SEEDS[1]}"
    names = ["scenes.json", f"depth/{stem}.npy", f"tracks/{stem}/00001.npz", f"videos/{stem}.mp4"]
    names += [f"attempts/scenes/{stem}.json", f"commits/scenes/{stem}.json", "manifest.jsonl", "scenes.parquet"]
    return [f"{name}:{phase}" for name in names for phase in WRITE_PHASES]


POINTS = points()
CHOSEN = [POINTS[4], POINTS[-2]]
_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.pipelines.scenes.scenes_helpers"])  # so that a child starts at once


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in CHOSEN else pytest.mark.slow) for point in POINTS]
)
def test_killed_anywhere(whole: Path, tmp_path: Path, point: str) -> None:
    """SIGKILL at a write: afterwards the same bytes, and no committed video is made again."""
    (tmp_path / "marks").mkdir()
    out = tmp_path / "out"
    child = _forkserver.Process(target=run_to_death, args=(str(out), str(tmp_path / "marks"), [point]))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, f"the run ended with {child.exitcode} before {point}"
    committed = len(list((out / "source/commits/scenes").glob("*.json")))
    assert run(out).stages[0].num_made == COUNT - committed
    assert tree(out / "source") == tree(whole / "source")
    assert [row["seed"] for row in rows(out, "scenes")] == list(TEST_SEEDS[:COUNT])
    assert not list(out.rglob("*.tmp"))
