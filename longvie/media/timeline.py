"""The same video at another frame rate and size, as a stream of batches with flat memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from longvie.config import Fit
from longvie.media.files import VideoError
from longvie.media.fit import fit_frames
from longvie.media.index import VideoInfo, probe_video
from longvie.media.read import Video

TIME_TOLERANCE = 1e-6  # seconds; far below any frame's, far above the rounding of k/fps


def num_resampled(video: str | Path | VideoInfo, fps: float) -> int:
    """How many frames a video has at another frame rate: all k with k/fps before its end."""
    info = video if isinstance(video, VideoInfo) else probe_video(video)
    return _count(info.duration, fps)


def timeline(times: Float[ndarray, " n"], duration: float, fps: float) -> Int[ndarray, " k"]:
    """For each frame k at `fps`, which source frame is shown at k/fps seconds.

    Args:
        times: when each source frame appears, seconds from the first, increasing.
        duration: when the last one disappears, seconds.
    """
    moments = np.arange(_count(duration, fps)) / fps
    return np.maximum(np.searchsorted(times, moments + TIME_TOLERANCE, side="right") - 1, 0)


def resampled(
    video: str | Path | Video,
    *,
    fps: float,
    height: int,
    width: int,
    fit: Fit = "crop",
    start: int = 0,
    stop: int | None = None,
    batch: int = 16,
) -> Iterator[UInt8[ndarray, "t height width 3"]]:
    """Frames `start .. stop-1` (all from `start` if None) of a video at `fps` and height x width, in batches.

    It holds one batch of fitted frames and one source frame, however long the video is. An opened `Video` saves finding
    out again when its frames are shown: 0.2 s for ten minutes.
    """
    video = video if isinstance(video, Video) else Video(video)
    shown = timeline(video.times, video.info.duration, fps)
    stop = len(shown) if stop is None else stop
    if not 0 <= start < stop <= len(shown):
        asked = f"frames {start}..{stop - 1} were asked for"
        raise VideoError(f"{video.uri} has {len(shown)} frames at {fps:g} fps; {asked}")
    shown = shown[start:stop]
    fitted = np.empty((0, height, width, 3), np.uint8)
    frames = video.frames(np.unique(shown))
    previous = -1
    for begin in range(0, len(shown), batch):
        wanted = shown[begin : begin + batch]
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        for place, index in enumerate(wanted):
            if index != previous:
                fitted, previous = fit_frames(next(frames)[None], height, width, fit), index
            out[place] = fitted[0]
        yield out


def _count(duration: float, fps: float) -> int:
    if not fps > 0 or not math.isfinite(fps):
        raise ValueError(f"fps is {fps}; give a positive number")
    return max(1, math.ceil((duration - TIME_TOLERANCE) * fps))
