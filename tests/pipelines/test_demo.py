"""The demo is the ordinary job on a synthetic scene, and shows what it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from longvie.video import probe_video, read_frames, read_image
from pipelines.cli import main
from pipelines.demo import DEFAULT_SCENE, compare, demo_options, write_inputs
from tests.pipelines.helpers import Log, artifacts, run


@pytest.fixture(scope="module")
def made(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    before = torch.get_num_threads()
    options = demo_options(str(folder), DEFAULT_SCENE, 5, str(toy_folder), workers=0)
    write_inputs(options)
    from pipelines.generate import generate

    (outcome,) = generate(options.generate, Log())
    torch.set_num_threads(before)
    assert (outcome.status, outcome.made) == ("done", 5)
    assert compare(options) == [folder / name for name in ("video.mp4", "comparison.mp4", "strip.png")]
    return folder


def test_a_long_video_lies_where_it_is_said(made: Path) -> None:
    info = probe_video(made / "video.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (41, 32, 48, 8)
    assert len({frame.numpy().tobytes() for frame in read_frames(made / "video.mp4")}) == 41, "every frame is another"


def test_the_comparison(made: Path) -> None:
    """Source, depth, tracks and result side by side, enlarged, frame by frame."""
    info = probe_video(made / "comparison.mp4")
    assert (info.num_frames, info.height, info.width) == (41, 192, 4 * 48 * 6)
    last = read_frames(made / "comparison.mp4", 40)[0]
    result = read_frames(made / "video.mp4", 40)[0].repeat_interleave(6, 0).repeat_interleave(6, 1)
    assert (last[:, 3 * 288 :].float() - result.float()).abs().mean() < 6
    assert read_image(made / "strip.png").shape == (5 * 192, 4 * 288, 3)


def test_its_inputs_are_an_ordinary_manifest(made: Path, toy_folder: Path, tmp_path: Path) -> None:
    manifest = made / "input" / "manifest.jsonl"
    row = json.loads(manifest.read_text())
    assert len(row["sparse"]) == 5, "tracks start anew in each segment"
    before = torch.get_num_threads()
    run(str(manifest), tmp_path, toy_folder)
    torch.set_num_threads(before)
    assert artifacts(tmp_path / "demo") == artifacts(made)


def test_equal_scenes_give_equal_inputs(made: Path, toy_folder: Path, tmp_path: Path) -> None:
    write_inputs(demo_options(str(tmp_path / "demo"), DEFAULT_SCENE, 5, str(toy_folder), workers=0))
    for path in (made / "input").iterdir():
        assert path.read_bytes() == (tmp_path / "demo" / "input" / path.name).read_bytes()


def test_another_scene_needs_to_be_begun_anew(made: Path, toy_folder: Path, tmp_path: Path) -> None:
    """What lies in the demo's folder is never mixed; `--restart`, which the refusal names, replaces it."""
    folder = Path(shutil.copytree(made, tmp_path / "demo"))
    given = ["demo", "--out", str(folder), "--model", str(toy_folder), "--workers", "0", "--segments", "1"]
    before = torch.get_num_threads()
    ends = []
    for flags in ([], ["--restart"]):
        with pytest.raises(SystemExit) as end:
            main([*given, *flags])
        ends.append(end.value.code)
    torch.set_num_threads(before)
    assert ends == [2, 0]
    assert probe_video(folder / "video.mp4").num_frames == 9
