"""A job that runs again: what is kept, what is made anew, what is refused, what is redone on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longvie.video import write_image
from pipelines.errors import UserError
from tests.pipelines.helpers import (
    NUM_SEGMENTS,
    PROMPTS,
    Inputs,
    Log,
    artifacts,
    commits_of,
    frame_hashes,
    manifest_of,
    moving,
    run,
)
from tests.toy import save_toy_pipeline


def test_running_again_does_nothing(done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done.rglob("*") if path.is_file()}
    (outcome,) = run(inputs.manifest(tmp_path, inputs.row()), done.parent, toy_folder)
    assert (outcome.status, outcome.made) == ("up to date", 0)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done.rglob("*") if path.is_file()}


def copy_of(done: Path, folder: Path) -> Path:
    for path in done.rglob("*"):
        if path.is_file():
            target = folder / "out" / "a" / path.relative_to(done)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder / "out" / "a"


@pytest.mark.parametrize(
    ("harm", "made"),
    [
        (["video.mp4"], 0),
        (["commits/00003.json"], 1),
        (["carry/00002.safetensors"], 2),
        (["segments/00001.mp4"], 3),
        (["commits/00000.json"], 4),
        (["commits/00003.json", "segments/00003.mp4", "carry/00003.safetensors", "video.mp4"], 1),
    ],
)
def test_what_is_missing_is_made_and_nothing_else(
    done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path, harm: list[str], made: int
) -> None:
    folder = copy_of(done, tmp_path)
    kept = dict(list(commits_of(folder).items())[: NUM_SEGMENTS - made])
    for name in harm:
        (folder / name).unlink()
    (outcome,) = run(inputs.manifest(tmp_path, inputs.row()), folder.parent, toy_folder)
    assert (outcome.status, outcome.made) == ("done", made)
    assert kept.items() <= commits_of(folder).items(), "what was committed was not made again"
    assert artifacts(folder) == artifacts(done)


@pytest.mark.parametrize("name", ["segments/00001.mp4", "carry/00001.safetensors"])
def test_a_file_that_rots_is_noticed_and_made_again(
    done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path, name: str
) -> None:
    """Same size, other bytes: the hash in its commit tells, before anything is built on it."""
    folder = copy_of(done, tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 255
    (folder / name).write_bytes(data)
    for path in ("video.mp4", "commits/00002.json", "commits/00003.json"):
        (folder / path).unlink()
    log = Log()
    (outcome,) = run(inputs.manifest(tmp_path, inputs.row()), folder.parent, toy_folder, report=log)
    assert outcome.status == "done"
    assert "is not the file that was committed" in log.of("retry")[0]["error"]
    assert artifacts(folder) == artifacts(done)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"num_inference_steps": 3}}, "num_inference_steps was 2, is 3"),
        ({"overrides": {"dense_scale": 0.5}}, "dense_scale was 1.0, is 0.5"),
        ({"overrides": {"fit": "pad"}}, "fit was 'crop', is 'pad'"),
        ({"threads_per_worker": 2}, "threads_per_worker was 1, is 2"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', is 'bfloat16'"),
        ({"num_frames": 20}, "num_frames was 26, is 20"),
    ],
)
def test_changed_settings_are_not_mixed(
    done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    before = artifacts(done)
    prompt = {"prompts": None, "prompt": PROMPTS[0]} if "num_frames" in options else {}
    with pytest.raises(UserError, match=message) as raised:
        run(inputs.manifest(tmp_path, inputs.row(**prompt)), done.parent, toy_folder, **options)
    assert "--restart to begin anew" in str(raised.value)
    assert artifacts(done) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "was begun with seed 3, now it is 4"),
        ({"prompts": [*PROMPTS[:2], "other", "other"]}, "the prompt of segment 2 has changed; .* --from-segment 2"),
        ({"dense": None}, "dense has other content"),
        ({"first_frame": "other.png"}, "first_frame has other content"),
    ],
)
def test_changed_inputs_are_not_mixed(
    done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_image(tmp_path / "other.png", moving(1, 9)[0])
    with pytest.raises(UserError, match=message):
        run(inputs.manifest(tmp_path, inputs.row(**changes)), done.parent, toy_folder)


def test_another_model_is_not_mixed(done: Path, inputs: Inputs, tmp_path: Path) -> None:
    other = save_toy_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="model has other content"):
        run(inputs.manifest(tmp_path, inputs.row()), done.parent, other)


def test_restart_begins_anew(done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(done, tmp_path)
    source = inputs.manifest(tmp_path, inputs.row(seed=4))
    (outcome,) = run(source, folder.parent, toy_folder, restart=True)
    assert (outcome.status, outcome.made) == ("done", NUM_SEGMENTS)
    assert not set(frame_hashes(folder)) & set(frame_hashes(done))
    before = commits_of(folder)
    (outcome,) = run(source, folder.parent, toy_folder, restart=True)
    assert outcome.made == NUM_SEGMENTS, "even where nothing has changed"
    assert [json.loads(c)["frames"] for c in before.values()] == frame_hashes(folder)


def test_restart_replaces_a_folder_it_does_not_understand(
    done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(done, tmp_path)
    (folder / "manifest.json").write_text('{"format": 99}')
    source = inputs.manifest(tmp_path, inputs.row())
    with pytest.raises(UserError, match="was not written by this version of longvie"):
        run(source, folder.parent, toy_folder)
    (outcome,) = run(source, folder.parent, toy_folder, restart=True)
    assert outcome.made == NUM_SEGMENTS
    assert artifacts(folder) == artifacts(done)


class TestFromSegment:
    """Users ask to redo one bad segment: with another prompt or seed from there on."""

    def redo(self, done: Path, inputs: Inputs, toy: Path, tmp_path: Path, **options: Any) -> tuple[Path, str]:
        folder = copy_of(done, tmp_path)
        source = inputs.manifest(tmp_path, inputs.row())
        (outcome,) = run(source, folder.parent, toy, from_segment=2, **options)
        assert (outcome.status, outcome.made) == ("done", 2)
        assert frame_hashes(folder)[:2] == frame_hashes(done)[:2]
        before, after = commits_of(done), commits_of(folder)
        assert [before[name] == after[name] for name in before] == [True, True, False, False]
        return folder, source

    def test_with_a_new_prompt(self, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
        folder, source = self.redo(done, inputs, toy_folder, tmp_path, prompt="a red ball rolls")
        assert not set(frame_hashes(folder)[2:]) & set(frame_hashes(done)[2:])
        assert manifest_of(folder)["decided"]["prompts"] == [*PROMPTS[:2], "a red ball rolls", "a red ball rolls"]
        (again,) = run(source, folder.parent, toy_folder)
        assert again.status == "up to date", "the plain command keeps what the redo decided"

    def test_with_a_new_seed(self, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
        folder, _ = self.redo(done, inputs, toy_folder, tmp_path, seed=9)
        assert not set(frame_hashes(folder)[2:]) & set(frame_hashes(done)[2:])
        assert [segment["seed"] for segment in manifest_of(folder)["segments"]] == [3, 3, 9, 9]

    def test_with_nothing_new_gives_the_same_frames(
        self, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path
    ) -> None:
        folder, _ = self.redo(done, inputs, toy_folder, tmp_path)
        assert artifacts(folder) == artifacts(done)

    def test_a_second_redo_keeps_the_first(self, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
        folder, source = self.redo(done, inputs, toy_folder, tmp_path, prompt="a red ball rolls")
        (outcome,) = run(source, folder.parent, toy_folder, from_segment=3, seed=9)
        assert outcome.made == 1
        decided = manifest_of(folder)["decided"]
        assert decided["prompts"][2:] == ["a red ball rolls"] * 2
        assert decided["seeds"] == [3, 3, 3, 9]
        assert decided["takes"] == [0, 0, 1, 2]

    def test_with_prompts_changed_in_the_manifest(
        self, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path
    ) -> None:
        folder = copy_of(done, tmp_path)
        source = inputs.manifest(tmp_path, inputs.row(prompts=[*PROMPTS[:2], "ball", "red"]))
        with pytest.raises(UserError, match="the prompt of segment 2 has changed too; give --from-segment 2"):
            run(source, folder.parent, toy_folder, from_segment=3)
        (outcome,) = run(source, folder.parent, toy_folder, from_segment=2)
        assert outcome.made == 2
        assert manifest_of(folder)["decided"]["prompts"] == [*PROMPTS[:2], "ball", "red"]
        assert run(source, folder.parent, toy_folder)[0].status == "up to date"

    @pytest.mark.parametrize(
        ("segment", "message"), [(4, r"a has segments 0\.\.3"), (-1, "--from-segment is -1; give 0 or more")]
    )
    def test_segments_that_do_not_exist(
        self, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path, segment: int, message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            run(inputs.manifest(tmp_path, inputs.row()), done.parent, toy_folder, from_segment=segment)

    def test_what_was_never_begun(self, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist yet"):
            run(inputs.manifest(tmp_path, inputs.row()), tmp_path / "new", toy_folder, from_segment=1)
        assert not (tmp_path / "new").exists()

    def test_many_videos(self, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
        source = inputs.manifest(tmp_path, inputs.row("a"), inputs.row("b"))
        with pytest.raises(UserError, match=r"concerns one video, .* has 2: name one with --video-id"):
            run(source, tmp_path / "new", toy_folder, from_segment=1)
