"""Which estimator makes a control, described before work begins: its weights' fingerprint is part of every key.

Describing loads the weights once. Over Ray that is done where the stage will run, so that a missing model or GPU is
said at once, and not by thousands of units.
"""

from __future__ import annotations

from typing import Any

from longvie.controls.edges import DENSE_KINDS, Detector, load_dense_detector
from longvie.controls.keypoints import load_pose_detector
from longvie.controls.loading import load_depth_estimator, load_point_tracker
from pipelines.preparation.recipe import SUPPLIED, Estimator

EDGES = tuple(kind for kind in DENSE_KINDS if kind != "depth")
POSES = ("openpose", "openpose-full", "dwpose")
_TORCH_FREE = (SUPPLIED, "canny", "lucas-kanade")


def is_depth(spec: str) -> bool:
    """Whether a dense control is depth, rather than a detector's drawing."""
    return spec.partition(":")[0] not in EDGES


def is_tracker(spec: str) -> bool:
    """Whether a sparse control is point tracks, rather than a detector's drawing."""
    return spec.partition(":")[0] not in POSES


def needs_torch(spec: str) -> bool:
    """Whether describing it means loading weights, which is done where the stage runs."""
    return spec not in _TORCH_FREE


def describe(spec: str, device: str, dtype: str, batch_size: int, threads: int) -> Estimator:
    """Load what `spec` names and say what its results depend on. `ValueError` if it cannot be had."""
    settings: dict[str, Any] = {"spec": spec, "device": device, "dtype": dtype}
    settings |= {"batch_size": batch_size, "threads": threads}
    if spec == SUPPLIED:
        return Estimator(**settings, fingerprint="")
    if not is_depth(spec) or not is_tracker(spec):
        return Estimator(**settings, fingerprint=load_detector(spec, device).fingerprint)
    estimator = load_depth_estimator(spec, device=device, dtype=dtype, batch_size=batch_size)
    return Estimator(**settings, fingerprint=estimator.fingerprint, polarity=estimator.polarity)


def load_detector(spec: str, device: str) -> Detector:
    """What draws a control from frames."""
    return (load_dense_detector if is_tracker(spec) else load_pose_detector)(spec, device=device)


def describe_tracker(spec: str, device: str, dtype: str, threads: int) -> Estimator:
    """As `describe`, for a point tracker."""
    tracker = load_point_tracker(spec, device=device, dtype=dtype)
    return Estimator(spec=spec, device=device, dtype=dtype, threads=threads, fingerprint=tracker.fingerprint)
