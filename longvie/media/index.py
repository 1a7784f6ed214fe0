"""What a video is, and when each of its frames is shown.

Containers with an index of frames (MP4, Matroska) are read packet by packet without decoding; of all others, where a
packet need not be a frame (MPEG-TS cut anywhere, AVI, raw streams), every frame is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import decord
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, Int
from numpy import ndarray

from longvie.media.files import VideoError, first_line, local_path

# decord decodes ahead without bound: of a 720p film it held 1.8 GB two seconds after one frame was asked for. So it
# serves only videos that are small as a whole (a segment's control at 640x352 takes 55 MB); PyAV serves the rest.
DECORD_BYTES = 128_000_000
MAX_PIXELS = 7680 * 4320  # refuses headers of a broken file that ask for gigabytes a frame
MAX_FRAMES = 10_000_000  # two days at 60 frames/s: beyond it the file's times are wrong
TRUNCATED_BEYOND = 0.5  # seconds that a file may be shorter than its header says
VARIABLE_BEYOND = 0.002  # seconds between the longest and the shortest frame; Matroska rounds times to 0.001

_INDEXED_CONTAINERS = {"mov", "matroska"}
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1"}
_NOT_VIDEOS = {"concat", "dash", "hls", "image2", "tty"}  # they name other files, or are pictures or text


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video is. Height and width are pixels as displayed (rotation applied), fps is the mean rate."""

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float  # seconds, from the first frame's appearance to the last one's end
    variable: bool  # whether frames last differently long
    codec: str
    rotation: int  # degrees that were applied: 0, 90, 180 or 270, counter-clockwise
    bit_depth: int
    has_audio: bool
    decoder: Literal["decord", "pyav"]  # what reads frames by number; streams are always PyAV's


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """Where the frames of a video lie.

    Args:
        ticks: presentation time of each frame in the stream's time base; None where the file has no usable times, so
            that frames can only be counted.
        keys: numbers of the frames that decoding may start with.
    """

    path: str
    info: VideoInfo
    times: Float[ndarray, " n"]  # seconds from the first frame
    ticks: Int[ndarray, " n"] | None
    keys: Int[ndarray, " m"]


def probe_video(uri: str | Path) -> VideoInfo:
    """What a video is. `VideoError` if its first frame cannot be decoded or it ends before its index says."""
    return index_video(uri).info


def index_video(uri: str | Path) -> VideoIndex:
    """`probe_video`, with the time of every frame."""
    path = local_path(uri)
    with av_errors(uri):
        with open_video(uri, path) as (container, stream):
            first = next(decoded(container, stream), None)
            if first is None:
                raise VideoError(f"{uri} has no frames that can be decoded")
            formats = set(container.format.name.split(","))
            codec = stream.codec_context.codec.canonical_name
        indexed = bool(formats & _INDEXED_CONTAINERS) and codec in _ONE_FRAME_A_PACKET
        with open_video(uri, path) as (container, stream):
            if indexed:
                entries, end = _demuxed(uri, path, container, stream)
            else:
                entries, end = [(f.pts, f.duration, f.key_frame) for f in decoded(container, stream)], None
            return _index(uri, path, container, stream, first, entries, end, indexed)


@contextmanager
def av_errors(uri: str | Path) -> Iterator[None]:
    """FFmpeg's errors as `VideoError`."""
    try:
        yield
    except (FFmpegError, OSError) as error:
        raise VideoError(f"{uri} is not a readable video, or damaged ({first_line(error)})") from error


