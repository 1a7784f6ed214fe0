"""A training job from encoded data to a model: whole, killed and resumed, over Ray, and refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from wandb.proto.wandb_internal_pb2 import Record

import pipelines.training.loop
from longvie.models.encoders import encoder_fingerprint
from longvie.models.loading import load_pipeline, read_pipeline_config
from longvie.training.encoded import EncodedError
from longvie.training.trainer import Trainer
from pipelines.cli import main
from pipelines.errors import UserError
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.errors import TrainError
from pipelines.training.options import TrainOptions, decisive
from pipelines.training.train import _everywhere, train
from tests.encoded import write_encoded
from tests.pipelines.helpers import Log
from tests.toy import toy_pipeline

STEPS = (("control", 4), ("degradation", 3), ("history", 0))
WEIGHTS = "model/transformer/diffusion_pytorch_model.safetensors"
_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.pipelines.helpers", "pipelines.training.train"])


@pytest.fixture(scope="module")
def data(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded") / "data"
    return write_encoded(folder, toy_pipeline(), encoder_fingerprint(toy_folder))


@pytest.fixture
def options(data: Path, toy_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "recipe": "tiny",
        "data": (str(data),),
        "out": str(tmp_path / "out"),
        "model": str(toy_folder),
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": 2,
        "sample_every": 4,
        "workers": 0,
    }


def run(options: dict[str, Any], **changes: Any) -> Log:
    log = Log()
    train(TrainOptions(**{**options, **changes}), log)
    return log


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(data: Path, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run makes."""
    out = tmp_path_factory.mktemp("whole")
    run(
        {
            "recipe": "tiny", "data": (str(data),), "out": str(out), "model": str(toy_folder), "steps": STEPS,
            "log_every": 1, "checkpoint_every": 2, "sample_every": 4, "workers": 0,
        }
    )  # fmt: skip
    return out


def test_what_a_run_leaves(whole: Path, toy_folder: Path) -> None:
    steps = curve(whole)
    assert [record["step"] for record in steps] == list(range(1, 8))
    assert [record["stage"] for record in steps] == ["control"] * 4 + ["degradation"] * 3
    assert all(record["loss"] > 0 and any(name.startswith("loss/") for name in record) for record in steps)
    assert sorted(path.name for path in (whole / "checkpoints").glob("*.json")) == [
        f"{step:08d}.json" for step in (4, 6, 7)
    ]
    assert list((whole / "tensorboard").glob("events.out.tfevents.*"))
    assert [path.name for path in (whole / "samples").iterdir()] == ["00000004.mp4"]
    assert read_pipeline_config(whole / "model").fps == read_pipeline_config(toy_folder).fps
    pipe = load_pipeline(whole / "model")  # as longvie generate does
    assert (pipe.config["segment_length"], pipe.config["height"], pipe.config["width"]) == (9, 32, 48)
    assert pipe.config["keeps_first_frame"]  # as the recipe says
    before = load_file(toy_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(whole / WEIGHTS)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert {path.name for path in (whole / "release").iterdir()} == {"control.safetensors", "dit.safetensors"}


def test_a_rerun_has_nothing_to_do_but_export(whole: Path, options: dict[str, Any]) -> None:
    before = (whole / WEIGHTS).read_bytes()
    log = run(options, out=str(whole))
    assert not log.of("step")
    assert (whole / WEIGHTS).read_bytes() == before


class _Dying(Checkpoints):
    """Dies by SIGKILL at a point of saving."""

    point: tuple[str, int] = ("", 0)

    def save(self, steps_done: int, state: Any, said: Any) -> None:
        here = steps_done == self.point[1]
        if here and self.point[0] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self.point[0] == "uncommitted":
            self._storage.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        super().save(steps_done, state, said)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)


def _die(options: dict[str, Any], point: tuple[str, int]) -> None:
    torch.set_num_threads(1)
    if point[0] == "step":
        step = Trainer.step

        def dying(self: Trainer, number: int) -> Any:
            if number == point[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, number)

        Trainer.step = dying  # type: ignore[method-assign]
    _Dying.point = point
    pipelines.training.loop.Checkpoints = _Dying  # type: ignore[misc]
    run(options)


