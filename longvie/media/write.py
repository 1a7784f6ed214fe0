"""Frames into files. Equal frames give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from jaxtyping import UInt8
from numpy import ndarray

from longvie.media.files import VideoError, local_path


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How frames are encoded: an FFmpeg encoder, its pixel format and its options."""

    name: str
    pixel_format: str
    options: Mapping[str, str]

    @property
    def halves_colour(self) -> bool:
        """Whether colour is stored at half size, so that height and width must be even."""
        return self.pixel_format in ("yuv420p", "gray")


# One key frame at the start, no B-frames and one thread: segments join without re-encoding, and the same frames give
# the same bytes everywhere. Macroblock-tree rate control is off: x264's assembly for it reads uninitialised memory on
# frames of a few macroblocks, and one encode in fifty came out different.
_X264 = {"preset": "medium", "bf": "0", "g": "600", "sc_threshold": "0", "threads": "1", "mbtree": "0"}

# What people watch. CRF 16 is visually lossless for H.264, and every player knows 4:2:0.
VIDEO = Codec(name="libx264", pixel_format="yuv420p", options={**_X264, "crf": "16"})

# What a model sees: without loss. Over 81 frames of 640x352, the mean absolute error of the worst frame (promised: at
# most 1 of 255) and the size, of depth and tracks from the released example, and of our own rectangles:
#                     depth            released tracks   our tracks
#     4:2:0 CRF 16    0.47   0.5 MB    7.43    2.0 MB    8.44   1.7 MB
#     4:2:0 CRF 8                      6.59    4.4 MB    7.47   2.8 MB
#     4:4:4 CRF 8     0.28   1.5 MB    2.24    5.1 MB    1.27   2.8 MB
#     RGB CRF 8       0.09   4.5 MB    1.04   10.0 MB    0.48   4.2 MB
#     RGB lossless    0      5.4 MB    0      21.3 MB    0      2.6 MB
#     grey lossless   0      1.9 MB
# Halved colour smears small saturated rectangles at any rate; on clean rectangles lossless RGB is smaller than
# anything that keeps the promise; and a grey picture stored as luma alone takes a third of RGB.
CONTROL = Codec(name="libx264rgb", pixel_format="rgb24", options={**_X264, "qp": "0"})
GREY = Codec(name="libx264", pixel_format="gray", options={**_X264, "qp": "0"})  # of frames with R = G = B: depth


def write_video(
    path: str | Path,
    frames: UInt8[ndarray, "t h w 3"] | Iterable[UInt8[ndarray, "t h w 3"]],
    fps: float,
    *,
    codec: Codec = VIDEO,
) -> None:
    """Encode frames, or batches of them, into MP4, moov first; equal frames give equal bytes."""
    batches = [frames] if isinstance(frames, ndarray) else frames
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        stream = None
        for batch in batches:
            if stream is None:
                height, width = batch.shape[1:3]
                if codec.halves_colour and (height % 2 or width % 2):
                    raise VideoError(f"{path}: {width}x{height} is odd; H.264 needs even sides")
                rate = Fraction(fps).limit_denominator(1001)
                stream = cast(VideoStream, output.add_stream(codec.name, rate=rate, options=dict(codec.options)))
                stream.height, stream.width, stream.pix_fmt = height, width, codec.pixel_format
                stream.codec_context.thread_count = 1
                if codec.pixel_format == "gray":
                    stream.codec_context.color_range = ColorRange.JPEG  # 0..255, not 16..235
            for frame in batch:
                output.mux(stream.encode(_encodable(path, frame, codec)))
        if stream is None:
            raise VideoError(f"{path}: there are no frames to write")
        output.mux(stream.encode(None))


def _encodable(path: str | Path, frame: UInt8[ndarray, "h w 3"], codec: Codec) -> av.VideoFrame:
    if codec.pixel_format != "gray":
        return av.VideoFrame.from_ndarray(frame, format="rgb24")
    grey = np.ascontiguousarray(frame[..., 0])
    if (frame != grey[..., None]).any():
        raise ValueError(f"{path}: the frames have colours; write them with CONTROL instead of GREY")
    return av.VideoFrame.from_ndarray(grey, format="gray")


def join_videos(paths: Sequence[str | Path], out: str | Path) -> None:
    """Join videos written by `write_video` without re-encoding; the result streams (moov first)."""
    with av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        stream = None
        offset = 0
        for path in paths:
            with av.open(local_path(path)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video)
                    stream.time_base = video.time_base
                end = offset
                for packet in source.demux(video):
                    if packet.pts is None or packet.dts is None:  # the end
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.stream = stream
                    output.mux(packet)
                offset = end
        if stream is None:
            raise VideoError(f"{out}: there are no videos to join")
