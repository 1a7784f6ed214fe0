"""The demo is the ordinary jobs on a real video or a scene, and shows what its result was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from longvie.scenes import TEST_SEEDS, render_scene
from longvie.video import probe_video, read_frames, read_image
from pipelines.cli import main
from pipelines.demo import EXCERPT, DemoOptions, compare, demo_options, write_inputs
from pipelines.errors import UserError
from pipelines.generation.generate import generate
from tests.pipelines.helpers import Log, artifacts, run

SCENE = TEST_SEEDS[0]


def demo(out: Path, toy_folder: Path, **options: object) -> DemoOptions:
    return demo_options(str(out), num_segments=5, model=str(toy_folder), workers=0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["excerpt", "scene"])
def made(request: pytest.FixtureRequest, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DemoOptions:
    before = torch.get_num_threads()
    scene = SCENE if request.param == "scene" else None
    options = demo(tmp_path_factory.mktemp("demo") / "demo", toy_folder, scene=scene)
    write_inputs(options, Log())
    (outcome,) = generate(options.generate, Log())
    compare(options)
    torch.set_num_threads(before)
    assert (outcome.status, outcome.made) == ("done", 5)
    return options


def test_a_long_video_lies_where_it_is_said(made: DemoOptions) -> None:
    video = made.folder / "video.mp4"
    info = probe_video(video)
    assert (info.num_frames, info.height, info.width, info.fps) == (41, 32, 48, 8)
    assert len({frame.numpy().tobytes() for frame in read_frames(video)}) == 41, "every frame is another"


def test_the_comparison(made: DemoOptions) -> None:
    """Source, depth, tracks and result side by side, enlarged, frame by frame."""
    folder = made.folder
    assert compare(made) == [
        *(folder / name for name in ("video.mp4", "comparison.mp4", "strip.png")),
        folder / "prepared" / "report.html",
    ]
    assert (folder / "prepared" / "report.html").is_file()
    info = probe_video(folder / "comparison.mp4")
    assert (info.num_frames, info.height, info.width) == (41, 192, 4 * 48 * 6)
    last = read_frames(folder / "comparison.mp4", 40)[0]
    result = read_frames(folder / "video.mp4", 40)[0].repeat_interleave(6, 0).repeat_interleave(6, 1)
    assert (last[:, 3 * 288 :].float() - result.float()).abs().mean() < 6
    assert read_image(folder / "strip.png").shape == (5 * 192, 4 * 288, 3)


def test_its_inputs_are_an_ordinary_manifest(made: DemoOptions, toy_folder: Path, tmp_path: Path) -> None:
    row = json.loads(made.manifest.read_text())
    assert len(row["sparse"]) == 5, "tracks start anew in each segment"
    before = torch.get_num_threads()
    run(str(made.manifest), tmp_path, toy_folder)
    torch.set_num_threads(before)
    assert artifacts(tmp_path / "demo") == artifacts(made.folder)


def test_another_length_needs_to_be_begun_anew(made: DemoOptions, toy_folder: Path, tmp_path: Path) -> None:
    """What lies in the demo's folder is never mixed; `--restart`, which the refusal names, replaces it."""
    folder = Path(shutil.copytree(made.folder, tmp_path / "demo"))
    given = ["demo", "--out", str(folder), "--model", str(toy_folder), "--workers", "0", "--segments", "1"]
    given += [] if made.scene is None else ["--scene", str(made.scene)]
    before = torch.get_num_threads()
    ends = []
    for flags in ([], ["--restart"]):
        with pytest.raises(SystemExit) as end:
            main([*given, *flags])
        ends.append(end.value.code)
    torch.set_num_threads(before)
    assert ends == [2, 0]
    assert probe_video(folder / "video.mp4").num_frames == 9


def test_a_scene_is_prepared_from_its_true_depth(toy_folder: Path, tmp_path: Path) -> None:
    """Near is black, far is white, as the exact depth says; tracks stand where the scene's own points are."""
    options = demo(tmp_path / "demo", toy_folder, scene=SCENE)
    write_inputs(options, Log())
    scene = render_scene(SCENE, options.num_frames, 32, 48)
    row = json.loads(options.manifest.read_text())
    dense = read_frames(options.manifest.parent / row["dense"][0])[0, ..., 0].numpy().astype(float)
    assert np.corrcoef(dense.ravel(), scene.depth[0].ravel())[0, 1] > 0.9
    assert read_frames(options.manifest.parent / row["sparse"][0])[0].max() > 100


def test_what_a_user_gets_wrong(tmp_path: Path, toy_folder: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        demo(tmp_path / "demo", toy_folder, scene=SCENE, source=str(EXCERPT))
    with pytest.raises(UserError, match=r"missing\.mp4"):
        write_inputs(demo(tmp_path / "demo", toy_folder, source=str(tmp_path / "missing.mp4")), Log())
    assert not (tmp_path / "demo" / "video.mp4").exists()
