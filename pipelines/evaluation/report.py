"""report.html: what summary.json says, drawn. One file, nothing from elsewhere; what users wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from longvie.metrics.catalogue import metric_of
from longvie.metrics.statistics import Estimate
from pipelines.evaluation.charts import COLOURS, ForestRow, drift_curve, forest
from pipelines.evaluation.folders import GeneratedVideo, Reference
from pipelines.evaluation.player import MAX_FRAMES, player
from pipelines.evaluation.values import Table

RANKED_BY = "ssim"  # best and worst videos of the base run
NUM_PLAYERS = 2  # best and as many worst
MAX_RANKED = 200
MAX_INCOMPLETE = 200
SIGNIFICANT = 0.05


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    table: Table,
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, Estimate]]]],
    reference: Reference,
    videos: Sequence[GeneratedVideo],
) -> None:
    """Write the page.

    Args:
        table: values by run, metric, video and take.
        curves: by metric and run, the mean in each segment.
    """
    names = [run["name"] for run in summary["runs"]]
    colours = {name: COLOURS[min(at, len(COLOURS) - 1)] for at, name in enumerate(names)}
    ranked = _ranked(table, summary["against"])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "title": lambda name: metric_of(name).title}
    page = environment.get_template("report.html").render(
        summary=summary,
        metrics=[metric_of(name) for name in _metrics(summary)],
        colours=colours,
        curves=[
            (metric_of(name), drift_curve({run: said[run] for run in names if run in said}, colours, name))
            for name, said in curves.items()
        ],
        comparisons=[_comparison(said, colours) for said in summary["comparisons"]],
        ranked=ranked[:MAX_RANKED],
        ranked_by=metric_of(RANKED_BY).title,
        players=_players(ranked, summary["against"], reference, videos),
        incomplete=summary["incomplete"][:MAX_INCOMPLETE],
        max_frames=MAX_FRAMES,
        significant=SIGNIFICANT,
        fps=reference.settings["fps"],
    )
    path.write_text(page, encoding="utf-8")


def _metrics(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for run in summary["runs"] for name in run["metrics"]))


def _comparison(said: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    rows = []
    for name, found in said["metrics"].items():
        effect = found["effect"]
        if effect is None or effect["low"] is None:
            continue
        metric = metric_of(name)
        sign = 1 if metric.better == "higher" else -1  # so that right is better for every metric
        low, high = sorted((sign * effect["low"], sign * effect["high"]))
        label = name.replace("_", " ")
        rows.append(
            ForestRow(label=label, value=sign * effect["mean"], low=low, high=high, colour=colours[said["run"]])
        )
    label = f"effects of {said['run']} against {said['against']}"
    return {**said, "plot": forest(rows, label) if rows else None}


def _ranked(table: Table, run: str) -> list[tuple[str, float]]:
    """Videos of a run, the best first."""
    videos = table.get(run, {}).get(RANKED_BY, {})
    means = [(video, sum(takes.values()) / len(takes)) for video, takes in videos.items()]
    return sorted(means, key=lambda item: (-item[1], item[0]))


def _players(
    ranked: Sequence[tuple[str, float]], run: str, reference: Reference, videos: Sequence[GeneratedVideo]
) -> list[dict[str, Any]]:
    best, rest = ranked[:NUM_PLAYERS], ranked[NUM_PLAYERS:]
    worst = rest[-NUM_PLAYERS:]
    prepared = {video.video_id: video for video in reference.videos}
    made = {video.video_id: video for video in reversed(videos) if video.run.name == run}  # of the first take
    shown = []
    for kind, chosen in (("best", best), ("worst", worst)):
        for video_id, value in chosen:
            data = player(made[video_id], prepared[video_id], reference)
            prompt = prepared[video_id].prompts[0] or ""
            shown.append({"kind": kind, "video": video_id, "value": value, "data": data, "prompt": prompt})
    return shown


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
