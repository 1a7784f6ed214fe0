"""Folders of models as users have them, whole or not: refused in one line before anything is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from longvie.models.checkpoints import CheckpointError, account_files
from longvie.models.loading import check_components, load_pipeline, read_pipeline_config


class Trap:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


@pytest.fixture
def folder(toy_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_folder, tmp_path / "model"))


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def check(folder: Path) -> None:
    """All that is looked at before a job is planned."""
    check_components(read_pipeline_config(folder).path)
    account_files(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda m: shutil.rmtree(m / "text_encoder"), "lacks text_encoder/, which its model_index.json names"),
        (lambda m: shutil.rmtree(m / "tokenizer"), "lacks tokenizer/"),
        (lambda m: shutil.rmtree(m / "scheduler"), "lacks scheduler/"),
        (lambda m: [w.unlink() for w in (m / "vae").glob("*.safetensors")], "vae holds no .safetensors"),
        (lambda m: [w.write_bytes(w.read_bytes()[:-9]) for w in (m / "vae").glob("*.safetensors")], "not a readable"),
        (lambda m: (m / "vae" / "config.json").write_text("{"), "config.json is not a readable JSON file"),
        (lambda m: (m / "model_index.json").write_text("[]"), "model_index.json is not a JSON object"),
        (lambda m: change(m / "model_index.json", height="48"), "field height: '48' is not a number of its kind"),
        (lambda m: change(m / "model_index.json", fps=True), "field fps: True is not a number of its kind"),
        (
            lambda m: change(m / "transformer" / "config.json", num_layers="2"),
            "config of the transformer makes no model",
        ),
        (lambda m: change(m / "transformer" / "config.json", num_attention_heads=3), "num_attention_heads is 3"),
    ],
)
def test_what_is_not_whole_is_refused(folder: Path, harm: Callable[[Path], object], message: str) -> None:
    check(folder)
    harm(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        check(folder)
    assert "\n" not in str(raised.value)


def test_weights_are_never_unpickled(folder: Path, tmp_path: Path) -> None:
    for weights in (folder / "vae").glob("*.safetensors"):
        weights.unlink()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_pipeline(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_config_without_its_sizes(tmp_path: Path) -> None:
    for content, message in (({"num_heads": 2}, "incomplete or wrong"), ([1], "give a JSON object")):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=message):
            account_files(config=tmp_path / "config.json")
