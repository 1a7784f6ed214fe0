from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longvie.models.checkpoints import load_transformer
from longvie.models.loading import load_pipeline
from longvie.training.export import export_pipeline, export_release, gather_weights, transformer_of
from tests.toy import toy_pipeline


@pytest.fixture
def trained() -> torch.nn.Module:
    return toy_pipeline(seed=1).transformer


def test_a_pipeline_folder_loads_and_generates(toy_folder: Path, trained, tmp_path: Path) -> None:
    out = export_pipeline(trained, toy_folder, tmp_path / "made", {"num_inference_steps": 3, "fps": 12})
    pipe = load_pipeline(out)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), pipe.transformer.parameters(), strict=True))
    start = load_pipeline(toy_folder)
    assert all(torch.equal(a, b) for a, b in zip(start.vae.parameters(), pipe.vae.parameters(), strict=True))
    assert (pipe.config["num_inference_steps"], pipe.fps, pipe.segment_length) == (3, 12, 9)
    frames = pipe(torch.full((32, 48, 3), 90, dtype=torch.uint8), "a red ball").frames
    assert frames.shape == (9, 32, 48, 3)
    assert not list(tmp_path.glob(".*")), "no temporary is left"
    assert "_name_or_path" not in (out / "transformer" / "config.json").read_text()


def test_a_base_model_without_control_becomes_a_longvie_pipeline(toy_folder: Path, trained, tmp_path: Path) -> None:
    """Wan's own folder names its own classes, and components that LongVie's pipeline does not know."""
    wan = tmp_path / "wan"
    load_pipeline(toy_folder).save_pretrained(wan)
    index = json.loads((wan / "model_index.json").read_text())
    index |= {"_class_name": "WanImageToVideoPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    index |= {"boundary_ratio": None, "transformer_2": [None, None]}
    (wan / "model_index.json").write_text(json.dumps(index))
    pipe = load_pipeline(export_pipeline(trained, wan, tmp_path / "made", {}))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), pipe.transformer.parameters(), strict=True))
    assert "boundary_ratio" not in json.loads((tmp_path / "made" / "model_index.json").read_text())


def test_it_replaces_what_was_there(toy_folder: Path, trained, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "half").touch()
    made = export_pipeline(trained, toy_folder, tmp_path / "made", {})
    assert not [name for name in ("old", "half") if (made / name).exists()]
    with pytest.raises(ValueError, match="speed is not an argument"):
        export_pipeline(trained, toy_folder, tmp_path / "made", {"speed": 1})


def test_release_round_trip(trained, tmp_path: Path) -> None:
    export_release(trained, tmp_path, base=True)
    files = [tmp_path / f"{name}.safetensors" for name in ("base", "control", "dit")]
    loaded = load_transformer(*files, config=dict(trained.config))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), loaded.parameters(), strict=True))


def test_averaged_weights_take_the_place_of_the_last(trained) -> None:
    averaged = {"blocks.0.fuse.weight": torch.full_like(trained.blocks[0].fuse.weight, 0.5)}
    weights = gather_weights(trained, averaged, torch.float16)
    assert torch.equal(weights["blocks.0.fuse.weight"], averaged["blocks.0.fuse.weight"].half())
    assert weights["blocks.0.scale_shift_table"].dtype == torch.float32, "diffusers keeps it so"
    assert gather_weights(trained, averaged, keep=False) == {}
    made = transformer_of(trained.config, weights)
    assert made.blocks[0].fuse.weight.dtype == torch.float16
    with pytest.raises(RuntimeError, match=r"fuse\.weight"):
        transformer_of(trained.config, {k: v for k, v in weights.items() if k != "blocks.0.fuse.weight"})
