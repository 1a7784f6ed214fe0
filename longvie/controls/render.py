"""From point tracks to the sparse control, drawn as the released weights expect it.

Black ground, one filled axis-aligned rectangle a visible point, no trails. A point keeps the colour of its place and
depth in the segment's first frame; far points are drawn first. Measured on the release's example files.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

# Rectangles of about 10x7 pixels at 832x480; on very small frames at least 3x3, or they would vanish.
RECTANGLE_WIDTH, RECTANGLE_HEIGHT = 10 / 832, 7 / 480
MIN_SIDE = 3
LOW_PERCENTILE, HIGH_PERCENTILE = 2.0, 98.0  # of 1/depth, for the blue channel


def uniform_grid(height: int, width: int, rows: int, columns: int) -> Float[ndarray, "n 2"]:
    """The centres (x, y) of a rows x columns grid of cells over the frame (release: 50x50), in pixels."""
    x = (np.arange(columns) + 0.5) * width / columns
    y = (np.arange(rows) + 0.5) * height / rows
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)


def track_colours(
    points: Float[ndarray, "n 2"], depth: Float[ndarray, " n"], height: int, width: int
) -> UInt8[ndarray, "n 3"]:
    """R = x/W, G = y/H, B = 1/depth scaled by its 2nd..98th percentile; all of the segment's first frame, 0..255."""
    inverse = 1 / np.maximum(depth, np.finfo(np.float32).tiny)
    low, high = np.percentile(inverse, (LOW_PERCENTILE, HIGH_PERCENTILE))
    blue = (inverse - low) / max(high - low, np.finfo(np.float32).tiny)
    colours = np.stack([points[:, 0] / width, points[:, 1] / height, blue], axis=1)
    return (np.clip(colours, 0, 1) * 255).astype(np.uint8)


def render_tracks(
    tracks: Float[ndarray, "t n 2"],
    visibility: Bool[ndarray, "t n"],
    depth: Float[ndarray, " n"],
    height: int,
    width: int,
) -> UInt8[ndarray, "t h w 3"]:
    """Draw one segment's tracks.

    Args:
        tracks: pixels (x, y) of each point in each frame.
        visibility: points that are hidden or out of view are not drawn.
        depth: of each point in the first frame, large is far.
    """
    num_frames = len(tracks)
    far_first = np.argsort(-depth, kind="stable")
    colours = track_colours(tracks[0], depth, height, width)[far_first]
    tracks, visibility = tracks[:, far_first], visibility[:, far_first]
    side_x = max(MIN_SIDE, round(width * RECTANGLE_WIDTH))
    side_y = max(MIN_SIDE, round(height * RECTANGLE_HEIGHT))
    # one row and column of margin on each side takes what lies outside the frame
    canvas = np.zeros((num_frames, height + 2, width + 2, 3), np.uint8)
    corner_x = np.rint(tracks[..., 0] - side_x / 2).astype(int)
    corner_y = np.rint(tracks[..., 1] - side_y / 2).astype(int)
    offsets = [(dx, dy) for dy in range(side_y) for dx in range(side_x)]
    for t in range(num_frames):
        shown = visibility[t]
        x = corner_x[t, shown, None] + np.array([dx for dx, _ in offsets])
        y = corner_y[t, shown, None] + np.array([dy for _, dy in offsets])
        # of several points on one pixel the last written, the nearest, stays
        canvas[t, np.clip(y + 1, 0, height + 1), np.clip(x + 1, 0, width + 1)] = colours[shown, None]
    return canvas[:, 1:-1, 1:-1].copy()
