"""A job from a user's file to videos, in this process: what is made, and what is refused."""

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
    frame_hashes,
    manifest_of,
    run,
)


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
