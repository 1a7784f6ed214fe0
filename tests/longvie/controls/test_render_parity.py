"""Our renderer draws the first frame of each of the release's example track videos from the depth video beside it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from longvie.controls.render import default_grid, render_tracks
from longvie.controls.tracks import sample_depth
from longvie.media import Video


def as_video(image: np.ndarray) -> np.ndarray:
    """What 4:2:0 video makes of a picture, without its coding loss: the examples are such video."""
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p").to_ndarray(format="rgb24")


@pytest.mark.parametrize("segment", range(10))
def test_first_frame_is_the_release_s(ride_horse: Path, segment: int) -> None:
    dense = Video(ride_horse / f"depth_{segment:02d}.mp4").read([0])[0]
    expected = Video(ride_horse / f"track_{segment:02d}.mp4").read([0])[0]
    height, width = dense.shape[:2]
    points = default_grid(height, width)
    grey = sample_depth(dense[..., 0], points)
    exact = render_tracks(points[None], np.ones((1, len(points)), bool), grey, height, width)[0]
    made = as_video(exact)

    assert structural_similarity(made, expected, channel_axis=-1, data_range=255) > 0.95
    difference = np.abs(made.astype(int) - expected.astype(int))
    assert difference.mean() < 3.5  # of 255; edges of the rectangles in lossy video included
    # At the rectangles' middles, away from the edges, colours are the release's.
    x, y = points.astype(int).T
    middles = difference[y, x]
    assert middles.mean(axis=0).max() < 4
    assert np.percentile(middles, 95) < 12
    # The ground is black in both.
    ground = ~exact.any(axis=-1)
    assert expected[ground].mean() < 6
