"""From frame to frame: flickering, warping error, the jump at seams, motion. Numpy and OpenCV only."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from longvie.segments import Segment

# Lai et al. 2018, section 4.1, after Ruder et al. 2016: where flow there and back do not agree, the pixel is occluded.
OCCLUSION_RATIO, OCCLUSION_OFFSET = 0.01, 0.5
# VBench's dynamic degree: the largest 5 % of flow, a threshold of 6 px at 256 px, 4 pairs of each 16 frames.
LARGEST_SHARE = 0.05
DYNAMIC_PIXELS, DYNAMIC_SIDE = 6.0, 256
DYNAMIC_PAIRS, DYNAMIC_FRAMES = 4, 16

Flow = Float[ndarray, "h w 2"]


def jumps(frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, " p"]:
    """Mean absolute difference between neighbouring frames, 0..255; one a pair."""
    return np.array([cv2.absdiff(one, two).mean() for one, two in itertools.pairwise(frames)])


def flickering(jump: Float[ndarray, " p"]) -> Float[ndarray, " p"]:
    """VBench's temporal flickering score of each pair, (255 - jump) / 255: 1 for a still video. Huang et al. 2024."""
    return (255.0 - jump) / 255.0


def boundary_ratio(jump: Float[ndarray, " p"], segment: Segment) -> float:
    """The jump from a segment's shared first frame to its first new one, over the mean of the jumps within.

    1 where a seam cannot be told from other frames. NaN for the first segment, which has no seam, for a segment
    without an interior, and where nothing moves within. Ours.
    """
    if segment.index == 0 or len(jump) < 2:
        return math.nan
    within = float(jump[1:].mean())
    return float(jump[0]) / within if within > 0 else math.nan


class DisFlow:
    """Dense flow by DIS (Kroeger et al. 2016; OpenCV's medium preset), pixels (x, y) a frame."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, one: UInt8[ndarray, "h w 3"], two: UInt8[ndarray, "h w 3"]) -> Flow:
        """Where the pixels of `one` are in `two`, less where they were."""
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (one, two)]
        return self._dis.calc(grey[0], grey[1], np.zeros((*one.shape[:2], 2), np.float32))


def warped(image: Float[ndarray, "h w *c"], flow: Flow) -> Float[ndarray, "h w *c"]:
    """The image seen through the flow: at each pixel the image's value where the flow leads."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )


def visible(there: Flow, back: Flow) -> Bool[ndarray, "h w"]:
    """Pixels that stay in the frame and that flow there and back returns to."""
    height, width = there.shape[:2]
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    x, y = columns + there[..., 0], rows + there[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    returned = warped(back, there)
    gap = ((there + returned) ** 2).sum(axis=-1)
    size = (there**2).sum(axis=-1) + (returned**2).sum(axis=-1)
    return inside & (gap <= OCCLUSION_RATIO * size + OCCLUSION_OFFSET)


def warping_error(
    one: UInt8[ndarray, "h w 3"], two: UInt8[ndarray, "h w 3"], flow: Flow, seen: Bool[ndarray, "h w"]
) -> float:
    """Mean squared difference, on 0..1 and over `seen` pixels, of a frame and the next one warped to it.

    Lai et al. 2018, equations 12 and 13. Flow and occlusion are those of the *true* frames, so that a still video is
    not taken for a consistent one. NaN where nothing is seen twice.
    """
    if not seen.any():
        return math.nan
    difference = (one.astype(np.float32) - warped(two.astype(np.float32), flow)) / 255.0
    return float((difference[seen] ** 2).sum(axis=-1).mean())


def largest_motion(flow: Flow) -> float:
    """The mean length of the largest 5 % of flow, pixels: what VBench's dynamic degree thresholds."""
    lengths = np.linalg.norm(flow, axis=-1).ravel()
    count = max(1, int(len(lengths) * LARGEST_SHARE))
    return float(np.partition(lengths, -count)[-count:].mean())


def is_dynamic(motions: Float[ndarray, " p"], height: int, width: int) -> float:
    """1.0 if the segment moves, else 0.0: VBench's rule, over DIS flow in place of RAFT's, so not VBench's number."""
    threshold = DYNAMIC_PIXELS * min(height, width) / DYNAMIC_SIDE
    needed = round(DYNAMIC_PAIRS * (len(motions) + 1) / DYNAMIC_FRAMES)
    return float((motions > threshold).sum() >= max(1, needed))
