"""Depth estimators that need torch: transformers models and those of controlnet-aux.

Weights are read as safetensors only, and nothing is downloaded but through the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

from longvie.controls.depth import DepthError
from longvie.controls.normalize import Polarity

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TransformersDepth:
    """Any depth model of transformers that takes single frames: Depth Anything, DPT (MiDaS), ZoeDepth, GLPN, DepthPro."""

    def __init__(
        self,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 8,
        polarity: Polarity | None = None,
    ) -> None:
        """Load the model from a local folder or a hub repository; see `load_depth_estimator`."""
        if dtype not in DTYPES:
            raise DepthError(f"dtype {dtype} is not one of {', '.join(DTYPES)}")
        if batch_size < 1:
            raise DepthError(f"batch_size is {batch_size}; give at least 1")
        try:
            config = AutoConfig.from_pretrained(source)
            self._processor = AutoImageProcessor.from_pretrained(source)
            self._model = AutoModelForDepthEstimation.from_pretrained(source, use_safetensors=True, dtype=DTYPES[dtype])
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DepthError(
                f"depth model {source} cannot be loaded ({reason}); give a local folder with config.json, "
                "preprocessor_config.json and model.safetensors, or the name of a hub repository that can be reached"
            ) from error
        self.name = f"transformers:{source}"
        self.polarity: Polarity = polarity or _polarity_of(source, config)
        self._device, self._dtype, self._batch_size = torch.device(device), DTYPES[dtype], batch_size
        self._model.eval().to(self._device)
        self.fingerprint = _fingerprint(self._model, self._processor.to_json_string(), dtype)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, "t h w"]:
        size = frames.shape[1:3]
        made = []
        for start in range(0, len(frames), self._batch_size):
            batch = frames[start : start + self._batch_size]
            pixels = self._processor(images=list(batch), return_tensors="pt")["pixel_values"]
            outputs = self._model(pixel_values=pixels.to(self._device, self._dtype))
            depths = self._processor.post_process_depth_estimation(outputs, target_sizes=[size] * len(batch))
            made.append(torch.stack([depth["predicted_depth"] for depth in depths]).float().cpu().numpy())
        return np.concatenate(made)


def _polarity_of(source: str, config: object) -> Polarity:
    """What a model's kind says of its output."""
    kind = getattr(config, "model_type", "")
    if kind == "depth_anything":
        return "depth" if getattr(config, "depth_estimation_type", "relative") == "metric" else "disparity"
    kinds: dict[str, Polarity] = {"dpt": "disparity", "zoedepth": "depth", "depth_pro": "depth", "glpn": "depth"}
    if kind not in kinds:
        raise DepthError(f"depth model {source} is of kind {kind!r}, whose polarity is not known; give polarity")
    return kinds[kind]


def _fingerprint(model: torch.nn.Module, settings: str, dtype: str) -> str:
    """SHA-256 over the weights, the preprocessing and the precision."""
    digest = hashlib.sha256(json.dumps([settings, dtype]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
