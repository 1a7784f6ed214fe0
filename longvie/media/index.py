"""What a video is, and when each of its frames is shown.

Containers with an index of frames (MP4, Matroska) are read packet by packet without decoding; of all others, where a
packet need not be a frame (MPEG-TS cut anywhere, AVI, raw streams), every frame is decoded once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import decord
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Float, Int
from numpy import ndarray

from longvie.media.container import av_errors, decoded, open_video
from longvie.media.files import VideoError, local_path

# decord serves videos that are small as a whole (a segment's control at 640x352 takes 55 MB), for it decodes ahead
# without bound; whose only key frame is the first, for after seeking it miscounts open GOPs (x265's default) and intra
# refresh; and of 8 bits and even sides, for the colours of others come out another way than PyAV's, which serves them.
DECORD_BYTES = 128_000_000
MAX_SECONDS = 48 * 3600  # beyond it the file's times are wrong
TRUNCATED_BEYOND = 0.25  # seconds that a file may be shorter than its header says
VARIABLE_BEYOND = 0.002  # seconds between the longest and the shortest frame; Matroska rounds times to 0.001

_INDEXED_CONTAINERS = {"mov", "matroska"}
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1"}  # unlike VP8, whose hidden frames are packets


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video is."""

    num_frames: int
    height: int  # pixels as displayed, rotation applied
    width: int
    fps: float  # mean rate
    duration: float  # seconds, from the first frame's appearance to the last one's end
    variable: bool  # whether frames last differently long
    codec: str
    rotation: int  # degrees that were applied, counter-clockwise: 0, 90, 180 or 270
    bit_depth: int
    has_audio: bool
    decoder: Literal["decord", "pyav"]  # what reads frames by number; streams are always PyAV's


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """Where the frames of a video lie.

    Args:
        times: when each frame appears, seconds from the first, not decreasing.
        ticks: presentation time of each frame in the stream's time base; None where the file has no usable times, so
            that frames can only be counted.
        keys: numbers of the frames that decoding may start with.
        indexed: whether times and keys are the container's own; else a decoder found them on its way from the start.
    """

    path: str
    info: VideoInfo
    times: Float[ndarray, " n"]
    ticks: Int[ndarray, " n"] | None
    keys: Int[ndarray, " m"]
    indexed: bool


class _Entry(NamedTuple):
    """A frame in the file: its time and duration in ticks, and whether it is a key frame."""

    time: int | None
    duration: int
    key: bool


def probe_video(uri: str | Path) -> VideoInfo:
    """What a video is. `VideoError` if its first frame cannot be decoded or the file ends before its index says."""
    return index_video(uri).info


def index_video(uri: str | Path) -> VideoIndex:
    """`probe_video`, with the time of every frame."""
    path = local_path(uri)
    with av_errors(uri):
        with open_video(uri, path) as (container, stream):
            first = next(decoded(uri, container, stream), None)
            formats = set(container.format.name.split(","))
            codec = stream.codec_context.codec.canonical_name
            has_audio = bool(container.streams.audio)
        if first is None:
            raise VideoError(f"{uri} has no frames that can be decoded")
        entries: Sequence[_Entry] = []
        if formats & _INDEXED_CONTAINERS and codec in _ONE_FRAME_A_PACKET:
            with open_video(uri, path) as (container, stream):
                entries = _demuxed(uri, path, container, stream)
                rate, tick = _rate(stream), float(stream.time_base or 0)
        indexed = bool(entries) and first.pts is not None and first.pts == entries[0].time
        if not indexed:
            with open_video(uri, path) as (container, stream):
                entries = [_Entry(f.pts, f.duration or 0, f.key_frame) for f in decoded(uri, container, stream)]
                rate, tick = _rate(stream), float(stream.time_base or 0)
    ticks, times, duration = _times(uri, entries, rate, tick)
    keys = np.flatnonzero([entry.key for entry in entries])
    gaps = np.diff(times)
    variable = bool(len(gaps)) and float(gaps.max() - gaps.min()) > VARIABLE_BEYOND
    rotation = first.rotation % 360
    height, width = (first.width, first.height) if rotation in (90, 270) else (first.height, first.width)
    bit_depth = first.format.components[0].bits
    suits_decord = (
        indexed
        and len(entries) * height * width * 3 <= DECORD_BYTES
        and list(keys) == [0]
        and bit_depth == 8
        and height % 2 == width % 2 == 0
    )
    info = VideoInfo(
        num_frames=len(entries),
        height=height,
        width=width,
        fps=len(entries) / duration,
        duration=duration,
        variable=variable,
        codec=codec,
        rotation=rotation,
        bit_depth=bit_depth,
        has_audio=has_audio,
        decoder="decord" if suits_decord and open_decord(path, len(entries)) is not None else "pyav",
    )
    return VideoIndex(path=path, info=info, times=times, ticks=ticks, keys=keys, indexed=indexed)


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


def _demuxed(uri: str | Path, path: str, container: InputContainer, stream: VideoStream) -> list[_Entry]:
    """The frames in the order they are shown, without decoding. `VideoError` where the file was cut off."""
    size = Path(path).stat().st_size
    if "mov" in container.format.name and any(entry.pos + entry.size > size for entry in stream.index_entries):
        raise VideoError(f"{uri} is truncated: its index names frames beyond its end")
    entries: list[_Entry] = []
    end = 0.0  # seconds, over all streams
    for packet in container.demux():
        if packet.is_corrupt:
            raise VideoError(f"{uri} is truncated or damaged after {len(entries)} frames")
        if packet.pts is None:
            continue
        if packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == stream.index and not packet.is_discard:
            entries.append(_Entry(packet.pts, packet.duration or 0, packet.is_keyframe))
    # Matroska's header says how long the file is, but nothing says how many frames it has.
    promised = (container.duration or 0) / av.time_base
    if "matroska" in container.format.name and promised - end > TRUNCATED_BEYOND:
        raise VideoError(f"{uri} is truncated: it ends after {end:.1f} s of {promised:.1f} s")
    return sorted(entries)


def _times(
    uri: str | Path, entries: Sequence[_Entry], rate: float, tick: float
) -> tuple[Int[ndarray, " n"] | None, Float[ndarray, " n"], float]:
    """The frames' times in ticks, if usable, and in seconds from the first; and when the last one ends."""
    known = [entry.time for entry in entries if entry.time is not None]
    if tick and len(known) == len(entries) and all(a < b for a, b in itertools.pairwise(known)):
        ticks = np.asarray(known, np.int64)
        times = (ticks - ticks[0]) * tick
        usual = float(np.median(np.diff(times))) if len(times) > 1 else (1 / rate if rate else 0.0)
        duration = float(times[-1]) + (entries[-1].duration * tick or usual)
        if rate and np.abs(times - np.arange(len(times)) / rate).max() <= tick:  # a constant rate, rounded to ticks
            times, duration = np.arange(len(times)) / rate, len(times) / rate
    elif rate:
        ticks, times, duration = None, np.arange(len(entries)) / rate, len(entries) / rate
    else:
        raise VideoError(f"{uri} has neither times nor a frame rate; wrap it into MP4 or Matroska")
    if not 0 < duration <= MAX_SECONDS:
        raise VideoError(f"{uri} claims to last {duration:g} s; its times are damaged")
    return ticks, times, duration


def _rate(stream: VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)
