"""From point tracks to the sparse control, drawn as the released weights expect it.

Black ground, one filled axis-aligned rectangle a visible point, no trails. A point keeps the colour of its place and
depth in the segment's first frame. Every rule here is measured on the release's example files (`ride_horse`), which
`tests/longvie/controls/test_render_parity.py` redraws.

The release takes the depth of a point from the dense control, with near and far swapped: its z is 255 minus the grey,
so it is large where a point is near. What it does with "depth" - blue is 1/z, large z is drawn first - therefore makes
*far* points blue and draws them over near ones. The weights have seen it so.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray

# Rectangles of 10x7 pixels at 832x480; on very small frames at least 3x3, or they would vanish.
RECTANGLE_WIDTH, RECTANGLE_HEIGHT = 10 / 832, 7 / 480
MIN_SIDE = 3
LOW_PERCENTILE, HIGH_PERCENTILE = 2.0, 98.0  # of 1/z, for the blue channel
WHITE = 255.0  # the dense control's grey at the far end

GRID = 50  # points a row and a column
# Where the outermost points of the release's grid lie: 11.25 pixels inside a frame of 720x480.
MARGIN_X, MARGIN_Y = 11.25 / 720, 11.25 / 480
MIN_SPACING = 2 * MIN_SIDE  # pixels between points where the frame is too small for 50; ours


def uniform_grid(height: int, width: int, rows: int, columns: int) -> Float[ndarray, "n 2"]:
    """The centres (x, y) of a rows x columns grid of cells over the frame, in pixels."""
    return _grid(_centres(width, columns), _centres(height, rows))


def default_grid(height: int, width: int) -> Float[ndarray, "n 2"]:
    """The points (x, y) that a segment's tracks start from, in pixels: the release's 50x50 where there is room.

    Along an axis with less than 6 pixels for each of 50 points there are as many as get 6 pixels, at cell centres.
    """
    axes = []
    for extent, margin in ((width, MARGIN_X), (height, MARGIN_Y)):
        count = max(1, min(GRID, extent // MIN_SPACING))
        full = np.linspace(margin * extent, (1 - margin) * extent, GRID)
        axes.append(full if count == GRID else _centres(extent, count))
    return _grid(*axes)


def track_colours(points: Float[ndarray, "n 2"], grey: Shaped[ndarray, " n"]) -> UInt8[ndarray, "n 3"]:
    """Colours of points from the segment's first frame, 0..255, truncated.

    R and G are x and y scaled over the points' own extent. B is 1/z, z = 255 - grey, scaled by its 2nd..98th
    percentile; z = 0 (the far end of the range) is infinite there, and if more than 2 % of the points are, nothing is
    blue. So it is in the release, where most segments with sky have no blue at all.

    Args:
        points: pixels (x, y).
        grey: of the dense control at each point, 0 (near) .. 255 (far).
    """
    if not len(points):
        return np.zeros((0, 3), np.uint8)
    extent = np.ptp(points, axis=0)
    place = (points - points.min(axis=0)) / np.where(extent > 0, extent, 1)
    z = WHITE - np.clip(np.asarray(grey, np.float64), 0, WHITE)
    inverse = np.divide(1, z, out=np.full(len(z), np.inf), where=z > 0)
    with np.errstate(invalid="ignore"):  # infinity minus infinity; then there is no blue
        low, high = np.percentile(inverse, (LOW_PERCENTILE, HIGH_PERCENTILE))
    blue = np.zeros(len(z))
    if np.isfinite(high) and high > low:
        blue = np.clip((inverse - low) / (high - low), 0, 1)
    return (np.column_stack([place, blue]) * 255).astype(np.uint8)


def render_tracks(
    tracks: Float[ndarray, "t n 2"],
    visibility: Bool[ndarray, "t n"],
    grey: Shaped[ndarray, " n"],
    height: int,
    width: int,
) -> UInt8[ndarray, "t h w 3"]:
    """Draw one segment's tracks.

    Args:
        tracks: pixels (x, y) of each point in each frame.
        visibility: points that are hidden or out of view are not drawn.
        grey: of the dense control at each point of the first frame, 0 (near) .. 255 (far); far points are drawn last.
    """
    order = np.argsort(np.asarray(grey, np.float64), kind="stable")
    colours = np.zeros((len(order), 4), np.uint8)
    colours[:, :3] = track_colours(tracks[0], grey)[order]
    packed = colours.view(np.uint32)  # (n, 1): one write a pixel
    side_x = max(MIN_SIDE, round(width * RECTANGLE_WIDTH))
    side_y = max(MIN_SIDE, round(height * RECTANGLE_HEIGHT))
    # One row and column of margin on each side takes what lies outside the frame.
    corner = np.nan_to_num(np.rint(tracks[:, order] - (side_x / 2, side_y / 2)) + 1)
    x = np.clip(corner[..., 0, None] + np.arange(side_x), 0, width + 1).astype(np.int32)
    y = np.clip(corner[..., 1, None] + np.arange(side_y), 0, height + 1).astype(np.int32)
    drawn = np.empty((len(tracks), height, width, 3), np.uint8)
    for t, shown in enumerate(visibility[:, order]):
        canvas = np.zeros((height + 2) * (width + 2), np.uint32)
        pixels = y[t, shown, :, None] * (width + 2) + x[t, shown, None, :]
        canvas[pixels] = packed[shown, :, None]  # of several points on one pixel the last written stays
        drawn[t] = canvas.view(np.uint8).reshape(height + 2, width + 2, 4)[1:-1, 1:-1, :3]
    return drawn


def _centres(extent: int, count: int) -> Float[ndarray, " n"]:
    return (np.arange(count) + 0.5) * extent / count


def _grid(x: Float[ndarray, " c"], y: Float[ndarray, " r"]) -> Float[ndarray, "n 2"]:
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
