"""Draws the card's picture of training: `python benchmarks/tiny_curve.py out/tiny/run-?/log.jsonl curve.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

SMOOTHING = 20  # records a mean is taken over; each is of one step


def draw(logs: list[Path], picture: Path) -> None:
    """Loss of each set of controls, by step, of runs that followed one another."""
    records: dict[int, dict[str, float]] = {}
    for log in logs:
        before = max(records, default=0)
        records |= {before + record["step"]: record for record in map(json.loads, log.open())}
    figure, axes = plt.subplots(figsize=(5, 3), dpi=100)
    for name in ("both", "dense", "sparse", "none"):
        points = [(step, one[f"loss/{name}"]) for step, one in sorted(records.items()) if f"loss/{name}" in one]
        values = [value for _, value in points]
        means = [
            sum(values[max(0, i - SMOOTHING + 1) : i + 1]) / len(values[max(0, i - SMOOTHING + 1) : i + 1])
            for i in range(len(values))
        ]
        axes.plot([step for step, _ in points], means, label=name)
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, 0.6))
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture)


if __name__ == "__main__":
    *given, target = map(Path, sys.argv[1:])
    draw(given, target)
