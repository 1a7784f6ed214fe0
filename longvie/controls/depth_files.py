"""Depth that the user supplies: a video, a folder of 16-bit PNG, EXR or NPY files, or one .npy.

Needs no torch and never unpickles. What the values mean, the user declares (`polarity`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import fsspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from longvie.config import Fit
from longvie.controls.depth import DepthError
from longvie.controls.normalize import Polarity
from longvie.media import Video, VideoError, local_path

UINT8_MAX, UINT16_MAX = 255.0, 65535.0


class SuppliedDepth:
    """Depth frames by index.

    Integer formats are scaled to 0..1 (a video's luma by 255, 16-bit PNG by 65,535), so that float16 stores them
    evenly; float formats keep their values. Files of a folder are taken in the order of their names.
    """

    def __init__(self, uri: str, *, polarity: Polarity, frames: Sequence[int] | None = None) -> None:
        """Open depth; no frame is read yet.

        Args:
            uri: a local path or fsspec URI of a video, a .npy of shape (t, h, w), or a folder.
            polarity: "depth" if large is far, "disparity" if large is near.
            frames: which depth frame belongs to each frame of the prepared video; as they lie, if None.
        """
        self.uri = str(uri)
        self.polarity: Polarity = polarity
        self._read_one, self._length = _open(self.uri)
        self._frames = range(self._length) if frames is None else frames

    @property
    def num_frames(self) -> int:
        return len(self._frames)

    def for_video(self, num_source_frames: int, timeline: Sequence[int]) -> SuppliedDepth:
        """This depth on the prepared video's timeline.

        Args:
            num_source_frames: frames of the source video.
            timeline: for each prepared frame, the source frame it shows.

        Raises:
            DepthError: if there is neither one depth frame a source frame nor one a prepared frame.
        """
        if self._length == num_source_frames:
            return SuppliedDepth(self.uri, polarity=self.polarity, frames=timeline)
        if self._length == len(timeline):
            return SuppliedDepth(self.uri, polarity=self.polarity)
        raise DepthError(
            f"depth {self.uri} has {self._length} frames, but its video has {num_source_frames} "
            f"({len(timeline)} after resampling); give one depth frame for each"
        )

    def read(self, start: int, stop: int, height: int, width: int, fit: Fit = "crop") -> Float[ndarray, "t h w"]:
        """Depth of frames `start .. stop-1`, float32, fitted to height x width as the frames are."""
        if not 0 <= start < stop <= self.num_frames:
            raise DepthError(f"depth {self.uri} has {self.num_frames} frames; {start}..{stop - 1} were asked for")
        return np.stack([fit_depth(self._read_one(self._frames[t]), height, width, fit) for t in range(start, stop)])


def fit_depth(depth: Float[ndarray, "h w"], height: int, width: int, fit: Fit = "crop") -> Float[ndarray, "h2 w2"]:
    """Bring a depth map to height x width with the geometry of `fit_frames`.

    A side that shrinks is averaged over areas (or, if a value is not finite, takes the nearest), one that grows repeats
    the nearest value: neither invents depth beyond what is there. Where `pad` leaves a border depth is NaN, which no
    statistic counts.
    """
    source_height, source_width = depth.shape
    ratios = (height / source_height, width / source_width)
    if fit == "stretch":
        inner = (height, width)
    else:
        ratio = max(ratios) if fit == "crop" else min(ratios)
        inner = (max(1, round(source_height * ratio)), max(1, round(source_width * ratio)))
    smaller = (min(inner[0], source_height), min(inner[1], source_width))
    if smaller != depth.shape and np.isfinite(depth).all():
        depth = cv2.resize(depth, smaller[::-1], interpolation=cv2.INTER_AREA)
    if inner != depth.shape:
        depth = cv2.resize(depth, inner[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
    fitted = np.full((height, width), np.nan, np.float32)
    place = fitted[max(0, -top) : max(0, -top) + inner[0], max(0, -left) : max(0, -left) + inner[1]]
    place[...] = depth[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    return fitted


_ReadOne = Callable[[int], Float[ndarray, "h w"]]


def _open(uri: str) -> tuple[_ReadOne, int]:
    """How to read one frame, and how many there are."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if filesystem.isdir(path):
            names = sorted(str(name) for name in filesystem.ls(path, detail=False))
            return _open_folder(uri, [filesystem.unstrip_protocol(name) for name in names])
    except (OSError, ValueError, ImportError) as error:
        raise DepthError(f"depth {uri} cannot be read ({error})") from error
    if PurePosixPath(path).suffix.lower() == ".npy":
        return _open_npy(uri)
    try:
        video = Video(uri)
    except VideoError as error:
        raise DepthError(f"depth {error}; give a video, a .npy, or a folder of .png, .exr or .npy files") from error
    return (lambda index: _luma(video.read([index])[0])), video.info.num_frames


def _luma(frame: ndarray) -> Float[ndarray, "h w"]:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / UINT8_MAX


def _open_npy(uri: str) -> tuple[_ReadOne, int]:
    depth = _load_npy(uri, memory_map=True)
    if depth.ndim != 3:
        raise DepthError(f"depth {uri} has shape {depth.shape}; give (frames, height, width)")
    return (lambda index: _as_depth(uri, depth[index])), len(depth)


def _open_folder(uri: str, files: list[str]) -> tuple[_ReadOne, int]:
    readers = {".png": _read_png, ".exr": _read_exr, ".npy": lambda file: _as_depth(file, _load_npy(file))}
    kinds = {suffix for file in files if (suffix := PurePosixPath(file).suffix.lower()) in readers}
    if len(kinds) != 1:
        found = " and ".join(sorted(kinds)) or "no .png, .exr or .npy"
        raise DepthError(f"depth folder {uri} holds {found} files; give one file a frame, all of one kind")
    (kind,) = kinds
    files = [file for file in files if file.lower().endswith(kind)]
    return (lambda index: readers[kind](files[index])), len(files)


def _read_png(uri: str) -> Float[ndarray, "h w"]:
    image = cv2.imread(_local(uri), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DepthError(f"depth {uri} is not a readable PNG")
    if image.dtype != np.uint16 or image.ndim != 2:
        channels = 1 if image.ndim == 2 else image.shape[2]
        raise DepthError(f"depth {uri} is {image.dtype} with {channels} channels; give 16-bit grey PNG")
    return image.astype(np.float32) / np.float32(UINT16_MAX)


def _read_exr(uri: str) -> Float[ndarray, "h w"]:
    import OpenEXR

    try:
        with OpenEXR.File(_local(uri), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, OSError, ValueError) as error:
        raise DepthError(f"depth {uri} is not a readable EXR file ({error})") from error
    for name in ("Z", "Y", "R"):  # depth, luminance, or grey written as colour
        if name in channels:
            return _as_depth(uri, channels[name])
    raise DepthError(f"depth {uri} has channels {', '.join(sorted(channels))}; give depth as Z, Y or R")


def _load_npy(uri: str, *, memory_map: bool = False) -> ndarray:
    try:
        return np.load(_local(uri), mmap_mode="r" if memory_map else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DepthError(f"depth {uri} is not a readable .npy of numbers ({error})") from error


def _as_depth(uri: str, depth: ndarray) -> Float[ndarray, "h w"]:
    if depth.ndim != 2 or depth.dtype.kind != "f":
        raise DepthError(f"depth {uri} is {depth.dtype} of shape {depth.shape} a frame; give float (height, width)")
    return np.asarray(depth, np.float32)


def _local(uri: str) -> str:
    try:
        path = local_path(uri)
    except VideoError as error:
        raise DepthError(f"depth {error}") from error
    return str(Path(path))
