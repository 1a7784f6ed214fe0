"""report.html of a benchmark: a table an ablation, with intervals and the papers' numbers; one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from longvie.metrics.catalogue import metric_of
from pipelines.bench.ablations import FULL
from pipelines.evaluation.charts import COLOURS, ForestRow, forest


def write_report(summary: Mapping[str, Any]) -> str:
    """The page, from summary.json alone."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.bench"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "title": lambda name: metric_of(name).title}
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    return environment.get_template("report.html").render(
        summary=summary,
        full=FULL,
        ablations=[{**one, "plot": _plot(one)} for one in summary["ablations"]],
        arrows={name: arrows[metric_of(name).better] for name in summary["metrics"]},
    )


def _plot(ablation: Mapping[str, Any]) -> Any:
    """Effects of each row against the full method, by the ablation's first metric."""
    metric = metric_of(ablation["metrics"][0])
    rows = []
    for at, row in enumerate(ablation["rows"]):
        effect = row["differences"].get(metric.name, {}).get("effect")
        if effect is None or effect["low"] is None:
            continue
        sign = 1 if metric.better == "higher" else -1  # right is better
        low, high = sorted((sign * effect["low"], sign * effect["high"]))
        colour = COLOURS[at % len(COLOURS)]
        rows.append(ForestRow(label=row["name"], value=sign * effect["mean"], low=low, high=high, colour=colour))
    return forest(rows, f"effects on {metric.title} against the full method") if rows else None


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
