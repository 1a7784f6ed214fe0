"""`BuiltinDepth`: a small monocular depth estimator whose weights ship with the package, for use without a hub.

It takes each frame by itself, at a small fixed area, and normalises nothing over a frame, so that its scale stays put
over a video. Where a hub can be reached, Depth Anything V2 is far better; `longvie/depth/README.md` says by how much
this one can be trusted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from safetensors.torch import load

from longvie.models.depth_network import STRIDE, DepthNetwork

WEIGHTS = Path(__file__).resolve().parents[1] / "depth" / "weights.safetensors"
AREA = 96 * 160  # pixels the network sees: what its last steps were trained at
MIN_SIDE = 4 * STRIDE


class BuiltinDepth:
    """Frames to disparity with the built-in network, on the CPU.

    Results depend on the frame and on torch's thread count, and on nothing else: frames go through one at a time.

    Args:
        weights: the safetensors file that `longvie.training.depth` exports.

    Raises:
        FileNotFoundError: without a weights file.
    """

    name = "builtin"
    polarity: Literal["depth", "disparity"] = "disparity"

    def __init__(self, weights: Path = WEIGHTS) -> None:
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no weights of the built-in depth estimator; `make depth` trains them")
        data = weights.read_bytes()
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self._network = load_network(data)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, "t h w"]:
        """Disparity up to scale, float32: 0 in the sky, about 1 on what is nearest, at the frames' own size."""
        height, width = frames.shape[1:3]
        inner_height, inner_width = inner_size(height, width)
        disparity = np.empty(frames.shape[:3], np.float32)
        for index, frame in enumerate(frames):
            small = cv2.resize(frame, (inner_width, inner_height), interpolation=cv2.INTER_AREA)
            pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
            half = self._network(pixels)[0].clamp_min(0).numpy()
            disparity[index] = cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
        return disparity


def inner_size(height: int, width: int) -> tuple[int, int]:
    """The size the network works at: about AREA pixels in the frame's proportions, sides multiples of STRIDE."""
    scale = (AREA / (height * width)) ** 0.5

    def side(length: int) -> int:
        return max(MIN_SIDE, round(length * scale / STRIDE) * STRIDE)

    return side(height), side(width)


def load_network(data: bytes) -> DepthNetwork:
    """The network in evaluation mode, float32, its batch normalisations folded into the convolutions."""
    network = DepthNetwork()
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({name: value.float() for name, value in load(data).items()} | counters)
    network.eval().requires_grad_(False)
    network.fold()
    return network.to(memory_format=torch.channels_last)
