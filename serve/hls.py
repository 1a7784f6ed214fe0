"""HLS while the video is made: an EVENT playlist with one entry a finished segment, and those as fragmented MP4.

Segments are put into fragments packet by packet, never encoded again. All come from one encoder with one setting
(longvie/media/write.py), so one initialization section serves all (RFC 8216, 4.3.2.5). A fragment's decode time is
what it is on the whole video's timeline: the playlist has no discontinuities.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from longvie.media import VideoError

PLAYLIST = "application/vnd.apple.mpegurl"
SEGMENT = "video/mp4"
_VERSION = 7  # EXT-X-MAP without I-frames only; fragmented MP4
_CONTAINERS = {b"moof", b"traf", b"moov", b"trak", b"mdia"}


@dataclass(frozen=True, kw_only=True)
class Fragments:
    """One segment: its initialization section, and its fragments."""

    init: bytes
    media: bytes


def playlist(frames: Sequence[int], fps: float, longest: int, ended: bool) -> str:
    """The playlist of the segments that exist.

    Args:
        frames: of each entry.
        longest: frames of the longest entry that will ever come: the target duration may not change.
        ended: no entry will be added.
    """
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{_VERSION}",
        f"#EXT-X-TARGETDURATION:{max(1, math.ceil(longest / fps))}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
    ]
    if frames:
        lines.append('#EXT-X-MAP:URI="init.mp4"')
    for index, count in enumerate(frames):
        lines += [f"#EXTINF:{count / fps:.6f},", f"{index:05d}.m4s"]
    if ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def fragments(path: str | Path, frames_before: int, fps: float, number: int) -> Fragments:
    """One of our own videos as fragments that follow `frames_before` frames.

    Args:
        number: of the segment; fragments are numbered after it.
    """
    target = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer", "use_editlist": "0"}
    with av.open(str(path)) as source, av.open(target, "w", format="mp4", options=options) as output:
        video = source.streams.video[0]
        stream = output.add_stream_from_template(video)
        if video.time_base is None:
            raise VideoError(f"{path} has no time base")
        stream.time_base = video.time_base
        for packet in source.demux(video):
            if packet.dts is None:
                continue
            packet.stream = stream
            output.mux(packet)
    data = bytearray(target.getvalue())
    scale = next(_timescale(data, start) for kind, start, _ in _boxes(data, 0, len(data)) if kind == b"mdhd")
    offset = round(frames_before * scale / fps)
    count = 0
    for kind, start, _ in list(_boxes(data, 0, len(data))):
        if kind == b"mfhd":
            count += 1
            struct.pack_into(">I", data, start + 12, (number << 12) + count)
        elif kind == b"tfdt":
            form = ">Q" if data[start + 8] else ">I"  # version 1 has 64 bits
            struct.pack_into(form, data, start + 12, struct.unpack_from(form, data, start + 12)[0] + offset)
    first = next(start for kind, start, _ in _boxes(data, 0, len(data)) if kind == b"moof")
    return Fragments(init=bytes(data[:first]), media=bytes(data[first:]))


def _boxes(data: bytes | bytearray, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and stop of each box, in order, and of those within it (ISO/IEC 14496-12, 4.2)."""
    while start < stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = stop if size == 0 else start + size
        yield kind, start, end
        if kind in _CONTAINERS:
            yield from _boxes(data, start + header, end)
        start = end


def _timescale(data: bytes | bytearray, start: int) -> int:
    """Ticks a second, of an mdhd box."""
    return struct.unpack_from(">I", data, start + (28 if data[start + 8] else 20))[0]
