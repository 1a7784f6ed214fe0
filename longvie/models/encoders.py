"""The parts of a model that encode frames and text, without its transformer: what training data is made with.

They are the same objects generation uses (`LongViePipeline`'s own), loaded alone: the 14B model's transformer takes
28 GB, its encoders 13.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from longvie.models.checkpoints import CheckpointError
from longvie.models.loading import LOADED, digest_files, open_pipeline, read_json, resolve_model
from longvie.pipeline import LongViePipeline

ENCODERS = ("vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")
_DECODING_WEIGHTS = ("refiner.", "decoder.", "post_quant_conv.")  # of `BlockVAE`; of Wan's VAE
_DECODING_FIELDS = ("border_smoothing",)
_WAN_WIDTH = 1536  # of the smallest Wan transformer (1.3B); all of them are trained and released in bfloat16


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What a model's encoders make, from its JSON files alone.

    Args:
        z_dim: channels of its latents; spatial, temporal: pixels and frames a latent.
        max_text_tokens: tokens a prompt is padded to with zero rows.
        text_dim, image_dim: features of a text token and of an image token; no image encoder: None.
        image_tokens: of one image; 0 without an image encoder.
        dtype: in which its latents are kept without loss to a model of its size.
    """

    z_dim: int
    spatial: int
    temporal: int
    max_text_tokens: int
    text_dim: int
    image_dim: int | None
    image_tokens: int
    dtype: str


def read_encoder_config(model: str | Path | None = None) -> EncoderConfig:
    """Read it from a model in diffusers layout; `CheckpointError` if it says too little."""
    path = resolve_model(model)
    index, vae, transformer = (
        read_json(path / name) for name in ("model_index.json", "vae/config.json", "transformer/config.json")
    )
    try:
        image_dim = transformer.get("image_dim")
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        return EncoderConfig(
            z_dim=vae["z_dim"],
            spatial=vae.get("scale_factor_spatial", 8),  # Wan 2.1's own folder says neither
            temporal=vae.get("scale_factor_temporal", 4),
            max_text_tokens=index.get("max_sequence_length", 512),
            text_dim=transformer["text_dim"],
            image_dim=image_dim,
            image_tokens=0 if image_dim is None else _image_tokens(read_json(path / "image_encoder" / "config.json")),
            dtype="bfloat16" if width >= _WAN_WIDTH else "float16",
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a LongVie or Wan image-to-video model ({error!r} in its config)"
        ) from error


def encoder_fingerprint(model: str | Path | None = None) -> str:
    """SHA-256 over what decides an encoding: weights, configs and tokenizer of the encoders, the VAE's own decoder left
    out. Models that share it share encoded data."""
    path = resolve_model(model)
    files = {
        file.relative_to(path).as_posix(): file
        for part in ENCODERS
        for pattern in LOADED
        for file in (path / part).rglob(pattern)
    }
    vae = {name: file for name, file in files.items() if name.startswith("vae/")}
    others = digest_files({name: file for name, file in files.items() if name not in vae})
    return hashlib.sha256(f"{others} {_encoding_digest(vae.values())}".encode()).hexdigest()


def _encoding_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the tensors and config fields of a VAE that encode."""
    parts: dict[str, Any] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # it is no dict
                    if not name.startswith(_DECODING_WEIGHTS):
                        tensor = weights.get_tensor(name)
                        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
                        parts[name] = f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(content).hexdigest()}"
        elif file.name == "config.json":
            fields = read_json(file)
            parts["config"] = {name: value for name, value in fields.items() if name not in _DECODING_FIELDS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_encoders(
    model: str | Path | None = None, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> LongViePipeline:
    """The pipeline without its transformer; dtypes and device as in `load_pipeline`."""
    return open_pipeline(resolve_model(model), None, dtype, device)


def _image_tokens(config: dict[str, Any]) -> int:
    """Patches of a CLIP vision model and its class token; of 224 pixels in patches of 14: 257."""
    config = config.get("vision_config", config)
    return (config["image_size"] // config["patch_size"]) ** 2 + 1
