"""Depth estimators that need torch: transformers models and the networks of controlnet-aux.

Weights are read as safetensors only. controlnet-aux's own detectors scale every frame by itself, the very fault that
LongVie's global range cures; here only their networks are used, and their float output is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.controls.depth import DepthError
from longvie.controls.normalize import Polarity
from longvie.controls.weights import WeightsError, find_weights, fingerprint, load_weights, torch_dtype

_LOADED = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json")
# What a model's kind says of its output; Depth Anything's is in its config.
_POLARITY: dict[str, Polarity] = {"dpt": "disparity", "zoedepth": "depth", "depth_pro": "depth", "glpn": "depth"}


class TransformersDepth:
    """A depth model of transformers that takes single frames: Depth Anything, DPT (MiDaS), ZoeDepth, GLPN, DepthPro."""

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
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

        self._batch_size = _checked(batch_size)
        self._device, self._dtype = torch.device(device), torch_dtype(dtype)
        folder = _snapshot(source)
        try:
            config = AutoConfig.from_pretrained(folder)
            self._processor = AutoImageProcessor.from_pretrained(folder)
            self._model = AutoModelForDepthEstimation.from_pretrained(folder, use_safetensors=True, dtype=self._dtype)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DepthError(
                f"depth model {source} cannot be loaded ({reason}); it needs config.json, preprocessor_config.json and "
                "model.safetensors of a depth estimation model"
            ) from error
        self.name = f"transformers:{source}"
        self.polarity: Polarity = polarity or _polarity_of(source, config)
        self._model.eval().to(self._device)
        self.fingerprint = fingerprint(self._model, self._processor.to_json_string(), dtype, self.polarity)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, "t h w"]:
        """Depth as the model gives it, resized to the frames' size by its own postprocessing."""
        size = frames.shape[1:3]
        made = []
        for start in range(0, len(frames), self._batch_size):
            batch = frames[start : start + self._batch_size]
            pixels = self._processor(images=list(batch), return_tensors="pt")["pixel_values"]
            outputs = self._model(pixel_values=pixels.to(self._device, self._dtype))
            outputs["predicted_depth"] = outputs["predicted_depth"].float()
            depths = self._processor.post_process_depth_estimation(outputs, target_sizes=[size] * len(batch))
            made.append(torch.stack([depth["predicted_depth"] for depth in depths]).cpu().numpy())
        return np.concatenate(made).astype(np.float32)


class ControlNetAuxDepth:
    """MiDaS (DPT-Hybrid), ZoeDepth or LeReS with controlnet-aux's networks."""

    def __init__(
        self, kind: str, where: str, *, device: str = "cpu", dtype: str = "float32", batch_size: int = 8
    ) -> None:
        """Load `kind` (midas, zoe or leres) with its safetensors from the folder or hub repository `where`."""
        published, polarity, build, self._estimate = _NETWORKS[kind]
        self._batch_size, self._dtype = _checked(batch_size), torch_dtype(dtype)
        try:
            weights = find_weights(where, Path(published).stem, published=published)
            self._model = build()
            load_weights(self._model, weights, leftovers=_LEFTOVERS)
        except WeightsError as error:
            raise DepthError(f"depth estimator {kind}: {error}") from error
        self._model.eval().to(device=device, dtype=self._dtype)
        self._device = torch.device(device)
        self.name = kind
        self.polarity: Polarity = polarity
        self.fingerprint = fingerprint(self._model, kind, dtype)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, "t h w"]:
        """Depth as the network gives it at controlnet-aux's working size, resized bilinearly to the frames' size."""
        from controlnet_aux.util import resize_image

        height, width = frames.shape[1:3]
        made = []
        for start in range(0, len(frames), self._batch_size):
            batch = np.stack([resize_image(frame, _RESOLUTION) for frame in frames[start : start + self._batch_size]])
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).to(self._device, self._dtype) / 255
            depth = self._estimate(self._model, pixels).float().cpu().numpy()
            made += [cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in depth]
        return np.stack(made)


_LEFTOVERS = ("relative_position_index",)  # tables that newer timm computes and older checkpoints hold
_RESOLUTION = 512  # pixels of the shorter side: controlnet-aux's default
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # LeReS's mean and standard deviation


def _build_midas() -> torch.nn.Module:
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    return DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)


def _build_zoe() -> torch.nn.Module:
    from controlnet_aux.zoe.zoedepth.models.zoedepth.zoedepth_v1 import ZoeDepth
    from controlnet_aux.zoe.zoedepth.utils.config import get_config

    return ZoeDepth.build_from_config(get_config("zoedepth", "infer"))


def _build_leres() -> torch.nn.Module:
    from controlnet_aux.leres.leres.multi_depth_model_woauxi import RelDepthModel

    return RelDepthModel(backbone="resnext101")


def _leres(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    mean, deviation = (torch.tensor(value, device=pixels.device).view(1, 3, 1, 1) for value in _IMAGENET)
    return model.get_submodule("depth_model")(((pixels - mean) / deviation).to(pixels.dtype))[:, 0]


_Estimate = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]  # pixels 0..1 (b, 3, h, w) -> depth (b, h, w)
_NETWORKS: dict[str, tuple[str, Polarity, Callable[[], torch.nn.Module], _Estimate]] = {
    "midas": (
        "https://huggingface.co/lllyasviel/Annotators/resolve/main/dpt_hybrid-midas-501f0c75.pt",
        "disparity",
        _build_midas,
        lambda model, pixels: model(pixels * 2 - 1),
    ),
    "zoe": (
        "https://huggingface.co/lllyasviel/Annotators/resolve/main/ZoeD_M12_N.pt",
        "depth",
        _build_zoe,
        lambda model, pixels: model.infer(pixels)[:, 0],  # pyright: ignore[reportCallIssue]
    ),
    "leres": (
        "https://huggingface.co/lllyasviel/Annotators/resolve/main/res101.pth",
        "depth",
        _build_leres,
        _leres,
    ),
}


def _checked(batch_size: int) -> int:
    if batch_size < 1:
        raise DepthError(f"batch_size is {batch_size}; give at least 1")
    return batch_size


def _snapshot(source: str) -> Path:
    """The folder of a transformers model: a local one, or a hub repository's files that can run no code."""
    if Path(source).is_dir():
        return Path(source)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise DepthError(f"depth model {source} does not exist; give a folder or a hub repository as OWNER/NAME")
    try:
        return Path(snapshot_download(source, allow_patterns=list(_LOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DepthError(
            f"depth model {source} is neither a folder here nor to be had from the hub ({reason}); download it where "
            "there is a network, or give --depth builtin"
        ) from error


def _polarity_of(source: str, config: object) -> Polarity:
    kind = getattr(config, "model_type", "")
    if kind == "depth_anything":
        return "depth" if getattr(config, "depth_estimation_type", "relative") == "metric" else "disparity"
    if kind not in _POLARITY:
        raise DepthError(f"depth model {source} is of kind {kind!r}, whose polarity is not known; say it is")
    return _POLARITY[kind]
