"""What a user may get wrong before anything is encoded: one line, and nothing is written."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.encoding.cli import encode as command
from pipelines.encoding.options import EncodeOptions
from pipelines.errors import UserError
from tests.pipelines.encoding.encode_helpers import (
    run,
    write_prepared,
)
from tests.pipelines.preparation.prepare_helpers import tree
from tests.pipelines.test_cli import refused
from tests.toy import save_toy_pipeline


def _other_model(toy: Path, prepared: Path, folder: Path) -> tuple[Path, Path]:
    return save_toy_pipeline(folder / "model", seed=1), prepared


def _other_length(toy: Path, prepared: Path, folder: Path) -> tuple[Path, Path]:
    return save_toy_pipeline(folder / "model", segment_length=13), prepared


def _other_index(**fields: Any) -> Callable[[Path, Path, Path], tuple[Path, Path]]:
    def make(toy: Path, prepared: Path, folder: Path) -> tuple[Path, Path]:
        copy = shutil.copytree(toy, folder / "model")
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps({**index, **fields}))
        return copy, prepared

    return make


def _no_weights(toy: Path, prepared: Path, folder: Path) -> tuple[Path, Path]:
    copy = shutil.copytree(toy, folder / "model")
    next((copy / "vae").glob("*.safetensors")).write_bytes(b"")
    return copy, prepared


def _no_table(toy: Path, prepared: Path, folder: Path) -> tuple[Path, Path]:
    copy = shutil.copytree(prepared, folder / "prepared")
    (copy / "segments.parquet").unlink()
    return toy, copy


def _other_size(toy: Path, prepared: Path, folder: Path) -> tuple[Path, Path]:
    return toy, write_prepared(folder, {"b": 9}, size="40x32")


@pytest.mark.parametrize(
    ("change", "into_encoded", "message"),
    [
        (_other_model, True, r"was encoded with encoder.sha256 .*choose another --out, or begin anew with --restart"),
        (_other_length, False, "has segments of 9 frames, the model makes 13; prepare it with --model"),
        (_other_index(fps=16), False, "has 8 frames a second, the model makes 16; prepare it with --model"),
        (_other_size, False, "width is 40; this model makes multiples of 16"),
        (_no_weights, False, "is not a readable safetensors file"),
        (_no_table, False, "has no segments.parquet; give a folder that longvie prepare finished"),
    ],
)
def test_refused_at_the_door(
    change: Any,
    into_encoded: bool,
    message: str,
    prepared: Path,
    encoded: Path,
    toy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, source = change(toy_folder, prepared, tmp_path)
    out = shutil.copytree(encoded, tmp_path / "out") if into_encoded else tmp_path / "out"
    before = tree(out)
    line = ["encode", str(source), "--out", str(out), "--model", str(model), "--workers", "0"]
    said = refused(capsys, [*line, "--segments-per-shard", "2"])
    assert re.search(message, said), said
    assert tree(out) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dtype", "int8"], "--dtype is int8; choose one of float16"),
        (["--history-frames", "1,x"], "--history-frames 1,x: give numbers"),
        (["--history-frames", "0"], "--history-frames is 0; give 1 or more"),
        (["--history-frames", "16"], "--history-frames 16: a segment of 9 frames hands on no more"),
        (["--degraded-variants", "17"], "--degraded-variants is 17; give 0 or more, to 16"),
        (["--segments-per-shard", "0"], "--segments-per-shard is 0"),
        (["--gpus-per-worker", "1"], "--workers 0 works in this process"),
        (["--model", "nowhere"], "model nowhere does not exist"),
        (["--log-format", "xml"], "--log-format is xml"),
    ],
)
def test_mistakes(
    flags: list[str], message: str, prepared: Path, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["encode", str(prepared), "--out", str(tmp_path / "out"), "--model", str(toy_folder), "--workers", "0"]
    assert message in refused(capsys, [*line, *flags])
    assert not (tmp_path / "out").exists()


def test_out_within_prepared_itself(prepared: Path) -> None:
    with pytest.raises(UserError, match="is the prepared folder itself"):
        run(prepared, prepared, None)


def test_the_command_has_the_options_of_the_job() -> None:
    flags = set(inspect.signature(command).parameters) - {"log_format"}
    assert flags == set(inspect.signature(EncodeOptions).parameters)
