"""`longvie render`: what comes out, that it is exact, and that the same command goes on from anywhere."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet
import pytest

from longvie.controls.render import default_grid, uniform_grid
from longvie.media import Video, probe_video
from longvie.mesh import SceneError, load_scene
from pipelines.cli import main
from pipelines.errors import UserError
from pipelines.rendering.making import RenderError
from pipelines.rendering.options import MAX_FRAMES, RenderOptions
from tests.pipelines.helpers import WRITE_PHASES, Log
from tests.pipelines.rendering.render_helpers import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    NUM_SEGMENTS,
    WIDTH,
    rendered,
    run,
    run_to_death,
    tree,
    write_scene,
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_scene(tmp_path_factory.mktemp("scene") / "passing box.glb")


@pytest.fixture(scope="module")
def whole(scene: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run makes. Read only."""
    out = tmp_path_factory.mktemp("whole")
    run(scene, out)
    return out


def test_the_video_shows_the_scene(scene: str, whole: Path) -> None:
    video = whole / "source/passing_box.mp4"
    info = probe_video(video)
    assert (info.num_frames, info.height, info.width, info.fps) == (NUM_FRAMES, HEIGHT, WIDTH, FPS)
    frames = Video(video).read(range(NUM_FRAMES)).astype(int)
    truth = load_scene(scene)
    for k in range(NUM_FRAMES):
        assert np.abs(frames[k] - truth.render(k / FPS, HEIGHT, WIDTH).rgb).mean() < 3, "but for the codec"


def test_depth_and_tracks_are_the_scenes_own(scene: str, whole: Path) -> None:
    truth = load_scene(scene)
    assert len(list((whole / "source/depth").iterdir())) == NUM_FRAMES
    for k in range(NUM_FRAMES):
        depth = np.load(whole / f"source/depth/{k:06d}.npy")
        assert depth.dtype == np.float16
        np.testing.assert_array_equal(depth, truth.render(k / FPS, HEIGHT, WIDTH).depth.astype(np.float16))
    for index, start, count in ((0, 0, 5), (1, 4, 5), (2, 8, 4)):
        expected = truth.tracks((start + np.arange(count)) / FPS, default_grid(HEIGHT, WIDTH), HEIGHT, WIDTH)
        with np.load(whole / f"source/tracks/{index:05d}.npz") as tracks:
            np.testing.assert_array_equal(tracks["tracks"], expected.positions)
            np.testing.assert_array_equal(tracks["visibility"], expected.visibility)
            np.testing.assert_array_equal(tracks["depth"], expected.depth)
        assert 0 < expected.visibility.mean() < 1, "the box hides some of the wall"


def test_it_comes_out_as_any_prepared_video(whole: Path) -> None:
    (row,) = [json.loads(line) for line in (whole / "manifest.jsonl").read_text().splitlines()]
    assert row["num_frames"] == NUM_FRAMES
    for name in (row["first_frame"], *row["dense"], *row["sparse"]):
        assert (whole / name).is_file()
    (video,) = pyarrow.parquet.read_table(whole / "videos.parquet").to_pylist()
    assert len(row["dense"]) == len(row["sparse"]) == NUM_SEGMENTS
    assert pyarrow.parquet.read_table(whole / "errors.parquet").num_rows == 0
    dense = Video(whole / row["dense"][0]).read([0])[0, ..., 0]
    depth = np.load(whole / "source/depth/000000.npy")
    assert dense[depth < 6].max(initial=0) < dense[depth > 7].min(), "near is black, far is white"
    sparse = Video(whole / row["sparse"][0]).read([0])[0]
    assert (sparse > 0).any()
    assert video["video_id"] == row["video_id"]


def test_a_grid_of_ones_own(scene: str, tmp_path: Path) -> None:
    run(scene, tmp_path, num_frames=3, grid="2x3")
    with np.load(tmp_path / "source/tracks/00000.npz") as tracks:
        np.testing.assert_allclose(tracks["tracks"][0], uniform_grid(HEIGHT, WIDTH, 2, 3), atol=1e-3)


def test_again_makes_nothing(scene: str, whole: Path, tmp_path: Path) -> None:
    run(scene, tmp_path)
    before = tree(tmp_path)
    summary = run(scene, tmp_path)
    assert [stage.num_made for stage in summary.stages] == [0] * len(summary.stages)
    assert tree(tmp_path) == before


def test_equal_runs_give_equal_bytes(scene: str, whole: Path, tmp_path: Path) -> None:
    run(scene, tmp_path)
    assert tree(tmp_path / "source") == tree(whole / "source")


def test_longer_keeps_what_is_there_and_shorter_removes_the_rest(scene: str, tmp_path: Path) -> None:
    run(scene, tmp_path, num_frames=9)
    assert run(scene, tmp_path).stages[0].num_made == 1
    assert run(scene, tmp_path, num_frames=7).stages[0].num_made == 1, "its second segment is cut short"
    assert len(list((tmp_path / "source/depth").iterdir())) == 7
    assert probe_video(tmp_path / "source/passing_box.mp4").num_frames == 7
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 1


def test_a_changed_scene_is_rendered_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.glb"
    run(write_scene(path), tmp_path / "out")
    before = tree(tmp_path / "out/source")
    assert run(write_scene(path, colour=(0, 1, 0, 1)), tmp_path / "out").stages[0].num_made == NUM_SEGMENTS
    after = tree(tmp_path / "out/source")
    assert before.keys() == after.keys()
    assert before["s.mp4"] != after["s.mp4"]


