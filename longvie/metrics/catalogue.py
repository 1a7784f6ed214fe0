"""Each metric's name, and which way is better; its definition is where it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["fidelity", "temporal", "adherence", "vbench"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Args:
        name: in scores.parquet.
        title: for people, with its unit.
        better: whether large or small values are good; None where neither is.
        drifts: whether its last segment less its first says how quality is lost over time.
    """

    name: str
    title: str
    family: Family
    better: Literal["higher", "lower"] | None
    drifts: bool = False


METRICS = (
    Metric(name="psnr", title="PSNR, dB", family="fidelity", better="higher", drifts=True),
    Metric(name="ssim", title="SSIM", family="fidelity", better="higher", drifts=True),
    Metric(name="ms_ssim", title="MS-SSIM", family="fidelity", better="higher", drifts=True),
    Metric(name="vif", title="VIF", family="fidelity", better="higher", drifts=True),
    Metric(name="lpips", title="LPIPS (AlexNet)", family="fidelity", better="lower", drifts=True),
    Metric(name="flickering", title="Temporal flickering score", family="temporal", better="higher"),
    Metric(name="warping_error", title="Warping error", family="temporal", better="lower", drifts=True),
    Metric(name="boundary_ratio", title="Jump at a seam / jump within", family="temporal", better="lower"),
    Metric(name="motion", title="Motion, % of the short side a frame", family="temporal", better=None),
    Metric(name="dynamic_degree", title="Dynamic degree (DIS flow)", family="temporal", better=None),
    Metric(name="depth_absrel", title="Depth AbsRel", family="adherence", better="lower", drifts=True),
    Metric(name="depth_delta1", title="Depth delta1", family="adherence", better="higher", drifts=True),
    Metric(name="depth_si_rmse", title="Depth SI-RMSE", family="adherence", better="lower", drifts=True),
    Metric(name="depth_edge_f1", title="Depth edge F1", family="adherence", better="higher", drifts=True),
    Metric(name="track_delta_avg", title="Tracks delta_avg", family="adherence", better="higher", drifts=True),
    Metric(name="track_jaccard", title="Tracks average Jaccard", family="adherence", better="higher", drifts=True),
    Metric(name="track_occlusion", title="Tracks occlusion accuracy", family="adherence", better="higher", drifts=True),
    Metric(name="track_colour", title="Colour error along tracks, 0..255", family="adherence", better="lower"),
)
BY_NAME = {metric.name: metric for metric in METRICS}
DRIFT = "_drift"  # after a name: last segment less first segment


def metric_of(name: str) -> Metric:
    """What is known of a name in scores.parquet: a metric, its drift, or a dimension of VBench (`vbench_...`)."""
    if name in BY_NAME:
        return BY_NAME[name]
    if name.startswith("vbench_"):
        title = f"VBench {name.removeprefix('vbench_').replace('_', ' ')}"
        better = None if name == "vbench_dynamic_degree" else "higher"
        return Metric(name=name, title=title, family="vbench", better=better)
    base = BY_NAME[name.removesuffix(DRIFT)]
    return Metric(name=name, title=f"{base.title}: drift", family=base.family, better=base.better)
