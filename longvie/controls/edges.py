"""Other dense controls than depth: edges. They need no statistics: each frame's lines are its own.

Canny needs neither weights nor torch; line art and soft edges are networks of controlnet-aux.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from longvie.controls.depth import DepthError

CANNY_LOW, CANNY_HIGH = 100, 200  # gradient thresholds: controlnet-aux's defaults
RESOLUTION = 512  # pixels of the shorter side that networks see: controlnet-aux's default
DENSE_KINDS = ("depth", "canny", "lineart", "softedge")

_ANNOTATORS = "https://huggingface.co/lllyasviel/Annotators/resolve/main"


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """A dense or sparse control made from frames alone: uint8 (t, h, w, 3) to the same shape, white on black."""

    name: str
    fingerprint: str  # of everything its result depends on
    detect: Callable[[UInt8[ndarray, "h w 3"]], UInt8[ndarray, "h2 w2 ..."]]

    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> UInt8[ndarray, "t h w 3"]:
        size = frames.shape[2], frames.shape[1]
        made = (cv2.resize(self.detect(frame), size, interpolation=cv2.INTER_LINEAR) for frame in frames)
        return np.stack([np.repeat(one[..., None], 3, axis=2) if one.ndim == 2 else one for one in made])


def load_dense_detector(spec: str, *, device: str = "cpu") -> Detector:
    """Load canny, lineart:FOLDER or softedge:FOLDER (a folder or hub repository with safetensors).

    Raises:
        DepthError: if there is no such detector, or its weights cannot be had.
    """
    name, _, where = spec.partition(":")
    if spec == "canny":
        fingerprint = f"canny-{CANNY_LOW}-{CANNY_HIGH}-opencv-{cv2.__version__}"
        return Detector(name=name, fingerprint=fingerprint, detect=_canny)
    if name not in ("lineart", "softedge"):
        raise DepthError(f"there is no dense control {spec!r}; give depth, canny, lineart:FOLDER or softedge:FOLDER")
    from longvie.controls import weights

    file = "sk_model" if name == "lineart" else "ControlNetHED"
    try:
        path = weights.find_weights(where, file, published=f"{_ANNOTATORS}/{file}.pth")
        if name == "lineart":
            from controlnet_aux.lineart import Generator, LineartDetector

            network = Generator(3, 1, 3).eval()
            detector = LineartDetector(network, network)  # the second, coarse network is not used
        else:
            from controlnet_aux.hed import ControlNetHED_Apache2, HEDdetector

            network = ControlNetHED_Apache2().eval()
            detector = HEDdetector(network)
        weights.load_weights(network, path)
    except weights.WeightsError as error:
        raise DepthError(f"dense control {name}: {error}") from error
    detect = partial(detector.to(device), detect_resolution=RESOLUTION, image_resolution=RESOLUTION, output_type="np")
    return Detector(name=name, fingerprint=weights.fingerprint(network, name, RESOLUTION), detect=detect)


def _canny(frame: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w"]:
    return np.asarray(cv2.Canny(frame, CANNY_LOW, CANNY_HIGH))
