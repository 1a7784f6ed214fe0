"""Whether a video does what its controls say: depth and tracks measured again in it, against those it was given."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from longvie.controls.tracks import Tracks, inside, sample_depth
from longvie.training.depth_metrics import aligned_depth, depth_errors

MIN_DISPARITY = 0.01  # of the range's upper end: where disparity is less, depth has no meaningful ratio; ours
DELTA_PIXELS = (1, 2, 4, 8, 16)  # at 256 x 256: TAP-Vid (Doersch et al. 2022)
TRACK_SIDE = 256
CANNY = (50, 150)  # on 0..255
EDGE_TOLERANCE = 2  # pixels an edge may be off


def control_depth(
    grey: UInt8[ndarray, "t h w"], low: float, high: float, polarity: Literal["depth", "disparity"]
) -> tuple[Float[ndarray, "t h w"], Bool[ndarray, "t h w"], float]:
    """Depth that a dense control stands for, where it says so exactly, and the largest depth that counts.

    Black and white are what was clipped; those pixels say only "at most" and "at least" and are left out.

    Args:
        grey: the control, 0 (near) .. 255 (far).
        low, high: what became black and white (white and black, for disparity).
    """
    share = grey.astype(np.float32) / 255.0
    exact = (grey > 0) & (grey < 255)
    if polarity == "depth":
        depth = low + share * (high - low)
        return np.maximum(depth, 1e-6), exact & (depth > MIN_DISPARITY * high), max(high, 1e-6)
    disparity = high - share * (high - low)
    floor = max(MIN_DISPARITY * high, 1e-6)
    return 1 / np.maximum(disparity, floor), exact & (disparity > floor), 1 / floor


def depth_adherence(
    estimated: Float[ndarray, "t h w"],
    polarity: Literal["depth", "disparity"],
    grey: UInt8[ndarray, "t h w"],
    low: float,
    high: float,
    control_polarity: Literal["depth", "disparity"],
) -> dict[str, float]:
    """Depth estimated in a segment against its dense control; scale and shift are fitted once, over the whole segment.

    depth_absrel, depth_delta1, depth_si_rmse: Eigen et al. 2014, after MiDaS's alignment; see `depth_metrics`.
    depth_edge_f1: of the edges (Canny) of both as greys, matched within 2 pixels; NaN where neither has edges.
    All NaN where the control says depth nowhere.
    """
    depth, valid, cap = control_depth(grey, low, high, control_polarity)
    disparity = estimated if polarity == "disparity" else 1 / np.maximum(estimated, 1e-6)
    valid = valid & np.isfinite(disparity)
    if not valid.any():
        return dict.fromkeys(("depth_absrel", "depth_delta1", "depth_si_rmse", "depth_edge_f1"), math.nan)
    disparity = np.nan_to_num(disparity)
    errors = depth_errors(disparity, depth, valid, cap)
    made = aligned_depth(disparity, depth, valid, cap)
    value = made if control_polarity == "depth" else high + low - 1 / made  # so that far is large, as in the control
    drawn = np.clip((value - low) / max(high - low, 1e-12) * 255.0, 0, 255).astype(np.uint8)
    return {
        "depth_absrel": errors.absrel,
        "depth_delta1": errors.delta1,
        "depth_si_rmse": errors.si_rmse,
        "depth_edge_f1": edge_f1(drawn, grey),
    }


def edge_f1(made: UInt8[ndarray, "t h w"], truth: UInt8[ndarray, "t h w"]) -> float:
    """F1 of the edges of greys, over all frames: an edge is found if the other has one within 2 pixels."""
    kernel = np.ones((2 * EDGE_TOLERANCE + 1,) * 2, np.uint8)
    right = found = num_made = num_true = 0
    for one, two in zip(made, truth, strict=True):
        edges = [cv2.Canny(np.ascontiguousarray(grey), *CANNY) > 0 for grey in (one, two)]
        near = [cv2.dilate(edge.astype(np.uint8), kernel) > 0 for edge in edges]
        right += int((edges[0] & near[1]).sum())
        found += int((edges[1] & near[0]).sum())
        num_made += int(edges[0].sum())
        num_true += int(edges[1].sum())
    if not num_made and not num_true:
        return math.nan
    if not num_made or not num_true:
        return 0.0
    precision, recall = right / num_made, found / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def track_adherence(made: Tracks, truth: Tracks, height: int, width: int) -> dict[str, float]:
    """Tracks followed in a video against those it was given, from the same points; TAP-Vid (Doersch et al. 2022).

    Distances are scaled to 256 x 256; the first frame, where the points were given, does not count.

    track_delta_avg: share of truly visible points within 1, 2, 4, 8 and 16 pixels, mean over the five.
    track_jaccard: true positives (both visible, within) over true positives, false positives and false negatives;
        mean over the five.
    track_occlusion: share of points whose visibility is the true one.
    """
    scale = np.array([TRACK_SIDE / width, TRACK_SIDE / height], np.float32)
    distance = np.linalg.norm((made.points[1:] - truth.points[1:]) * scale, axis=-1)
    seen, said = truth.visibility[1:], made.visibility[1:]
    if not seen.any():
        return dict.fromkeys(("track_delta_avg", "track_jaccard", "track_occlusion"), math.nan)
    deltas, jaccards = [], []
    for pixels in DELTA_PIXELS:
        within = distance < pixels
        deltas.append(within[seen].mean())
        positive = (seen & said & within).sum()
        wrong = (said & ~(seen & within)).sum()
        missed = (seen & ~(said & within)).sum()
        jaccards.append(positive / (positive + wrong + missed))
    return {
        "track_delta_avg": float(np.mean(deltas)),
        "track_jaccard": float(np.mean(jaccards)),
        "track_occlusion": float((seen == said).mean()),
    }


def track_colour(frames: UInt8[ndarray, "t h w 3"], truth: Tracks) -> float:
    """Mean absolute colour difference, 0..255, between each true track's pixels and its pixel in the first frame.

    It means photometric error only where tracks are exact (synthetic and rendered scenes); NaN without visible points.
    """
    height, width = frames.shape[1:3]
    first = [sample_depth(frames[0, ..., channel], truth.points[0]) for channel in range(3)]
    total = count = 0.0
    for frame, points, seen in zip(frames[1:], truth.points[1:], truth.visibility[1:], strict=True):
        use = seen & truth.visibility[0] & inside(points, height, width)
        for channel in range(3):
            total += float(np.abs(sample_depth(frame[..., channel], points) - first[channel])[use].sum())
        count += 3 * int(use.sum())
    return total / count if count else math.nan
