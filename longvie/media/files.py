"""Where a file lies, and images. It knows nothing of videos but the error they share."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageOps

MAX_IMAGE_PIXELS = 64_000_000  # refuses decompression bombs


class VideoError(ValueError):
    """A video or image that cannot be used; the message names the file and the remedy."""


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
    try:
        with Path(str(local)).open("rb"):
            return str(local)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise VideoError(f"{uri} does not exist or is not a file") from error
    except OSError as error:
        raise VideoError(f"{uri} cannot be read ({error.strerror})") from error


def read_image(uri: str | Path) -> UInt8[ndarray, "h w 3"]:
    """An image, turned as its EXIF orientation says."""
    path = local_path(uri)
    try:
        with Image.open(path) as opened:
            pixels = opened.width * opened.height
            image = ImageOps.exif_transpose(opened).convert("RGB") if pixels <= MAX_IMAGE_PIXELS else None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{uri} is not a readable image ({first_line(error)})") from error
    if image is None:
        raise VideoError(f"{uri} has {pixels:,} pixels; at most {MAX_IMAGE_PIXELS:,} are read")
    return np.array(image)


def write_image(path: str | Path, image: UInt8[ndarray, "h w 3"]) -> None:
    """Write as PNG."""
    Image.fromarray(image).save(path, format="PNG")


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
