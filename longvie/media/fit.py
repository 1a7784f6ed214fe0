"""Frames at another size. The one resizer of the repository: what a model sees at work, it saw in training."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from longvie.config import Fit


def fit_frames(
    frames: UInt8[ndarray, "t h w 3"], height: int, width: int, fit: Fit = "crop"
) -> UInt8[ndarray, "t height width 3"]:
    """Bring frames to height x width: `crop` the centre, `pad` with black, or `stretch`.

    A side that shrinks is averaged over the area each new pixel covers (so nothing aliases), one that grows is
    interpolated linearly, in integers: the same frames give the same bytes on every machine.
    """
    source_height, source_width = frames.shape[1:3]
    if (source_height, source_width) == (height, width):
        return frames
    ratios = (height / source_height, width / source_width)
    if fit == "stretch":
        inner = (height, width)
    else:
        ratio = max(ratios) if fit == "crop" else min(ratios)
        inner = (max(1, round(source_height * ratio)), max(1, round(source_width * ratio)))
    # `crop` cuts what is beyond the frame, `pad` leaves black around; both are centred
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
    cut = np.s_[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    fitted = np.zeros((len(frames), height, width, 3), np.uint8)
    place = fitted[:, max(0, -top) : max(0, -top) + inner[0], max(0, -left) : max(0, -left) + inner[1]]
    for frame, target in zip(frames, place, strict=True):
        target[...] = _resize(frame, *inner)[cut]
    return fitted


def _resize(frame: UInt8[ndarray, "h w 3"], height: int, width: int) -> UInt8[ndarray, "height width 3"]:
    # OpenCV averages areas only where both sides shrink, so the sides that shrink go first, alone.
    smaller = (min(width, frame.shape[1]), min(height, frame.shape[0]))
    if smaller != (frame.shape[1], frame.shape[0]):
        frame = cv2.resize(frame, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return frame
