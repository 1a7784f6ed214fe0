"""Reads and writes frames; the only file that knows a codec.

Frames are uint8 RGB (t, h, w, 3). Sources are local paths or fsspec URIs (fetched to a local cache first). What a
user can get wrong raises `VideoError`, one line that names the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import decord
import fsspec
import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps
from torchvision.transforms.v2 import functional as tv

from longvie.config import Fit
from longvie.types import Frames, Image

MAX_IMAGE_PIXELS = 64_000_000  # refuses decompression bombs

# One key frame at the start, no B-frames and one thread: segments join without re-encoding, and the same frames give
# the same bytes everywhere. CRF 16 is visually lossless for H.264. Macroblock-tree rate control is off: x264's assembly
# for it reads uninitialised memory on frames of a few macroblocks, and one encode in fifty came out different.
_ENCODER = {
    "crf": "16",
    "preset": "medium",
    "bf": "0",
    "g": "600",
    "sc_threshold": "0",
    "threads": "1",
    "mbtree": "0",
}


class VideoError(ValueError):
    """A video or image that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    num_frames: int
    height: int  # pixels, as displayed
    width: int
    fps: float


def local_path(uri: str | Path) -> str:
    """A local file with the content of `uri`, which may be any fsspec URI; fetched once a process."""
    uri = str(uri)
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
            local = path
        else:
            local = fsspec.open_local(f"simplecache::{uri}")
    except FileNotFoundError as error:
        raise VideoError(f"{uri} does not exist") from error
    except ValueError as error:
        raise VideoError(f"{uri}: {error}") from error
    except (OSError, ImportError) as error:
        raise VideoError(f"{uri} cannot be read ({error})") from error
    if not Path(str(local)).is_file():
        raise VideoError(f"{uri} does not exist or is not a file")
    return str(local)


def probe_video(uri: str | Path) -> VideoInfo:
    """Frame count, size and mean frame rate of a video."""
    reader = _open(uri)
    if isinstance(reader, _PyAVReader):
        return VideoInfo(num_frames=len(reader), height=reader.height, width=reader.width, fps=reader.fps)
    height, width = reader[0].shape[:2]
    return VideoInfo(num_frames=len(reader), height=height, width=width, fps=float(reader.get_avg_fps()))


def read_frames(uri: str | Path, start: int = 0, stop: int | None = None) -> Frames:
    """Frames `start .. stop-1` (all from `start` if None), by exact random access."""
    reader = _open(uri)
    stop = len(reader) if stop is None else stop
    if not 0 <= start < stop <= len(reader):
        raise VideoError(f"{uri} has {len(reader)} frames; frames {start}..{stop - 1} were asked for")
    indices = range(start, stop)
    try:
        if isinstance(reader, decord.VideoReader):
            try:
                return torch.from_numpy(reader.get_batch(indices).asnumpy())
            except decord.DECORDError:  # broken data, or rows that decord cannot copy (width 48); PyAV will tell
                reader = _PyAVReader(local_path(uri))
        frames = reader.get_batch(indices)
    except av.FFmpegError as error:
        raise VideoError(f"{uri} breaks off in frames {start}..{stop - 1} ({_first_line(error)})") from error
    if len(frames) < len(indices):
        raise VideoError(f"{uri} breaks off after frame {start + len(frames) - 1}; frames up to {stop - 1} were asked for")
    return torch.from_numpy(frames)


def read_image(uri: str | Path) -> Image:
    """An image as uint8 (h, w, 3), turned as its EXIF orientation says."""
    path = local_path(uri)
    try:
        with PILImage.open(path) as opened:
            if opened.width * opened.height > MAX_IMAGE_PIXELS:
                raise VideoError(f"{uri} has {opened.width}x{opened.height} pixels; at most {MAX_IMAGE_PIXELS:,} are read")
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except VideoError:
        raise
    except (OSError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise VideoError(f"{uri} is not a readable image ({_first_line(error)})") from error
    return torch.from_numpy(np.array(image))


def write_image(path: str | Path, image: Image) -> None:
    """Write uint8 (h, w, 3) as PNG."""
    PILImage.fromarray(image.numpy()).save(path, format="PNG")


def fit_frames(frames: Frames, height: int, width: int, fit: Fit = "crop") -> Frames:
    """Bring frames to height x width: `crop` the centre, `pad` with black, or `stretch`; antialiased bilinear."""
    source_height, source_width = frames.shape[1:3]
    if (source_height, source_width) == (height, width):
        return frames
    ratios = (height / source_height, width / source_width)
    if fit == "stretch":
        size = (height, width)
    else:
        ratio = max(ratios) if fit == "crop" else min(ratios)
        size = (max(1, round(source_height * ratio)), max(1, round(source_width * ratio)))
    scaled = tv.resize(frames.permute(0, 3, 1, 2), list(size), antialias=True)
    # centre crop pads with black where the scaled frame is smaller, and cuts where it is larger
    return tv.center_crop(scaled, [height, width]).permute(0, 2, 3, 1).contiguous()


def write_video(path: str | Path, frames: Frames | Iterable[Frames], fps: float) -> None:
    """Encode as H.264 in MP4, moov first; equal frames give equal bytes. Height and width must be even."""
    batches = [frames] if isinstance(frames, torch.Tensor) else frames
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        stream = None
        for batch in batches:
            if stream is None:
                height, width = batch.shape[1:3]
                if height % 2 or width % 2:
                    raise VideoError(f"{path}: {width}x{height} is odd; H.264 needs even sides")
                stream = output.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_ENCODER)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                stream.codec_context.thread_count = 1
            for frame in batch:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        if stream is None:
            raise VideoError(f"{path}: there are no frames to write")
        output.mux(stream.encode(None))


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
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    end = max(end, packet.pts + packet.duration)
                    packet.stream = stream
                    output.mux(packet)
                offset = end
        if stream is None:
            raise VideoError(f"{out}: there are no videos to join")


class _PyAVReader:
    """What decord cannot decode: frames in order of presentation, decoded from the start up to the last asked."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._length = 0
        with av.open(path) as source:
            stream = source.streams.video[0]
            self.fps = float(stream.average_rate or 0)
            for frame in source.decode(stream):
                self.height, self.width = frame.height, frame.width
                self._length += 1

    def __len__(self) -> int:
        return self._length

    def get_batch(self, indices: range) -> np.ndarray:
        with av.open(self._path) as source:
            decoded = itertools.islice(source.decode(video=0), indices.start, indices.stop)
            frames = [frame.to_ndarray(format="rgb24") for frame in decoded]
        return np.stack(frames) if frames else np.empty((0, self.height, self.width, 3), np.uint8)


def _open(uri: str | Path) -> decord.VideoReader | _PyAVReader:
    path = local_path(uri)
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader):
            reader[0].asnumpy()  # some codecs (AV1) and widths (16, 48) fail only here
            return reader
    except (decord.DECORDError, RuntimeError):
        pass  # said below, if PyAV cannot either
    try:
        reader = _PyAVReader(path)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise VideoError(f"{uri} is not a readable video ({_first_line(error)})") from error
    if not len(reader):
        raise VideoError(f"{uri} has no frames")
    return reader


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
