"""Opens a video file for decoding: in one thread, within limits, and so that damage raises.

decord has no say here. It hides damage (of files with 8 flipped bits FFmpeg's strict mode refuses twice as many) and
decodes ahead without bound (of a 720p film it held 1.8 GB two seconds after one frame was asked for).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longvie.media.files import VideoError, first_line

MAX_PIXELS = 7680 * 4320  # refuses headers of a broken file that ask for gigabytes a frame
_NOT_VIDEOS = {"concat", "dash", "hls", "image2", "tty"}  # they name other files, or are pictures or text


@contextmanager
def av_errors(uri: str | Path) -> Iterator[None]:
    """FFmpeg's errors as `VideoError`."""
    try:
        yield
    except (FFmpegError, OSError) as error:
        raise VideoError(f"{uri} is not a readable video, or damaged ({first_line(error)})") from error


@contextmanager
def open_video(uri: str | Path, path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A container and its first moving picture. `VideoError` if there is none."""
    with av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
        name = container.format.name
        if set(name.split(",")) & _NOT_VIDEOS or name.endswith("_pipe"):
            raise VideoError(f"{uri} is no video file but {container.format.long_name or name}")
        # cover art is a video stream to FFmpeg
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{uri} has no video{', only audio' if container.streams.audio else ''}")
        context = streams[0].codec_context
        if context is None:
            raise VideoError(f"{uri} has a video whose codec is unknown")
        context.thread_count = 1
        context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        yield container, streams[0]


def decoded(uri: str | Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames from where the container stands.

    Damage raises, except before the first frame: a stream that was cut anywhere begins with what cannot be decoded.
    """
    begun = False
    for packet in container.demux(stream):
        if packet.is_corrupt and begun:
            raise VideoError(f"{uri} breaks off, or is damaged: a packet is not whole")
        try:
            frames = packet.decode()
        except FFmpegError:
            if begun:
                raise
            continue
        for frame in frames:
            if frame.is_corrupt:
                if begun:
                    raise VideoError(f"{uri} is damaged: a frame cannot be decoded whole")
                continue
            begun = True
            yield frame
