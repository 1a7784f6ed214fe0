"""Plots as inline SVG: a curve with a band a run, and a forest of intervals. Text stays text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from longvie.metrics.statistics import Estimate

# Okabe & Ito's colours, told apart by people with any colour vision; black last, for baselines beyond them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#000000")
WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 28
_ROW = 24
_FOREST_LEFT = 150
EFFECT_LIMIT = 4.0  # what lies beyond is drawn at the edge, as an arrow


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    label: str
    value: float
    low: float
    high: float
    colour: str


def drift_curve(runs: Mapping[str, Sequence[tuple[int, Estimate]]], colours: Mapping[str, str], label: str) -> Markup:
    """One metric over segments: a line a run, in a band from low to high where there is an interval."""
    points = [(at, value) for said in runs.values() for at, value in said]
    bounds = [v for _, said in points for v in (said.mean, said.low, said.high) if v is not None]
    bottom, top = min(bounds), max(bounds)
    if top - bottom < 1e-9:
        bottom, top = bottom - 0.5, top + 0.5
    last = max(1, max(at for at, _ in points))

    def x(at: float) -> float:
        return _LEFT + at / last * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (top - value) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    parts = []
    for value in (bottom, (bottom + top) / 2, top):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for at in sorted({0, last // 2, last}):
        parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{at}</text>')
    for run, said in runs.items():
        banded = [(at, e.low, e.high) for at, e in said if e.low is not None and e.high is not None]
        if banded:
            outline = [(x(at), y(high)) for at, _, high in banded]
            outline += [(x(at), y(low)) for at, low, _ in reversed(banded)]
            parts.append(f'<polygon class="band" points="{_points(outline)}" fill="{colours[run]}"/>')
        line = [(x(at), y(e.mean)) for at, e in said]
        parts.append(f'<polyline class="curve" points="{_points(line)}" stroke="{colours[run]}"/>')
        if len(line) == 1:
            parts.append(f'<circle cx="{line[0][0]:.1f}" cy="{line[0][1]:.1f}" r="3" fill="{colours[run]}"/>')
    parts.append(f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 1}" text-anchor="middle">segment</text>')
    return _svg(WIDTH, HEIGHT, f"{label} over segments", parts)


def forest(rows: Sequence[ForestRow], label: str) -> Markup:
    """Effects with their intervals, one a row, around a line at zero."""
    height = _TOP + _ROW * len(rows) + _BOTTOM
    limit = min(EFFECT_LIMIT, max(1.0, *(abs(v) for row in rows for v in (row.low, row.high, row.value))))

    def x(value: float) -> float:
        held = max(-limit, min(limit, value))
        return _FOREST_LEFT + (held + limit) / (2 * limit) * (WIDTH - _FOREST_LEFT - 16)

    parts = [f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>']
    for number, row in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(f'<text x="{_FOREST_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(row.label)}</text>')
        parts.append(
            f'<line class="interval" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{row.colour}"/>'
        )
        for end, sign in ((row.low, -1), (row.high, 1)):
            if abs(end) > limit and math.copysign(1, end) == sign:
                tip = x(end)
                arrow = [(tip, y), (tip - sign * 7, y - 4), (tip - sign * 7, y + 4)]
                parts.append(f'<polygon points="{_points(arrow)}" fill="{row.colour}"/>')
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y:.1f}" r="4" fill="{row.colour}"/>')
    for value in (-limit, 0.0, limit):
        parts.append(f'<text x="{x(value):.1f}" y="{height - 12}" text-anchor="middle">{value:+.2g}</text>')
    return _svg(WIDTH, height, label, parts)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')
