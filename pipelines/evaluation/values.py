"""From rows of scores to one value a run, video, noise seed and metric, and what statistics say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from longvie.metrics.catalogue import DRIFT, METRICS, metric_of
from longvie.metrics.statistics import Estimate, estimate, holm, paired

CURVE_RESAMPLES = 2000  # of each point of a curve

# run -> metric -> video -> take -> value
Table = dict[str, dict[str, dict[str, dict[int, float]]]]
Key = tuple[str, int, str]  # run, take, video


def _grouped(scores: pa.Table, by: Sequence[str]) -> list[dict[str, Any]]:
    groups = scores.group_by(list(by), use_threads=False)  # sums in one order: equal scores, equal bytes
    return groups.aggregate([("value", "mean")]).to_pylist()


def read_values(scores: pa.Table, incomplete: set[Key]) -> Table:
    """Means over a video's frames, and `..._drift`, the mean of its last segment less that of its first.

    Incomplete videos are left out: a mean over the segments that happen to exist would flatter those that break off.
    """
    table: Table = {}
    by_segment: dict[tuple[str, int, str, str], dict[int, float]] = {}

    def put(run: str, metric: str, video: str, take: int, value: float) -> None:
        table.setdefault(run, {}).setdefault(metric, {}).setdefault(video, {})[take] = value

    for row in _grouped(scores, ["run", "take", "video", "metric"]):
        if (row["run"], row["take"], row["video"]) not in incomplete:
            put(row["run"], row["metric"], row["video"], row["take"], row["value_mean"])
    for row in _grouped(scores, ["run", "take", "video", "metric", "segment"]):
        if (row["run"], row["take"], row["video"]) not in incomplete and row["segment"] >= 0:
            key = (row["run"], row["take"], row["video"], row["metric"])
            by_segment.setdefault(key, {})[row["segment"]] = row["value_mean"]
    for (run, take, video, metric), values in by_segment.items():
        if metric_of(metric).drifts and len(values) > 1:
            put(run, f"{metric}{DRIFT}", video, take, values[max(values)] - values[min(values)])
    return table


def names(table: Table) -> list[str]:
    """The metrics that occur, in the catalogue's order, drifts after their metrics, VBench's last."""
    present = {name for metrics in table.values() for name in metrics}
    order = [name for metric in METRICS for name in (metric.name, f"{metric.name}{DRIFT}") if name in present]
    return order + sorted(present - set(order))


def _seeds(of_video: Mapping[int, float]) -> np.ndarray:
    return np.array([of_video[take] for take in sorted(of_video)])


def estimates(
    metrics: Mapping[str, Mapping[str, Mapping[int, float]]], wanted: Sequence[str], seed: int, resamples: int
) -> dict[str, dict[str, Any]]:
    """Each metric's mean over videos, with its interval."""
    found = {}
    for name in wanted:
        videos = metrics.get(name)
        if videos:
            said = estimate([_seeds(videos[video]) for video in sorted(videos)], seed, resamples)
            found[name] = asdict(said)
    return found


def compare(table: Table, run: str, base: str, wanted: Sequence[str], seed: int, resamples: int) -> dict[str, Any]:
    """A run less the base run, metric by metric, over the videos both have whole; Holm's correction over metrics."""
    found: dict[str, dict[str, Any]] = {}
    for name in wanted:
        one, other = table.get(run, {}).get(name, {}), table.get(base, {}).get(name, {})
        shared = sorted(set(one) & set(other))
        if shared and metric_of(name).better is not None:
            said = paired([_seeds(one[v]) for v in shared], [_seeds(other[v]) for v in shared], seed, resamples)
            found[name] = asdict(said)
    tested = [name for name, said in found.items() if said["p"] is not None]
    for name, adjusted in zip(tested, holm([found[name]["p"] for name in tested]), strict=True):
        found[name]["p_holm"] = adjusted
    return {"against": base, "metrics": found}


def curves(
    scores: pa.Table, runs: Sequence[str], incomplete: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, dict[str, list[tuple[int, Estimate]]]]:
    """For each metric that may drift and each run: its mean in each segment, over the videos that have it."""
    left_out = {(row["run"], row["take"], row["video"]) for row in incomplete}
    found: dict[tuple[str, str, int], dict[str, dict[int, float]]] = {}
    for row in _grouped(scores, ["run", "take", "video", "metric", "segment"]):
        if (row["run"], row["take"], row["video"]) in left_out or row["segment"] < 0:
            continue
        if metric_of(row["metric"]).drifts:
            key = (row["metric"], row["run"], row["segment"])
            found.setdefault(key, {}).setdefault(row["video"], {})[row["take"]] = row["value_mean"]
    drawn: dict[str, dict[str, list[tuple[int, Estimate]]]] = {}
    order = {name: at for at, name in enumerate(runs)}
    for metric, run, segment in sorted(found, key=lambda key: (order[key[1]], key[2])):
        videos = found[metric, run, segment]
        said = estimate([_seeds(videos[video]) for video in sorted(videos)], seed, CURVE_RESAMPLES)
        drawn.setdefault(metric, {}).setdefault(run, []).append((segment, said))
    return {metric.name: drawn[metric.name] for metric in METRICS if metric.name in drawn}
