"""What the report shows as pictures: small images as data URIs, and a depth histogram as an SVG path.

Equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray
from PIL import Image

from longvie.controls.normalize import Polarity

THUMBNAIL_WIDTH = 288  # pixels; three stand side by side
_WEBP_QUALITY = 72
_BARS = 96
PLOT_WIDTH, PLOT_HEIGHT = 320.0, 80.0  # units of the SVG's viewBox that the bars fill
_MARGIN = 0.2  # beyond the 2nd and 98th percentile, in their distance: outliers would squeeze the rest to a line


def thumbnail(image: UInt8[ndarray, "h w 3"]) -> str:
    """An RGB image as the data URI of a WebP of `THUMBNAIL_WIDTH`."""
    height = max(1, round(image.shape[0] * THUMBNAIL_WIDTH / image.shape[1]))
    small = Image.fromarray(image).resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A histogram to be drawn: `path` outlines the bars; positions are units of its viewBox, from the left.

    Args:
        first, last: values at the left and right edge.
        low, high: the 5th and 95th percentile, what the control's grey spans.
        low_x, high_x: where they are.
        low_grey, high_grey: the grey (0..255) they become: near is black, far is white.
        outside: share of the values that lie beyond the edges, 0..1.
    """

    path: str
    first: float
    last: float
    low: float
    high: float
    low_x: float
    high_x: float
    low_grey: int
    high_grey: int
    outside: float


def plot_histogram(
    counts: Int64[ndarray, " 65536"], p2: float, low: float, high: float, p98: float, polarity: Polarity | str
) -> Plot | None:
    """Draw how often stored depth has which value, from a little below the 2nd to a little above the 98th percentile.

    Args:
        counts: of the float16 bit patterns, as `DepthHistogram` keeps them.
        p2, low, high, p98: percentiles.

    Returns:
        None if there is no finite value.
    """
    patterns = np.arange(len(counts), dtype=np.uint16).view(np.float16).astype(np.float64)
    there = np.isfinite(patterns) & (counts > 0)
    values, weights = patterns[there], counts[there]
    if not len(values):
        return None
    margin = _MARGIN * (p98 - p2) or max(abs(p2) * 0.01, 1e-6)  # all values equal: one bar in the middle
    first, last = max(p2 - margin, values.min()), min(p98 + margin, values.max())
    if first == last:
        first, last = first - margin, last + margin
    inside = (values >= first) & (values <= last)
    bars, _ = np.histogram(values[inside], bins=_BARS, range=(first, last), weights=weights[inside].astype(np.float64))
    tops = PLOT_HEIGHT * (1 - bars / bars.max())
    step = PLOT_WIDTH / _BARS
    outline = "".join(f"V{top:.1f}H{(i + 1) * step:.1f}" for i, top in enumerate(tops))

    def x(value: float) -> float:
        return round(float(min(max((value - first) / (last - first), 0.0), 1.0)) * PLOT_WIDTH, 1)

    near_is_low = polarity != "disparity"
    return Plot(
        path=f"M0 {PLOT_HEIGHT:g}{outline}V{PLOT_HEIGHT:g}Z",
        first=float(first),
        last=float(last),
        low=low,
        high=high,
        low_x=x(low),
        high_x=x(high),
        low_grey=0 if near_is_low else 255,
        high_grey=255 if near_is_low else 0,
        outside=float(weights[~inside].sum() / weights.sum()),
    )
