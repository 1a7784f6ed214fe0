"""The encoders of a model alone: what they make, from JSON only; their identity; loading them without a transformer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longvie.config import wan2_1_i2v_14b
from longvie.models.checkpoints import CheckpointError
from longvie.models.encoders import EncoderConfig, encoder_fingerprint, load_encoders, read_encoder_config
from longvie.models.loading import TINY, load_pipeline


def wan_folder(folder: Path) -> Path:
    """The JSON files of Wan2.1-I2V-14B-480P in diffusers layout, as far as they are read; no weights."""
    vae = {"_class_name": "AutoencoderKLWan", "z_dim": 16, "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    files = {
        "model_index.json": {"_class_name": "WanImageToVideoPipeline"},
        "vae/config.json": vae,
        "transformer/config.json": wan2_1_i2v_14b(),
        "image_encoder/config.json": {"architectures": ["CLIPVisionModel"], "image_size": 224, "patch_size": 14},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_the_14b_model(tmp_path: Path) -> None:
    assert read_encoder_config(wan_folder(tmp_path)) == EncoderConfig(
        z_dim=16,
        spatial=8,
        temporal=4,
        max_text_tokens=512,
        text_dim=4096,
        image_dim=1280,
        image_tokens=257,
        dtype="bfloat16",
    )


def test_the_toy_and_the_embedded_model(toy_folder: Path) -> None:
    toy = read_encoder_config(toy_folder)
    assert (toy.z_dim, toy.max_text_tokens, toy.image_dim, toy.image_tokens) == (4, 8, None, 0)
    assert toy.dtype == read_encoder_config(None).dtype == "float16"


def test_a_config_that_says_too_little(tmp_path: Path) -> None:
    folder = wan_folder(tmp_path)
    (folder / "vae" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is not a LongVie or Wan image-to-video model .*'z_dim'"):
        read_encoder_config(folder)


def test_the_identity_is_of_what_encodes_alone(toy_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(toy_folder, tmp_path / "model")
    before = encoder_fingerprint(toy_folder)
    (copy / "transformer" / "config.json").write_text("{}")
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for start, same in (("decoder.", True), ("encoder.", False)):
        name = next(name for name in weights if name.startswith(start))
        save_file({**weights, name: weights[name] + 1}, file)
        assert (encoder_fingerprint(copy) == before) == same
    save_file(weights, file)
    assert encoder_fingerprint(copy) == before
    for part, field in (("vae", "z_dim"), ("text_encoder", "d_model")):
        config = copy / part / "config.json"
        said = config.read_text()
        config.write_text(json.dumps({**json.loads(said), field: 1}))
        assert encoder_fingerprint(copy) != before
        config.write_text(said)


def test_a_refined_decoder_encodes_as_before(tmp_path: Path) -> None:
    copy = shutil.copytree(TINY, tmp_path / "model")
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "refiner.first.bias": weights["refiner.first.bias"] + 1}, file)
    config = copy / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "border_smoothing": 0.0}))
    assert encoder_fingerprint(copy) == encoder_fingerprint(TINY)
    save_file({**weights, "first.mean": weights["first.mean"] + 1}, file)
    assert encoder_fingerprint(copy) != encoder_fingerprint(TINY)


def test_they_are_those_of_the_pipeline(toy_folder: Path) -> None:
    alone, whole = load_encoders(toy_folder), load_pipeline(toy_folder)
    assert alone.transformer is None
    pixels = torch.rand(1, 3, 5, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = [pipe.vae.encode(pixels).latent_dist.mode() for pipe in (alone, whole)]
    assert torch.equal(*made)
