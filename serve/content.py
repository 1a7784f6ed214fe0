"""Bytes of finished files over HTTP: whole, or one range of them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from starlette.responses import Response, StreamingResponse

from longvie.media import Video
from pipelines.storage import Storage
from serve.errors import ApiError

_BLOCK = 1 << 18
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
THUMBNAIL_SIDE = 320  # pixels at most
PREVIEW_FRAMES = 24  # of a segment's control, at most


def file_response(
    storage: Storage, name: str, media_type: str, tag: str, range_header: str | None = None, if_range: str | None = None
) -> Response:
    """A file, or the range of it that was asked for; `FileNotFoundError` if there is none.

    One range is served, as players and download managers ask; of several, or of another unit, the whole file is sent,
    as RFC 9110 allows.
    """
    size = storage.size(name)
    if size is None:
        raise FileNotFoundError(name)
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    wanted = None
    if range_header is not None and if_range in (None, f'"{tag}"'):
        wanted = _range(range_header, size)
    start, stop = wanted or (0, size)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    blocks = _blocks(storage, name, start, stop)
    return StreamingResponse(blocks, 206 if wanted else 200, headers, media_type)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a range; None to send all; 416 if it lies outside."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if found[1]:
        start, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < int(found[1]):
            return None
    else:
        start, stop = max(0, size - int(found[2])), size
    if start >= stop:
        raise ApiError(
            416, "range_not_satisfiable", f"the file has {size} bytes", "Range", {"Content-Range": f"bytes */{size}"}
        )
    return start, stop


def _blocks(storage: Storage, name: str, start: int, stop: int) -> Iterator[bytes]:
    with storage.open(name) as file:
        file.seek(start)
        while start < stop and (block := file.read(min(_BLOCK, stop - start))):
            start += len(block)
            yield block


def thumbnail(path: Path) -> bytes:
    """The first frame of one of our own videos, as WebP."""
    image = Image.fromarray(Video(path).read(range(1))[0])
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    target = io.BytesIO()
    image.save(target, "WEBP", quality=85)
    return target.getvalue()


def preview(uri: str, start: int, stop: int, fps: float) -> bytes:
    """Frames `start` to `stop` of a control video as a small moving WebP, which plays as fast as the video."""
    video = Video(uri)
    stop = min(stop, video.info.num_frames)
    step = max(1, math.ceil((stop - start) / PREVIEW_FRAMES))
    images = [Image.fromarray(frame) for frame in video.read(range(min(start, stop - 1), stop, step))]
    for image in images:
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    target = io.BytesIO()
    duration = round(1000 * step / fps)
    images[0].save(target, "WEBP", quality=80, save_all=True, append_images=images[1:], duration=duration, loop=0)
    return target.getvalue()
