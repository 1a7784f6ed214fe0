"""A job from a user's file to videos, in this process: what is made, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.models.loading import TINY, load_pipeline
from longvie.types import ControlMaps
from longvie.video import read_frames, read_image
from pipelines.errors import UserError
from pipelines.generation.generate import GenerateOptions
from pipelines.hashes import sha256
from tests.pipelines.helpers import (
    NUM_FRAMES,
    NUM_SEGMENTS,
    PROMPTS,
    Inputs,
    Log,
    artifacts,
    commits_of,
    frame_hashes,
    moving,
    run,
)
from tests.toy import save_toy_pipeline


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Jobs fix the thread count of their process; give the suite its own back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def done(inputs: Inputs, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video made without interruption."""
    folder = tmp_path_factory.mktemp("done")
    (outcome,) = run(inputs.manifest(folder, inputs.row()), folder / "out", toy_folder)
    assert (outcome.status, outcome.made) == ("done", NUM_SEGMENTS)
    return folder / "out" / "a"


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_the_files_of_a_video(done: Path) -> None:
    made = sorted(str(path.relative_to(done)) for path in done.rglob("*") if path.is_file())
    assert made == sorted(
        ["manifest.json", "video.mp4"]
        + [f"segments/{k:05d}.mp4" for k in range(NUM_SEGMENTS)]
        + [f"carry/{k:05d}.safetensors" for k in range(NUM_SEGMENTS)]
        + [f"commits/{k:05d}.json" for k in range(NUM_SEGMENTS)]
    )


def test_the_job_makes_what_the_loop_makes(done: Path, inputs: Inputs, toy_folder: Path) -> None:
    """The same frames, by their hashes, as the method's own loop over the same controls in memory."""
    torch.set_num_threads(1)
    pipe = load_pipeline(toy_folder)
    request = LongVideoRequest(
        first_frame=read_image(inputs / "first.png"),
        controls=ControlMaps(dense=read_frames(inputs / "dense.mp4"), sparse=read_frames(inputs / "sparse.mp4")),
        prompts=tuple(PROMPTS),
        num_frames=NUM_FRAMES,
        seed=3,
        config=GenerationConfig.for_pipeline(pipe.config),
    )
    frames = [result.frames for result in generate_long_video(pipe, request)]
    assert frame_hashes(done) == [sha256(part.numpy().tobytes()) for part in frames]