def test_a_scene_that_changes_while_it_is_rendered(tmp_path: Path) -> None:
    path = tmp_path / "s.glb"

    class Meddler(Log):
        def __call__(self, kind: str, **fields: Any) -> None:
            if kind == "stage":
                write_scene(path, colour=(0, 0, 1, 1))

    with pytest.raises(RenderError, match=r"3 of 3 segments failed; segment 0: .* has changed while"):
        run(write_scene(path), tmp_path / "out", report=Meddler())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "64x32"}, "width 48, now 64"),
        ({"fps": 16.0}, "fps 8.0, now 16.0"),
        ({"segment_length": 9}, "segment_length 5, now 9"),
    ],
)
def test_two_kinds_are_not_mixed(scene: str, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run(scene, tmp_path, num_frames=2)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=said):
        run(scene, tmp_path, num_frames=2, **change)
    assert tree(tmp_path) == before
    run(scene, tmp_path, num_frames=2, restart=True, **change)


def test_another_scene_needs_another_place_or_a_restart(scene: str, tmp_path: Path) -> None:
    run(scene, tmp_path / "out", num_frames=2)
    other = write_scene(tmp_path / "other.glb")
    with pytest.raises(UserError, match="stem passing_box, now other"):
        run(other, tmp_path / "out", num_frames=2)
    run(other, tmp_path / "out", num_frames=2, restart=True)
    assert sorted(path.name for path in (tmp_path / "out/source").glob("*.mp4")) == ["other.mp4"]


def test_in_memory(scene: str) -> None:
    out = "memory://render-test"
    assert run(scene, out, num_frames=5).num_segments == 1
    assert fsspec.filesystem("memory").exists("/render-test/manifest.jsonl")


@pytest.mark.parametrize("fps", [8.0, 23.976, 24.0, 29.97, 30.0])
def test_any_rate_gives_every_frame_once(scene: str, tmp_path: Path, fps: float) -> None:
    run(scene, tmp_path, fps=fps, num_frames=11)
    (row,) = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert row["num_frames"] == 11


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_frames": 1}, "--num-frames is 1"),
        ({"num_frames": MAX_FRAMES + 1}, "--num-frames"),
        ({"num_frames": 3, "seconds": 1.0}, "exclude each other"),
        ({"seconds": 1e12}, "--seconds"),
        ({"seconds": 0.01}, "--seconds"),
        ({"seconds": float("nan")}, "--seconds"),
        ({"grid": "50"}, "--grid 50"),
        ({"grid": "0x5"}, "--grid 0x5"),
        ({"grid": "201x5"}, "--grid 201x5"),
        ({"size": "33x48"}, "--size"),
        ({"supersampling": 0}, "--supersampling"),
        ({"workers": -1}, "--workers"),
        ({"camera": "front"}, "no camera front; its cameras are camera"),
        ({"animation": "walk"}, "no animation walk"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    scene: str, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((UserError, SceneError), match=said):
        run(scene, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.glb").write_bytes(b"garbage")
    for scene in (tmp_path / "s.glb", tmp_path / "missing.glb"):
        with pytest.raises(SystemExit) as ended:
            main(["render", str(scene), "--out", str(tmp_path / "out"), "--workers", "0"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("longvie: ")
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_that_would_lead_elsewhere(tmp_path: Path) -> None:
    assert RenderOptions(scene="a/..hidden name?.glb", out=str(tmp_path)).stem == "hidden_name"
    assert RenderOptions(scene="..glb", out=str(tmp_path)).stem == "scene"


def all_points() -> list[str]:
    """Every write of a rendering, in order."""
    points = [f"render.json:{phase}" for phase in WRITE_PHASES]
    frames = [range(5), range(5, 9), range(9, 12)]
    for k in range(NUM_SEGMENTS):
        names = [f"attempts/render/{k:05d}.json", *(f"depth/{frame:06d}.npy" for frame in frames[k])]
        names += [f"parts/{k:05d}.mp4", f"tracks/{k:05d}.npz", f"commits/render/{k:05d}.json"]
        points += [f"{name}:{phase}" for name in names for phase in WRITE_PHASES]
    names = ("passing_box.mp4", "commits/video/passing_box.json", "manifest.jsonl")
    return points + [f"{name}:{phase}" for name in names for phase in WRITE_PHASES]


POINTS = all_points()
CHOSEN = random.Random(7).sample(POINTS, 26)

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.pipelines.rendering.render_helpers"])  # so that a child starts at once


@pytest.mark.parametrize("point", [*CHOSEN[:4], *(pytest.param(point, marks=pytest.mark.slow) for point in CHOSEN[4:])])
def test_killed_anywhere(scene: str, whole: Path, tmp_path: Path, point: str) -> None:
    """SIGKILL at a write: afterwards the same bytes, and no committed segment is rendered again."""
    (tmp_path / "marks").mkdir()
    out = tmp_path / "out"
    child = _forkserver.Process(target=run_to_death, args=(scene, str(out), str(tmp_path / "marks"), [point]))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, f"the run ended with {child.exitcode} before {point}"
    committed = rendered(out)
    summary = run(scene, out)
    assert summary.stages[0].num_made == NUM_SEGMENTS - len(committed)
    assert committed.items() <= rendered(out).items()
    assert tree(out / "source") == tree(whole / "source")
    assert not list(out.rglob("*.tmp"))
