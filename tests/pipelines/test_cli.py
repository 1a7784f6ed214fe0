"""The command: help at a glance, and every error a user will make in one line, with exit code 2 and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from longvie.models.checkpoints import export_release
from longvie.video import write_image, write_video
from pipelines.cli import main
from pipelines.progress import Report, json_lines
from tests.pipelines.helpers import NUM_FRAMES, Inputs, moving
from tests.toy import toy_pipeline

ROOT = Path(__file__).resolve().parents[2]


def ends(arguments: list[str]) -> int:
    """The exit code of the command, run in this process."""
    before = torch.get_num_threads()
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        torch.set_num_threads(before)
    raise AssertionError("main() returned")


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert ends(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("longvie: ")
    return printed.err


Mistake = Callable[[Inputs, Path], dict[str, Any]]


def _video(name: str, frames: torch.Tensor) -> Mistake:
    def make(inputs: Inputs, folder: Path) -> dict[str, Any]:
        write_video(folder / "other.mp4", frames, fps=8)
        return {name: str(folder / "other.mp4")}

    return make


def _file(name: str, content: bytes) -> Mistake:
    def make(inputs: Inputs, folder: Path) -> dict[str, Any]:
        (folder / "broken.mp4").write_bytes(content)
        return {name: str(folder / "broken.mp4")}

    return make


def _one_frame_segment(inputs: Inputs, folder: Path) -> dict[str, Any]:
    write_video(folder / "one.mp4", moving(1, 1), fps=8)
    return {"dense": [inputs / "dense.mp4", str(folder / "one.mp4")], "sparse": None}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda i, f: {"dense": str(f / "none.mp4")}, "line 1, field dense: .*none.mp4 does not exist"),
        (_file("dense", b"not a video"), "field dense: .*broken.mp4 is not a readable video"),
        (_file("sparse", b""), "field sparse: .*broken.mp4 is not a readable video"),
        (lambda i, f: {"first_frame": str(f / "none.png")}, "field first_frame: .*none.png does not exist"),
        (_file("first_frame", b"\x89PNG"), "field first_frame: .*broken.mp4 is not a readable image"),
        (_video("sparse", moving(20, 1)), "has 26 frames and sparse .* has 20; give both the same number"),
        (_video("sparse", moving(NUM_FRAMES, 1, width=96)), "they would not lie on each other"),
        (lambda i, f: {"num_frames": 0}, "field num_frames: num_frames is 0; a video has at least 1 frame"),
        (lambda i, f: {"num_frames": 27}, "field num_frames: 27, but the controls have 26 frames"),
        (lambda i, f: {"dense": None, "sparse": None}, "field num_frames: missing; without controls"),
        (
            lambda i, f: {"dense": None, "sparse": None, "num_frames": 10**12},
            "field num_frames: 1000000000000; a video has at most 800001",
        ),
        (_one_frame_segment, "one.mp4 has 1 frame, so the segments do not increase"),
        (
            lambda i, f: {"prompts": [{"start": 0, "text": "a"}, {"start": 0, "text": "b"}]},
            r"prompts\[1\].start: 0; starts increase",
        ),
        (lambda i, f: {"prompts": [{"start": 0, "text": "a"}, {"start": 26, "text": "b"}]}, "last starts at frame 26"),
        (lambda i, f: {"prompts": ["a", "b"]}, r"2 texts; give one, one a segment \(4: 26 frames, 9 a segment\)"),
        (lambda i, f: {"dense": "nosuch://a/b.mp4"}, "field dense: nosuch://a/b.mp4: unknown scheme nosuch://"),
        (lambda i, f: {"seed": -1}, "field seed: seed is -1; give 0"),
        (lambda i, f: {"video_id": "../up"}, "field video_id: '../up' is not valid"),
    ],
)
def test_mistakes_in_a_manifest(
    capsys: pytest.CaptureFixture[str],
    inputs: Inputs,
    toy_folder: Path,
    tmp_path: Path,
    mistake: Mistake,
    message: str,
) -> None:
    import re

    source = inputs.manifest(tmp_path, inputs.row(**mistake(inputs, tmp_path)))
    out = tmp_path / "out"
    said = refused(capsys, ["generate", source, "--out", str(out), "--model", str(toy_folder), "--workers", "0"])
    assert re.search(message, said), said
    assert "manifest.jsonl line 1" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "num_inference_steps is 0; give 1..1000"),
        (["--steps", "1001"], "num_inference_steps is 1001; give 1..1000"),
        (["--guidance-scale", "nan"], "guidance_scale is nan; give 0..30"),
        (["--dense-scale", "-0.1"], "dense_scale is -0.1; give 0..10"),
        (["--sparse-scale", "inf"], "sparse_scale is inf; give 0..10"),
        (["--seed", "-1"], "--seed is -1; give 0..9223372036854775807"),
        (["--seed", str(2**63)], "--seed is 9223372036854775808"),
        (["--num-frames", "0"], "--num-frames is 0; a video has at least 1 frame"),
        (["--height", "33"], "height is 33; this model makes multiples of 16: take 32 or 48"),
        (["--width", "0"], "width is 0; give 1..8192 pixels"),
        (["--fit", "squash"], "fit is 'squash'; choose one of crop, pad, stretch"),
        (["--noise", "mixed"], "noise is 'mixed'; choose unified, fresh or mix:ALPHA"),
        (["--log-format", "xml"], "--log-format is xml; choose text or json"),
        (["--steps", "many"], "Invalid value for '--num-inference-steps' / '--steps'"),
        (["--no-such-flag"], "No such option: --no-such-flag"),
        (["--model", "no/such/model"], "model no/such/model does not exist"),
        (["--video-id", "z"], "--video-id z is not in manifest.jsonl"),
        (["--first-frame", "x.png"], "--first-frame goes with a cond.json"),
        (["--out", "nosuch://bucket"], "nosuch://bucket: unknown scheme nosuch://"),
        (["--out", "memory://x", "--workers", "1"], "--out memory:// lives within one process; give --workers 0"),
        (["--address", "127.0.0.1:1", "--workers", "1"], "--address 127.0.0.1:1: no Ray cluster answers there"),
        (["--address", "ray://127.0.0.1:1", "--workers", "1"], "is not HOST:PORT or auto"),
    ],
)
def test_flags_out_of_range(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    inputs: Inputs,
    toy_folder: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = inputs.manifest(tmp_path, inputs.row())
    given = ["generate", source, "--out", "out", "--model", str(toy_folder), "--workers", "0"]
    assert message in refused(capsys, [*given, *flags])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.jsonl"]


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("flags", [["--gpus-per-worker", "3"], ["--workers", "1", "--threads-per-worker", "9"]])
def test_more_than_the_cluster_has(
    capsys: pytest.CaptureFixture[str], inputs: Inputs, toy_folder: Path, tmp_path: Path, flags: list[str]
) -> None:
    source = inputs.manifest(tmp_path, inputs.row())
    said = refused(capsys, ["generate", source, "--out", str(tmp_path / "out"), "--model", str(toy_folder), *flags])
    assert "do not fit: the cluster has 2 CPU, 2 GPU on 1 node(s), room for 0" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file/out", "/proc/nothing/out"])
def test_outputs_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    inputs: Inputs,
    toy_folder: Path,
    tmp_path: Path,
    out: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    source = inputs.manifest(tmp_path, inputs.row())
    said = refused(capsys, ["generate", source, "--out", out, "--model", str(toy_folder), "--workers", "0"])
    assert f"--out {out} cannot be" in said


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[{}]", "cond.json entry 0, field text: missing"),
        ('[{"text": "a", "depth": "none.mp4"}]', "cond.json entry 0, field depth: none.mp4 does not exist"),
        ('{"text": "a"}', "cond.json is not a list of segments"),
        ('[{"text": "a"},]', "cond.json is not JSON"),
    ],
)
def test_a_malformed_cond_json(
    capsys: pytest.CaptureFixture[str], toy_folder: Path, tmp_path: Path, entries: str, message: str
) -> None:
    (tmp_path / "cond.json").write_text(entries)
    write_image(tmp_path / "first.png", moving(1, 1)[0])
    given = ["generate", str(tmp_path / "cond.json"), "--first-frame", str(tmp_path / "first.png")]
    assert message in refused(capsys, [*given, "--out", str(tmp_path / "out"), "--model", str(toy_folder)])
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], inputs: Inputs, toy_folder: Path, tmp_path: Path
) -> None:
    """The keys are named, all kinds in one line; a file that is not safetensors is never opened."""
    released = export_release(toy_pipeline().transformer, tmp_path / "released")
    from safetensors.torch import load_file

    weights = load_file(released[0])
    first, second, *_ = sorted(weights)
    wrong = {**weights, "extra": torch.zeros(1), second: torch.zeros(2, 7)}
    del wrong[first]
    save_file(wrong, tmp_path / "control.safetensors")
    (tmp_path / "control.pt").write_bytes(b"pickle")
    source = inputs.manifest(tmp_path, inputs.row())
    given = ["generate", source, "--out", str(tmp_path / "out"), "--model", str(toy_folder), "--workers", "0"]
    said = refused(capsys, [*given, "--control", str(tmp_path / "control.safetensors")])
    assert f"1 missing: {first}" in said
    assert "1 unexpected: extra" in said
    assert f"1 mis-shaped: {second} is (2, 7)" in said
    assert "control.pt is not safetensors" in refused(capsys, [*given, "--control", str(tmp_path / "control.pt")])
    assert not (tmp_path / "out").exists()


def test_released_files_are_taken(inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    control, attention = export_release(toy_pipeline(seed=1).transformer, tmp_path / "released")
    source = inputs.manifest(tmp_path, inputs.row(num_frames=9, prompts=["a"]))
    given = ["generate", source, "--model", str(toy_folder), "--workers", "0"]
    overlays = ["--control", str(control), "--attention", str(attention)]
    assert ends([*given, "--out", str(tmp_path / "with"), *overlays]) == 0
    assert ends([*given, "--out", str(tmp_path / "without")]) == 0
    made = [json.loads((tmp_path / name / "a" / "manifest.json").read_text()) for name in ("with", "without")]
    assert made[0]["inputs"]["control"] == str(control)
    assert made[0]["settings"]["model"] != made[1]["settings"]["model"]
    assert made[0]["segments"][0]["frames"] != made[1]["segments"][0]["frames"]


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["model", "--help"], []])
def test_help_fits_a_screen(arguments: list[str]) -> None:
    shown = command(*arguments)
    text = shown.stdout.splitlines()
    assert len(text) <= 24
    assert max(map(len, text)) <= 80
    assert "Traceback" not in shown.stderr
    if "model" not in arguments:
        assert all(name in shown.stdout for name in ("generate", "demo", "model"))


def test_help_needs_neither_torch_nor_ray() -> None:
    script = (
        "import sys; sys.modules['torch'] = sys.modules['ray'] = None; from pipelines.cli import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_flag_is_explained() -> None:
    shown = command("generate", "--help").stdout
    for flag in ("--from-segment", "--restart", "--gpus-per-worker", "--address", "--log-format", "--workers"):
        assert flag in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing argument 'INPUT'"),
        (["generate", "x.jsonl"], "Missing option '--out'"),
        (["generate", "x.jsonl", "--out", "o"], "x.jsonl does not exist"),
        (["produce"], "No such command 'produce'"),
        (["demo", "--segments", "0"], "--segments is 0; give 1 or more"),
        (["demo", "--out", "s3://bucket/demo"], "the demo writes to a local folder"),
        (["demo", "--scene", "-1"], "--scene is -1"),
        (["model"], "Missing command; see longvie --help"),
        (["model", "check", "none.safetensors"], "none.safetensors does not exist"),
    ],
)
def test_commands_that_are_incomplete(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_video_ends_with_1(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    inputs: Inputs,
    toy_folder: Path,
    tmp_path: Path,
) -> None:
    """One event a line; a video that fails on the way is named there, and the command ends with 1."""
    victim = tmp_path / "victim.mp4"
    victim.write_bytes(Path(inputs / "dense.mp4").read_bytes())
    source = inputs.manifest(tmp_path, inputs.row("good"), inputs.row("bad", dense=str(victim)))

    def spoiling(write: Callable[[str], None]) -> Report:
        report = json_lines(write)

        def spoil(kind: str, **fields: Any) -> None:
            report(kind, **fields)
            if kind == "plan":  # after all was checked, before anything is made
                victim.write_bytes(Path(inputs / "sparse.mp4").read_bytes())

        return spoil

    monkeypatch.setattr("pipelines.progress.json_lines", spoiling)
    arguments = ["generate", source, "--out", str(tmp_path / "out"), "--model", str(toy_folder)]
    assert ends([*arguments, "--workers", "0", "--log-format", "json"]) == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    statuses = {event["video_id"]: event["status"] for event in events if event["event"] == "video"}
    assert statuses == {"good": "done", "bad": "failed"}
    assert events[-1]["event"] == "end"
    assert (events[-1]["done"], events[-1]["failed"]) == (1, 1)
    assert all({"time", "event"} <= event.keys() for event in events)


def test_model_check(capsys: pytest.CaptureFixture[str], toy_folder: Path, tmp_path: Path) -> None:
    control, attention = export_release(toy_pipeline().transformer, tmp_path)
    assert ends(["model", "check", str(toy_folder), "--control", str(control), "--attention", str(attention)]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.strip() == "fits"] == ["  fits"] * 3
    assert f"control ({control})" in said
    save_file({"extra": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    assert ends(["model", "check", str(toy_folder), "--control", str(tmp_path / "wrong.safetensors")]) == 1
    said = capsys.readouterr().out
    assert "unexpected: extra" in said
    assert "does NOT fit" in said
