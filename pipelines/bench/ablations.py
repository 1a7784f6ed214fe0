"""What is compared: the rows of LongVie's ablations, what each changes of a run, and what the papers found.

P1 is LongVie (arXiv 2508.03694), P2 LongVie 2 (2512.13604). The papers' numbers are of the 14B model on LongVGenBench:
here they stand beside ours to compare the order, not the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.errors import UserError
from pipelines.evaluation.options import named

Controls = Literal["both", "dense", "sparse", "none", "shuffled", "blurred", "masked"]
Expected = Literal["worse", "close"]
FULL = "full"
BLUR = 5  # pixels: the box that depth is averaged over (P1 Table 8)
MASKED = 0.2  # share of points that are left out (P1 Table 8)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run a benchmark.

    Args:
        config: fields of `GenerationConfig` that differ from the full method's.
        controls: what the model is given to follow.
        model: folder of another model; None for the benchmark's.
        expected: what the papers found against the row it is compared with.
        paper: the papers' numbers, by the name of the metric.
    """

    name: str
    title: str
    config: Mapping[str, Any] = field(default_factory=dict)
    controls: Controls = "both"
    model: str | None = None
    expected: Expected = "worse"
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Rows that are compared with one of them, the full method.

    Args:
        metrics: what the comparison is about, the first decides what is said of the order.
    """

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    full_paper: Mapping[str, float] = field(default_factory=dict)


_FRESH = Row(
    name="fresh",
    title="a fresh noise for each segment",
    config={"noise": "fresh"},
    paper={"S.C.": 86.63, "B.C.": 91.59, "A.Q.": 54.80, "I.Q.": 64.84},
)
_TABLE3 = {"S.C.": 87.12, "B.C.": 91.76, "A.Q.": 54.91, "I.Q.": 64.91}
_QUALITY = ("psnr", "ssim", "psnr_drift", "boundary_ratio")
_FOLLOWS = ("psnr", "ssim", "depth_si_rmse", "track_delta_avg")

ABLATIONS = (
    Ablation(
        name="normalization",
        title="Depth scaled over the whole video or over each segment; shared or fresh noise",
        source="P1 Table 3",
        full_paper=_TABLE3,
        metrics=_QUALITY,
        rows=(
            Row(
                name="segment-normalization",
                title="without global normalisation",
                config={"normalization": "segment"},
                paper={"S.C.": 86.39, "B.C.": 91.41, "A.Q.": 54.88, "I.Q.": 64.81},
            ),
            replace(_FRESH, title="without unified noise"),
            Row(
                name="segment-normalization-fresh",
                title="without both",
                config={"normalization": "segment", "noise": "fresh"},
                paper={"S.C.": 86.23, "B.C.": 91.37, "A.Q.": 54.78, "I.Q.": 64.86},
            ),
        ),
    ),
    Ablation(
        name="noise",
        title="How far a segment's noise is from the shared one",
        source="P1 Table 7: the further, the less consistent",
        metrics=_QUALITY,
        rows=(
            Row(name="mix-0.05", title="mix, alpha 0.05", config={"noise": "mix:0.05"}),
            Row(name="mix-0.5", title="mix, alpha 0.5", config={"noise": "mix:0.5"}),
            replace(_FRESH, title="mix, alpha 1: fresh", paper={}),
        ),
    ),
    Ablation(
        name="controls",
        title="What leads the video",
        source="P1 Table 1 (depth only)",
        full_paper={"ssim": 0.557, "lpips": 0.290},
        metrics=_FOLLOWS,
        rows=(
            Row(name="dense", title="depth only", controls="dense", paper={"ssim": 0.508, "lpips": 0.347}),
            Row(name="sparse", title="tracks only", controls="sparse"),
            Row(name="none", title="no control", controls="none"),
            Row(name="shuffled", title="another video's controls", controls="shuffled"),
        ),
    ),
    Ablation(
        name="robustness",
        title="Controls that are less exact",
        source="P1 Table 8: it costs little",
        metrics=_FOLLOWS,
        rows=(
            Row(name="blurred", title=f"depth blurred, {BLUR}x{BLUR}", controls="blurred", expected="close"),
            Row(name="masked", title=f"{MASKED:.0%} of the points masked", controls="masked", expected="close"),
        ),
    ),
    Ablation(
        name="history",
        title="The frames before a segment, or its first frame alone",
        source="P2 Table 3 (trained without history: SSIM .501, LPIPS .328; with it .529, .295)",
        full_paper={"ssim": 0.529, "lpips": 0.295},
        metrics=_QUALITY,
        rows=(
            Row(
                name="no-history",
                title="without history",
                config={"history": False},
                paper={"ssim": 0.501, "lpips": 0.328},
            ),
        ),
    ),
)
TRAINED = Ablation(
    name="training",
    title="Trained without one of the degradations",
    source="P1 Table 3",
    full_paper=_TABLE3,
    metrics=_QUALITY,
    rows=(),
)
_TRAINED_PAPER = {
    "no-feature-degradation": {"S.C.": 87.01, "B.C.": 91.68, "A.Q.": 54.32, "I.Q.": 64.01},
    "no-data-degradation": {"S.C.": 87.11, "B.C.": 91.69, "A.Q.": 54.08, "I.Q.": 63.97},
    "no-first-frame-degradation": {},
}


def chosen(only: Sequence[str], trained: Sequence[str]) -> tuple[Ablation, ...]:
    """The ablations that are asked for, by name; all that can be made where none is.

    Args:
        trained: NAME=FOLDER each, models for the training ablation.
    """
    known = {ablation.name: ablation for ablation in ABLATIONS}
    if trained:
        known[TRAINED.name] = replace(TRAINED, rows=tuple(_trained(given) for given in trained))
    for name in only:
        if name == TRAINED.name and not trained:
            raise UserError("--only training needs --trained NAME=FOLDER, a model for each row")
        if name not in known:
            raise UserError(f"--only {name} is no ablation; choose of {', '.join(known)}")
    return tuple(ablation for name, ablation in known.items() if not only or name in only)


def rows_of(ablations: Sequence[Ablation]) -> tuple[Row, ...]:
    """The full method first, then every row once, although several ablations may have it."""
    found = {FULL: Row(name=FULL, title="the full method")}
    for ablation in ablations:
        for row in ablation.rows:
            found.setdefault(row.name, row)
    return tuple(found.values())


def _trained(given: str) -> Row:
    name, folder = named(given, "")
    if not name:
        raise UserError(f"--trained {given}: give NAME=FOLDER, as in no-feature-degradation=out/model")
    if name == FULL or any(row.name == name for ablation in ABLATIONS for row in ablation.rows):
        raise UserError(f"--trained {given}: {name} is another row; choose another name")
    return Row(name=name, title=name.replace("-", " "), model=folder, paper=_TRAINED_PAPER.get(name, {}))
