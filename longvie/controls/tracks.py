"""Point tracks of one segment: what they are, the protocol of trackers, and tracks the user supplies.

Every segment starts a fresh grid on its own first frame (P1 App. C; `render.default_grid`). This file needs no torch:
the default tracker is in `lucas_kanade.py`, neural ones in `track_adapters.py`. Positions are pixels (x, y); the centre
of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray

from longvie.controls.render import render_tracks
from longvie.segments import Segment

PIXEL_CENTRE = 0.5  # where libraries put the first pixel's centre at 0, we put it at one half


class TrackError(ValueError):
    """Tracks or a tracker that cannot be used; one line that names the file or name and the remedy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """One segment's tracks. Points that are hidden or have left the frame are invisible; their position is a guess.

    `depth` is the dense control's grey at each point of the first frame, 0 (near) .. 255 (far): what a point's colour
    and drawing order need (`render.py`).
    """

    points: Float[ndarray, "t n 2"]
    visibility: Bool[ndarray, "t n"]
    depth: Float[ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        if self.points.shape != (*self.visibility.shape, 2):
            raise TrackError(
                f"tracks {self.points.shape} and visibility {self.visibility.shape} differ; give (t, n, 2)"
            )

    def with_depth(self, depth: Shaped[ndarray, "h w"]) -> Tracks:
        """These tracks with the depth at their points; `depth` is the grey of the first frame's dense control."""
        return replace(self, depth=sample_depth(depth, self.points[0]))

    def render(self, height: int, width: int) -> UInt8[ndarray, "t h w 3"]:
        """The sparse control of this segment."""
        if self.depth is None:
            raise TrackError("tracks have no depth, which their colours need; use with_depth")
        return render_tracks(self.points, self.visibility, self.depth, height, width)

    def save(self, path: str | Path) -> None:
        """Write `tracks` float16 (t, n, 2), `visibility` bool (t, n) and `depth` float16 (n,) as npz."""
        arrays = {"tracks": self.points.astype(np.float16), "visibility": self.visibility}
        if self.depth is not None:
            arrays["depth"] = self.depth.astype(np.float16)
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(path: str | Path) -> Tracks:
        """Read what `save` wrote; never unpickles."""
        arrays = _read_npz(path)
        depth = arrays.get("depth")
        return Tracks(
            points=arrays["tracks"].astype(np.float32),
            visibility=arrays["visibility"],
            depth=None if depth is None else depth.astype(np.float32),
        )


class PointTracker(Protocol):
    """Follows points of the first frame through a segment; weights, if any, are loaded once, in the constructor."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Of everything its result depends on: the weights and the settings."""
        ...

    @property
    def needs_torch(self) -> bool: ...

    def __call__(
        self,
        frames: UInt8[ndarray, "t h w 3"],
        points: Float[ndarray, "n 2"],
        depth: Shaped[ndarray, "t h w"] | None = None,
    ) -> Tracks:
        """Track `points` (x, y) of frame 0.

        Args:
            frames: the segment.
            points: pixels in frame 0; see `render.default_grid`.
            depth: the grey of the segment's dense control, 0 (near) .. 255 (far). The tracks carry its values at
                the points; without it they have none and cannot be rendered.
        """
        ...


class SuppliedTracks:
    """Tracks that the user gives: one .npz for the whole video, or one a segment, in order.

    Each holds `tracks` (t, n, 2), pixels (x, y) of the prepared frames, and `visibility` (t, n), true where seen.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], *, num_frames: int | None = None) -> None:
        """Read tracks into memory.

        Args:
            paths: one file for the whole video, or a list with one a segment.
            num_frames: of the prepared video; the file for the whole video must have as many.
        """
        whole = isinstance(paths, str | Path)
        self._paths = [str(paths)] if whole else [str(path) for path in paths]
        self._whole = whole
        self._tracks = [_read_supplied(path) for path in self._paths]
        if whole and num_frames is not None and len(self._tracks[0].points) != num_frames:
            have = len(self._tracks[0].points)
            raise TrackError(f"tracks {paths} have {have} frames, the video {num_frames}; give one row a frame")

    def at(self, segment: Segment) -> Tracks:
        """The segment's tracks: of its valid frames, and of the points visible in its first frame."""
        if self._whole:
            path, tracks, start = self._paths[0], self._tracks[0], segment.start
        else:
            if segment.index >= len(self._tracks):
                have = len(self._tracks)
                raise TrackError(
                    f"there are tracks for {have} segments, not for segment {segment.index}; give one .npz each"
                )
            path, tracks, start = self._paths[segment.index], self._tracks[segment.index], 0
        frames = slice(start, start + segment.num_valid)
        points, visibility = tracks.points[frames], tracks.visibility[frames]
        if len(points) < segment.num_valid:
            need = start + segment.num_valid
            raise TrackError(f"tracks {path} have {len(tracks.points)} frames, segment {segment.index} needs {need}")
        (seen,) = np.nonzero(visibility[0])
        return Tracks(points=points[:, seen], visibility=visibility[:, seen])


def _read_supplied(path: str) -> Tracks:
    arrays = _read_npz(path)
    points, visibility = arrays["tracks"], arrays["visibility"]
    if points.ndim != 3 or points.shape[2] != 2 or points.dtype.kind != "f":
        raise TrackError(f"{path}: tracks are {points.dtype} {points.shape}; give float (frames, points, 2)")
    if visibility.shape != points.shape[:2] or visibility.dtype != bool:
        raise TrackError(
            f"{path}: visibility is {visibility.dtype} {visibility.shape}; give bool {points.shape[:2]}, true if seen"
        )
    finite = np.isfinite(points[..., 0]) & np.isfinite(points[..., 1])
    return Tracks(points=np.where(finite[..., None], points, 0).astype(np.float32), visibility=visibility & finite)


def sample_depth(depth: Shaped[ndarray, "h w"], points: Float[ndarray, "n 2"]) -> Float[ndarray, " n"]:
    """The depth at the pixels that hold `points` (x, y); those outside take the nearest pixel's."""
    height, width = depth.shape
    column = np.clip(np.floor(points[:, 0]), 0, width - 1).astype(int)
    row = np.clip(np.floor(points[:, 1]), 0, height - 1).astype(int)
    return depth[row, column].astype(np.float32)


def inside(points: Float[ndarray, "*t n 2"], height: int, width: int) -> Bool[ndarray, "*t n"]:
    """Which points (x, y) lie in the frame."""
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def _read_npz(path: str | Path) -> dict[str, ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise TrackError(f"{path} is not a readable .npz of tracks ({error})") from error
    if missing := {"tracks", "visibility"} - arrays.keys():
        raise TrackError(f"{path} has no array {' and no array '.join(sorted(missing))}; write both with numpy.savez")
    return arrays