@contextmanager
def open_video(uri: str | Path, path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A container and its first moving picture, set up to decode in one thread and to raise on damage."""
    with av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
        name = container.format.name
        if set(name.split(",")) & _NOT_VIDEOS or name.endswith("_pipe"):
            raise VideoError(f"{uri} is no video file but {container.format.long_name or name}")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{uri} has no video{', only audio' if container.streams.audio else ''}")
        context = streams[0].codec_context
        context.thread_count = 1
        context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        yield container, streams[0]


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames from where the container stands. Damage raises, except before the first frame: a stream that was cut
    anywhere begins with what cannot be decoded."""
    begun = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            if begun:
                raise
            continue
        for frame in frames:
            if frame.is_corrupt:
                if begun:
                    raise InvalidDataError(0, "a frame is damaged")
                continue
            begun = True
            yield frame


def _demuxed(
    uri: str | Path, path: str, container: InputContainer, stream: VideoStream
) -> tuple[list[tuple[int | None, int | None, bool]], float | None]:
    """(time, duration, key) of each frame in ticks, in the order of decoding, without decoding."""
    size = Path(path).stat().st_size
    index = stream.index_entries
    if "mov" in container.format.name and any(entry.pos + entry.size > size for entry in index):
        raise VideoError(f"{uri} is truncated: its index names frames beyond its end")
    entries: list[tuple[int | None, int | None, bool]] = []
    end = 0.0
    for packet in container.demux():
        if packet.pts is None and packet.dts is None:
            continue
        if packet.is_corrupt:
            raise VideoError(f"{uri} is truncated or damaged after {len(entries)} frames")
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == stream.index and not packet.is_discard:
            entries.append((packet.pts, packet.duration, packet.is_keyframe))
    return entries, end


def _index(
    uri: str | Path,
    path: str,
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    entries: Sequence[tuple[int | None, int | None, bool]],
    end: float | None,
    indexed: bool,
) -> VideoIndex:
    # Matroska's header says how long the file is, but nothing says how many frames it has.
    if end is not None and container.duration and "matroska" in container.format.name:
        promised = container.duration / av.time_base
        if promised - end > TRUNCATED_BEYOND:
            raise VideoError(f"{uri} is truncated: it ends after {end:.1f} s of {promised:.1f} s")
    if not entries:
        raise VideoError(f"{uri} has no frames that can be decoded")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    known = [pts for pts, _, _ in entries if pts is not None]
    if len(known) == len(entries) and len(set(known)) == len(known) and stream.time_base:
        order = np.argsort(np.asarray(known, np.int64))
        ticks = np.asarray(known, np.int64)[order]
        tick = float(stream.time_base)
        times = (ticks - ticks[0]) * tick
        gaps = np.diff(times)
        last = (entries[order[-1]][1] or 0) * tick or (float(np.median(gaps)) if len(gaps) else 1 / rate if rate else 0)
        duration = float(times[-1]) + last
    else:
        order = np.arange(len(entries))
        ticks = None
        if not rate:
            raise VideoError(f"{uri} has neither times nor a frame rate")
        times = order / rate
        gaps = np.diff(times)
        duration = len(entries) / rate
    keys = np.flatnonzero([entries[i][2] for i in order])
    fps = len(entries) / duration if duration > 0 else rate
    variable = bool(len(gaps)) and float(gaps.max() - gaps.min()) > VARIABLE_BEYOND
    if not variable and rate and abs(fps / rate - 1) < 0.001:  # times are rounded, the rate is not
        fps = rate
    if duration <= 0 or duration * max(fps, 1) > MAX_FRAMES:
        raise VideoError(f"{uri} claims to last {duration:g} s; its times are damaged")
    rotation = first.rotation % 360
    height, width = (first.width, first.height) if rotation in (90, 270) else (first.height, first.width)
    small = indexed and len(entries) * height * width * 3 <= DECORD_BYTES
    info = VideoInfo(
        num_frames=len(entries),
        height=height,
        width=width,
        fps=fps,
        duration=duration,
        variable=variable,
        codec=stream.codec_context.codec.canonical_name,
        rotation=rotation,
        bit_depth=first.format.components[0].bits,
        has_audio=bool(container.streams.audio),
        decoder="decord" if small and open_decord(path, len(entries)) is not None else "pyav",
    )
    return VideoIndex(path=path, info=info, times=times, ticks=ticks, keys=keys)


def open_decord(path: str, num_frames: int) -> Any | None:
    """decord's reader, or None where it cannot read the file (AV1) or counts its frames differently."""
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) != num_frames:
            return None
        reader[0].asnumpy()  # some codecs (AV1) and widths (16, 48) fail only here
    except (decord.DECORDError, RuntimeError):
        return None
    return reader