@pytest.mark.parametrize(
    "point", [("step", 0), ("step", 3), ("step", 5), ("before", 4), ("uncommitted", 4), ("after", 4), ("after", 7)]
)
def test_kill_9_changes_nothing(point: tuple[str, int], options: dict[str, Any], whole: Path) -> None:
    """Loss curve and weights, to the bit."""
    child = _forkserver.Process(target=_die, args=(options, point))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    run(options)
    out = Path(options["out"])
    assert curve(out) == curve(whole)
    for name in (WEIGHTS, "release/control.safetensors", "samples/00000004.mp4"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in (out / "checkpoints").iterdir()} == {
        path.name for path in (whole / "checkpoints").iterdir()
    }


@pytest.mark.usefixtures("ray_here")
class TestOnRay:
    @pytest.mark.slow
    def test_two_workers_make_what_one_makes(self, options: dict[str, Any], whole: Path) -> None:
        log = run(options, workers=2, gpus_per_worker=0)
        assert [event["step"] for event in log.of("step")] == list(range(1, 8))
        out = Path(options["out"])
        for one, other in zip(curve(out), curve(whole), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        ours, theirs = load_file(out / WEIGHTS), load_file(whole / WEIGHTS)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)

    @pytest.mark.slow
    def test_two_workers_share_the_weights_of_a_large_model(self, options: dict[str, Any], tmp_path: Path) -> None:
        steps = (("control", 2), ("degradation", 1), ("history", 1))
        large = {"recipe": "wan2_1_i2v_14b", "steps": steps, "batch": 4, "sample_every": 2}
        run(options, **large, workers=2, gpus_per_worker=0)
        run(options, **large, out=str(tmp_path / "alone"))
        for one, other in zip(curve(Path(options["out"])), curve(tmp_path / "alone"), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=0.02), "bfloat16"
        ours, theirs = (load_file(out / WEIGHTS) for out in (Path(options["out"]), tmp_path / "alone"))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name].float(), value.float(), rtol=0.02, atol=0.02)

    def test_a_worker_that_dies_is_replaced(
        self, options: dict[str, Any], whole: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And goes on from the last checkpoint: to the bit what a run without Ray makes."""
        monkeypatch.setattr("pipelines.training.train._on_worker", _dies_once)
        log = run({**options, "out": options["out"]}, workers=1, gpus_per_worker=0)
        assert [event["step"] for event in log.of("begin")] == [0, 4]
        out = Path(options["out"])
        assert curve(out) == curve(whole)
        assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def _dies_once(config: dict[str, Any]) -> None:
    from pipelines.training.train import _on_worker

    mark = Path(config["options"]["out"]) / "died"
    step = Trainer.step

    def dying(self: Trainer, number: int) -> Any:
        if number == 5 and not mark.exists():
            mark.touch()
            time.sleep(1)  # what has been told is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number)

    Trainer.step = dying  # type: ignore[method-assign]
    _on_worker(config)


def test_recipes_of_the_large_models_run_on_any(options: dict[str, Any], toy_folder: Path) -> None:
    """In bfloat16, with activations computed again: what they do on GPUs, at a toy's size."""
    steps = (("control", 2), ("degradation", 1), ("history", 2))
    run(options, recipe="wan2_1_i2v_14b", steps=steps, batch=4, sample_every=0)
    out = Path(options["out"])
    assert [record["stage"] for record in curve(out)] == ["control"] * 2 + ["degradation"] + ["history"] * 2
    before = load_file(toy_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(out / WEIGHTS)
    assert torch.equal(after["blocks.0.ffn.net.2.weight"], before["blocks.0.ffn.net.2.weight"].bfloat16())
    load_pipeline(out / "model")


def test_lora(options: dict[str, Any], toy_folder: Path) -> None:
    run(options, lora=2)
    pipe = load_pipeline(toy_folder)
    pipe.load_lora_weights(str(Path(options["out"]) / "lora"))
    assert pipe.get_active_adapters()


def test_a_loss_that_is_no_number_ends_the_run(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Trainer.loss

    def broken(self: Trainer, one: Any) -> Any:
        return loss(self, one) * (torch.nan if len(calls) >= 3 else 1)

    calls: list[int] = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "loss", broken)
    monkeypatch.setattr(Trainer, "step", lambda self, number: (calls.append(number), step(self, number))[1])
    with pytest.raises(TrainError, match=r"loss of step 2 is nan.*samples"):
        run(options)
    assert [path.name for path in (Path(options["out"]) / "checkpoints").glob("*.json")] == ["00000002.json"]


def test_relative_paths_mean_the_same_to_workers_elsewhere(
    options: dict[str, Any], toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_folder.parent)
    everywhere = _everywhere(TrainOptions(**{**options, "model": toy_folder.name, "out": "run"}))
    assert everywhere.model == str(toy_folder)
    assert everywhere.out == str(toy_folder.parent / "run")


def test_several_datasets_are_mixed_and_another_mixture_is_another_run(options: dict[str, Any]) -> None:
    steps = (("control", 1), ("degradation", 1), ("history", 0))
    short = {"steps": steps, "sample_every": 0, "data": 2 * options["data"]}
    log = run(options, **short, shares=(3.0, 1.0))
    assert log.of("begin")[0]["num_samples"] == 12
    assert [event["step"] for event in log.of("step")] == [1, 2]
    with pytest.raises(UserError, match="another recipe, seed, model or data"):
        run(options, **short, shares=(1.0, 1.0))


def test_a_tracker_is_told_of_every_step(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb, offline: what it keeps in its file is what log.jsonl says."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(options, trackers=("wandb",), sample_every=0)
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert kept.stem.removeprefix("run-") == json.loads((Path(options["out"]) / "recipe.json").read_text())["key"][:32]
    told: dict[int, float] = {}
    for record in map(Record.FromString, _leveldb_records(kept.read_bytes())):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            told[int(row["_step"])] = row["loss"]
    assert told == {line["step"]: pytest.approx(line["loss"]) for line in curve(Path(options["out"]))}


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, after a header of 7 bytes: blocks of 32 KiB with fragments of records."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            yield parts
            parts = b""


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"recipe": "huge"}, "--recipe is huge; choose one of tiny"),
            ({"steps": (("warmup", 3),)}, "--steps: tiny has no stage warmup"),
            ({"steps": (("control", 0), ("degradation", 0), ("history", 0))}, "no stage of tiny is left"),
            ({"batch": 0}, "--batch is 0"),
            ({"recipe": "wan2_1_i2v_14b", "workers": 3}, "--workers 3 do not share a batch of 64 evenly"),
            ({"workers": 9}, "--workers is 9, more than the 4 samples"),
            ({"rate": 2.0}, "--rate is 2.0"),
            ({"fresh": True, "lora": 4}, "--fresh and --lora"),
            ({"sample_every": -1}, "--sample-every is -1"),
            ({"trackers": ("paper",)}, "--tracker is paper; choose one of aim"),
            ({"trackers": ("clearml",)}, "--tracker clearml needs its package: pip install clearml"),
            ({"shares": (1.0, 2.0)}, "--share is given 2 times, --data 1"),
            ({"shares": (0.0,)}, "--share is 0.0"),
        ],
    )
    def test_options(self, options: dict[str, Any], changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            run(options, **changes)

    def test_another_run_in_the_same_place(self, whole: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="another recipe, seed, model or data"):
            run(options, out=str(whole), seed=9)

    def test_data_of_another_model(self, options: dict[str, Any]) -> None:
        with pytest.raises(EncodedError, match="encoded for another model"):
            run(options, model=None)

    def test_no_data(self, options: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(EncodedError, match="longvie encode"):
            run(options, data=(str(tmp_path),))
        assert not Path(options["out"]).exists()


def test_a_dry_run_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--recipe", "wan2_1_i2v_14b", "--workers", "16", "--dry-run"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "of which 2,633,637,888 are the control's" in said
    assert "1/16 of the weights each" in said
    with pytest.raises(SystemExit) as ended:
        main(["train", "--recipe", "tiny"])
    assert ended.value.code == 2
    assert "--data and --out" in capsys.readouterr().err


def test_degradations_take_the_share_they_are_given(options: dict[str, Any]) -> None:
    plain = TrainOptions(**options)
    changed = TrainOptions(**options, degrade=(("feature", 0.5), ("first-frame", 0.0)))
    for stage in changed.chosen.stages:
        assert (stage.conditions.features, stage.conditions.first_frame) == (0.5, 0.0)
    assert [s.conditions.data for s in changed.chosen.stages] == [s.conditions.data for s in plain.chosen.stages]
    keys = [decisive(one, "data", "model")["key"] for one in (plain, changed)]
    assert keys[0] != keys[1], "a checkpoint of the one is not gone on from by the other"
    for wrong, message in (((("colour", 0.1),), "no degradation"), ((("data", 1.5),), "0 to 1")):
        with pytest.raises(UserError, match=message):
            TrainOptions(**options, degrade=wrong)
