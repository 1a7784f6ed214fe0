"""The side-by-side player: true frames, made frames, depth and tracks in one picture: always in step."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from longvie.media import Video, VideoError, fit_frames, local_path, resampled, write_video
from pipelines.evaluation.folders import GeneratedVideo, Reference, ReferenceVideo

PANEL = 256  # pixels, the longer side of one panel
MAX_FRAMES = 400  # of one video that a page shows
GAP = 4  # pixels of grey between panels


def player(made: GeneratedVideo, video: ReferenceVideo, reference: Reference) -> str | None:
    """An MP4 as a data URI: above true and made, below depth and tracks; its first `MAX_FRAMES` frames.

    None if a file of it cannot be read any more.
    """
    with tempfile.TemporaryDirectory(prefix="longvie-player-") as folder:
        path = Path(folder) / "player.mp4"
        try:
            write_video(path, _pictures(made, video, reference), reference.settings["fps"])
        except VideoError:
            return None
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _pictures(made: GeneratedVideo, video: ReferenceVideo, reference: Reference) -> Iterator[UInt8[ndarray, "t h w 3"]]:
    """A segment's new frames at a time."""
    left = MAX_FRAMES
    for segment, (uri, _) in zip(made.segments, made.files, strict=False):
        new = range(segment.num_valid)[segment.new_frames][:left]
        if not new:
            return
        left -= len(new)
        start = video.source_start + segment.start
        truth = resampled(local_path(video.source), **reference.frames, start=start + new[0], stop=start + new[-1] + 1)
        panels = [
            np.concatenate(list(truth)),
            Video(local_path(uri)).read(range(len(new))),
            *(Video(local_path(files[segment.index])).read(list(new)) for files in (video.dense, video.sparse)),
        ]
        yield _grid([_sized(panel) for panel in panels])


def _sized(frames: UInt8[ndarray, "t h w 3"]) -> UInt8[ndarray, "t h w 3"]:
    """Small frames at a whole multiple of their size, so that their pixels stay square; large ones made smaller."""
    height, width = frames.shape[1:3]
    longer = max(height, width)
    if longer <= PANEL // 2:
        times = PANEL // longer
        return frames.repeat(times, axis=1).repeat(times, axis=2)
    if longer <= PANEL:
        return frames
    size = [max(2, round(side * PANEL / longer / 2) * 2) for side in (height, width)]
    return fit_frames(frames, size[0], size[1], "stretch")


def _grid(panels: list[UInt8[ndarray, "t h w 3"]]) -> UInt8[ndarray, "t h2 w2 3"]:
    count, height, width, _ = panels[0].shape
    out = np.full((count, 2 * height + GAP, 2 * width + GAP, 3), 128, np.uint8)
    for number, panel in enumerate(panels):
        top, left = (number // 2) * (height + GAP), (number % 2) * (width + GAP)
        out[:, top : top + height, left : left + width] = panel
    return out[:, : out.shape[1] // 2 * 2, : out.shape[2] // 2 * 2]
