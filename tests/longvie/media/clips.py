"""Videos whose every frame says its own number, in any codec and container, so that one wrong frame is seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream

BITS = 12
DARK, BRIGHT = 40, 215
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": "enable-stat-report=0"}}


def numbered(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A picture (h, w, 3) of a number: one bar a bit, bright for 1, and a tinted square that moves."""
    bits = (number >> np.arange(BITS)) & 1
    bars = np.where(bits, BRIGHT, DARK)[np.arange(width) * BITS // width]
    frame = np.repeat(np.broadcast_to(bars, (height, width))[..., None], 3, axis=-1).astype(np.uint8)
    left = number * 3 % (width - 8)
    frame[: height // 5, left : left + 8] = (200, 60, 20)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number of a picture, at whatever size it was brought to."""
    height, width = frame.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    bars = frame[height * 2 // 5 : height * 4 // 5, middles].mean(axis=(0, 2))
    return int(((bars > (DARK + BRIGHT) / 2) << np.arange(BITS)).sum())


def numbers_of(batches: Iterable[Iterable[np.ndarray]]) -> list[int]:
    return [number_of(frame) for batch in batches for frame in batch]


def encode(
    path: Path,
    numbers: Sequence[int],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    fps: float = 24,
    milliseconds: Sequence[int] | None = None,
    size: tuple[int, int] = (64, 96),
    options: dict[str, str] | None = None,
    container: str | None = None,
    audio: bool = False,
) -> Path:
    """Write frames with these numbers; at these times where given, else at a constant rate."""
    with av.open(str(path), "w", format=container) as output:
        rate = Fraction(fps).limit_denominator(1001)
        extra = {**QUIET.get(codec, {}), **(options or {})}
        stream = cast(VideoStream, output.add_stream(codec, rate=rate, options=extra))
        stream.height, stream.width, stream.pix_fmt = *size, pixel_format
        stream.codec_context.thread_count = 1
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound: Any = output.add_stream("aac", rate=16_000) if audio else None
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[place], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if audio:
            for block in silence(len(numbers) / fps):
                output.mux(sound.encode(block))
            output.mux(sound.encode(None))
    return path


def silence(seconds: float) -> Iterable[av.AudioFrame]:
    for number in range(int(seconds * 16_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, number * 1024
        yield frame


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("aac", rate=16_000)
        for block in silence(2):
            output.mux(stream.encode(block))
        output.mux(stream.encode(None))
    return path


def copy_stream(source: Path, out: Path, *, container: str | None = None, skip_packets: int = 0) -> Path:
    """Copy packets without decoding, as stream copies do; the first packets may be left out, anywhere in a GOP."""
    with av.open(str(source)) as opened, av.open(str(out), "w", format=container) as output:
        video = opened.streams.video[0]
        stream = output.add_stream_from_template(video)
        for count, packet in enumerate(opened.demux(video)):
            if packet.dts is None or count < skip_packets:
                continue
            packet.stream = stream
            output.mux(packet)
    return out


def turn(path: Path, degrees: int) -> Path:
    """Write rotation into an MP4's track header, as a phone that was held upright does."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix lies 40 bytes after the name
    data[at : at + 36] = b"".join(int(value).to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path
