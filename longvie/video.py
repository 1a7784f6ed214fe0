"""`longvie.media` for those who compute with torch: the same functions over uint8 tensors (t, h, w, 3).

The tensors share memory with the arrays that were read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from longvie import media
from longvie.config import Fit
from longvie.media import VIDEO, Codec, Video, VideoError, VideoInfo, join_videos, local_path, probe_video
from longvie.types import Frames, Image

__all__ = [
    "VideoError",
    "VideoInfo",
    "fit_frames",
    "join_videos",
    "local_path",
    "probe_video",
    "read_frames",
    "read_image",
    "write_image",
    "write_video",
]


def read_frames(uri: str | Path, start: int = 0, stop: int | None = None) -> Frames:
    """Frames `start .. stop-1` (all from `start` if None), by exact random access."""
    video = Video(uri)
    count = video.info.num_frames
    stop = count if stop is None else stop
    if not 0 <= start < stop <= count:
        raise VideoError(f"{uri} has {count} frames; frames {start}..{stop - 1} were asked for")
    return torch.from_numpy(video.read(range(start, stop)))


def read_image(uri: str | Path) -> Image:
    """An image as uint8 (h, w, 3), turned as its EXIF orientation says."""
    return torch.from_numpy(media.read_image(uri))


def write_image(path: str | Path, image: Image) -> None:
    """Write uint8 (h, w, 3) as PNG."""
    media.write_image(path, image.numpy())


def fit_frames(frames: Frames, height: int, width: int, fit: Fit = "crop") -> Frames:
    """Bring frames to height x width, as `longvie.media.fit_frames` does."""
    return torch.from_numpy(media.fit_frames(frames.numpy(), height, width, fit))


def write_video(path: str | Path, frames: Frames | Iterable[Frames], fps: float, *, codec: Codec = VIDEO) -> None:
    """Encode frames, or batches of them, into MP4, moov first; equal frames give equal bytes."""
    batches = [frames] if isinstance(frames, torch.Tensor) else frames
    media.write_video(path, (batch.numpy() for batch in batches), fps, codec=codec)
