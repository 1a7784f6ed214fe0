"""The VAE ceiling: the true frames through a model's autoencoder, which no video of that model can be better than."""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import UInt8
from numpy import ndarray

from longvie import conditioning
from longvie.models.block_vae import BlockVAE
from longvie.models.loading import resolve_model
from longvie.types import VideoAutoencoder


class Ceiling:
    """Encodes and decodes segments with the VAE of `model` (None: the embedded one)."""

    def __init__(self, model: str | None, device: str = "cpu") -> None:
        path = resolve_model(model)
        (_, kind) = json.loads((path / "model_index.json").read_text())["vae"]
        loader: Any = BlockVAE if kind == "BlockVAE" else AutoencoderKLWan
        self._vae: VideoAutoencoder = loader.from_pretrained(
            path / "vae", use_safetensors=True, torch_dtype=torch.float32
        ).to(device)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> UInt8[ndarray, "t h w 3"]:
        """The same frames after one encode and decode; a last segment is padded by its last frame and cut again."""
        factor = self._vae.config.scale_factor_temporal
        given = torch.from_numpy(frames)
        missing = -(len(given) - 1) % factor
        padded = torch.cat([given, given[-1:].expand(missing, -1, -1, -1)]) if missing else given
        pixels = conditioning.to_pixels(padded).to(self._vae.device)
        latents = conditioning.encode(self._vae, pixels)
        return conditioning.to_frames(conditioning.decode(self._vae, latents))[: len(frames)].numpy()