def test_the_video_is_its_segments(done: Path) -> None:
    parts = [read_frames(path) for path in sorted((done / "segments").glob("*.mp4"))]
    assert [len(part) for part in parts] == [9, 8, 8, 1]
    assert torch.equal(read_frames(done / "video.mp4"), torch.cat(parts))
    data = (done / "video.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_manifest_says_what_was_done(done: Path, inputs: Inputs, toy_folder: Path) -> None:
    manifest = manifest_of(done)
    assert manifest["status"] == "done"
    settings = manifest["settings"]
    assert (settings["height"], settings["width"], settings["num_inference_steps"]) == (32, 48, 2)
    assert (settings["fit"], settings["noise"], settings["threads_per_worker"]) == ("crop", "unified", 1)
    assert len(settings["model"]) == 64
    assert manifest["decided"]["seeds"] == [3] * NUM_SEGMENTS
    assert manifest["inputs"]["dense"] == [inputs / "dense.mp4"]
    assert manifest["inputs"]["model"] == str(toy_folder)
    assert {"torch", "diffusers", "ray", "longvie"} <= manifest["versions"].keys()
    for segment, name in zip(manifest["segments"], sorted((done / "segments").iterdir()), strict=True):
        assert segment["video"] == sha256(name.read_bytes())
        assert segment["seconds"] > 0
    assert manifest["video"]["sha256"] == sha256((done / "video.mp4").read_bytes())
    assert manifest["video"]["num_frames"] == NUM_FRAMES


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
    from longvie.video import write_image

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


def test_memory_is_an_output_of_this_process(done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    source = inputs.manifest(tmp_path, inputs.row())
    out = f"memory://{tmp_path.name}"
    assert run(source, out, toy_folder)[0].made == NUM_SEGMENTS
    assert fsspec.open(f"{out}/a/video.mp4").open().read() == (done / "video.mp4").read_bytes()
    assert run(source, out, toy_folder)[0].status == "up to date"


def test_s3_holds_inputs_and_outputs(bucket: str, done: Path, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    """Everything on an object store: read from it, written to it, resumed from it; the bytes of a local run."""
    s3 = fsspec.filesystem("s3")
    for name in ("dense.mp4", "sparse.mp4", "first.png"):
        s3.put_file(inputs / name, f"{bucket}/in/{name}")
    row = inputs.row(first_frame="first.png", dense="dense.mp4", sparse=f"{bucket}/in/sparse.mp4")
    s3.put_file(inputs.manifest(tmp_path, row), f"{bucket}/in/manifest.jsonl")
    source, out = f"{bucket}/in/manifest.jsonl", f"{bucket}/made"
    assert run(source, out, toy_folder)[0].made == NUM_SEGMENTS

    def stored() -> dict[str, bytes]:
        return {name: s3.cat_file(f"{out}/a/{name}") for name in artifacts(done)}

    assert stored() == artifacts(done)
    assert run(source, out, toy_folder)[0].status == "up to date"
    for name in ("commits/00002.json", "carry/00003.safetensors", "video.mp4"):
        s3.rm_file(f"{out}/a/{name}")
    again = run(source, out, toy_folder)[0]
    assert (again.status, again.made) == ("done", 2)
    assert stored() == artifacts(done)


def test_a_bucket_that_is_not_there(bucket: str, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--out s3://another/made cannot be written"):
        run(inputs.manifest(tmp_path, inputs.row()), "s3://another/made", toy_folder)


def test_cond_json_becomes_one_timeline(inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    """Three files of 9, 9 and 10 frames; the model's four segments; each takes the prompt its first frame lies in."""
    log = Log()
    (outcome,) = run(
        inputs / "cond.json",
        tmp_path,
        toy_folder,
        first_frame=inputs / "first.png",
        video_id="ours",
        report=log,
    )
    assert (outcome.status, outcome.made) == ("done", NUM_SEGMENTS)
    manifest = manifest_of(tmp_path / "ours")
    assert manifest["decided"]["prompts"] == [PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[2]]
    assert manifest["video"]["num_frames"] == NUM_FRAMES
    assert "those beside it were taken" in log.of("note")[0]["text"]


def test_prompts_by_frame(inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    prompts = [{"start": 0, "text": "a"}, {"start": 9, "text": "red"}, {"start": 24, "text": "ball"}]
    run(inputs.manifest(tmp_path, inputs.row(prompts=prompts)), tmp_path, toy_folder)
    assert manifest_of(tmp_path / "a")["decided"]["prompts"] == ["a", "a", "red", "ball"]


def test_the_authors_example(ride_horse: Path, toy_folder: Path, tmp_path: Path) -> None:
    """Real input: segments of 81 frames at 832x480 become one timeline for a model of 9 frames at 48x32."""
    entries = json.loads((ride_horse / "cond.json").read_text())[:2]
    for entry in entries:
        for field in ("depth", "track"):
            entry[field] = str(ride_horse / Path(entry[field]).name)
    (tmp_path / "cond.json").write_text(json.dumps(entries))
    (outcome,) = run(
        str(tmp_path / "cond.json"),
        tmp_path / "out",
        toy_folder,
        first_frame=str(ride_horse / "first.png"),
        video_id="horse",
        num_frames=89,
    )
    assert (outcome.status, outcome.num_segments) == ("done", 11)
    prompts = manifest_of(tmp_path / "out" / "horse")["decided"]["prompts"]
    assert prompts == [entries[0]["text"]] * 10 + [entries[1]["text"]]
    assert len(read_frames(tmp_path / "out" / "horse" / "video.mp4")) == 89


@pytest.mark.slow
def test_the_authors_ten_segments(ride_horse: Path, tmp_path: Path) -> None:
    """All of it, at the embedded model's size, with one step: 10 x 80 + 1 frames, each another."""
    cond, first = str(ride_horse / "cond.json"), str(ride_horse / "first.png")
    (outcome,) = run(cond, tmp_path, TINY, first_frame=first, overrides={"num_inference_steps": 1})
    assert (outcome.status, outcome.num_segments) == ("done", 50)
    video = read_frames(tmp_path / ride_horse.name / "video.mp4")
    assert len({frame.numpy().tobytes() for frame in video}) == len(video) == 801


def test_a_video_that_fails_leaves_the_others(inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    """A control that changes while the job runs fails its own video, and its manifest says why."""
    victim = tmp_path / "dense.mp4"
    victim.write_bytes(Path(inputs / "dense.mp4").read_bytes())

    class Spoiling(Log):
        def __call__(self, kind: str, **fields: Any) -> None:
            super().__call__(kind, **fields)
            if kind == "plan":
                victim.write_bytes(Path(inputs / "sparse.mp4").read_bytes())

    source = inputs.manifest(tmp_path, inputs.row("bad", dense=str(victim)), inputs.row("good"))
    bad, good = run(source, tmp_path / "out", toy_folder, report=Spoiling())
    assert (bad.status, good.status, good.error) == ("failed", "done", None)
    assert bad.error is not None
    assert "has changed since the job was planned" in bad.error
    manifest = manifest_of(tmp_path / "out" / "bad")
    assert (manifest["status"], manifest["error"]) == ("failed", bad.error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "--workers is -1; give 0 or more"),
        ({"gpus_per_worker": -1}, "--gpus-per-worker is -1"),
        ({"threads_per_worker": 0}, "--threads-per-worker is 0; give 1 or more"),
        ({"max_retries": -1}, "--max-retries is -1"),
        ({"wait_for_nodes": float("nan")}, "--wait-for-nodes is nan"),
        ({"dtype": "int8"}, "--dtype is int8; choose one of float32"),
        ({"device": "tpu"}, "--device is tpu; choose one of cpu, cuda"),
        ({"seed": -1}, "--seed is -1; give 0"),
        ({"num_frames": 0}, "--num-frames is 0; a video has at least 1 frame"),
        ({"prompt": "x"}, "--prompt goes with --from-segment"),
        ({"prompt": " ", "from_segment": 1}, "--prompt is empty"),
        ({"restart": True, "from_segment": 1}, "exclude each other"),
        ({"workers": 0, "address": "auto"}, "--workers 0 works in this process"),
        ({"out": "memory://x"}, "lives within one process; give --workers 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GenerateOptions(**{"source": "m.jsonl", "out": "out", **options})
