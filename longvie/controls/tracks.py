"""Point tracks of one segment: the protocol, the default tracker (Lucas-Kanade), and tracks the user supplies.

Every segment starts a fresh grid on its own first frame (P1 App. C). This file needs no torch; neural trackers are in
`track_adapters.py`. Positions are pixels (x, y), pixel centres at whole numbers plus one half.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from longvie.controls.render import render_tracks
from longvie.segments import Segment


class TrackError(ValueError):
    """Tracks or a tracker that cannot be used; one line that names the file or name and the remedy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """One segment's tracks. Points that are hidden or have left the frame are invisible; their position is a guess.

    `depth` is each point's depth in the first frame (large is far), what its colour and drawing order need.
    """

    points: Float[ndarray, "t n 2"]
    visibility: Bool[ndarray, "t n"]
    depth: Float[ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        if self.points.shape != (*self.visibility.shape, 2):
            raise TrackError(
                f"tracks {self.points.shape} and visibility {self.visibility.shape} differ; give (t, n, 2)"
            )

    def with_depth(self, depth: Float[ndarray, "h w"]) -> Tracks:
        """These tracks with the depth found at their points in the first frame's depth map."""
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
    """Follows points of the first frame through a segment."""

    name: str
    fingerprint: str  # of everything its result depends on
    needs_torch: bool

    def __call__(
        self,
        frames: UInt8[ndarray, "t h w 3"],
        points: Float[ndarray, "n 2"],
        depth: Float[ndarray, "t h w"] | None = None,
    ) -> Tracks: ...


def load_point_tracker(spec: str = "lucas-kanade", *, device: str = "cpu", dtype: str = "float32") -> PointTracker:
    """The tracker named `spec`: lucas-kanade, cotracker3[:FOLDER] or spatialtracker:FOLDER."""
    name, _, where = spec.partition(":")
    if name == "lucas-kanade" and not where:
        return LucasKanade()
    raise TrackError(f"there is no tracker {spec}; give lucas-kanade, cotracker3[:FOLDER] or spatialtracker:FOLDER")


@dataclass(frozen=True, kw_only=True)
class LucasKanade:
    """OpenCV's pyramidal Lucas-Kanade, frame to frame, with a forward-backward check.

    A point is lost, and stays invisible, once it leaves the frame, once going back does not return to where it came
    from, or once something nearer covers it (where depth is given).
    """

    name: str = "lucas-kanade"
    needs_torch: bool = False
    window: int = 21  # pixels a side
    levels: int = 4  # pyramid levels above the first: displacements up to about window * 2**levels / 2 pixels
    iterations: int = 20
    epsilon: float = 0.01  # pixels; iteration stops below
    min_eigenvalue: float = 1e-5  # of a patch: below, it has too little texture to be followed
    max_return_error: float = 0.5  # pixels between a point and where forward and backward tracking bring it

    @property
    def fingerprint(self) -> str:
        settings = (self.window, self.levels, self.iterations, self.epsilon, self.max_return_error)
        return f"{self.name}-1-{'-'.join(map(str, settings))}-opencv-{cv2.__version__}"

    def __call__(
        self,
        frames: UInt8[ndarray, "t h w 3"],
        points: Float[ndarray, "n 2"],
        depth: Float[ndarray, "t h w"] | None = None,
    ) -> Tracks:
        height, width = frames.shape[1:3]
        positions = np.empty((len(frames), len(points), 2), np.float32)
        visible = np.zeros((len(frames), len(points)), bool)
        positions[0] = points
        visible[0] = _inside(positions[0], height, width)
        grey = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
        for t in range(1, len(frames)):
            following = cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY)
            positions[t], found = self._follow(grey, following, positions[t - 1])
            visible[t] = visible[t - 1] & found & _inside(positions[t], height, width)
            # what is lost rests where it was last seen
            positions[t] = np.where(visible[t][:, None], positions[t], positions[t - 1])
            grey = following
        tracks = Tracks(points=positions, visibility=visible)
        return tracks if depth is None else tracks.with_depth(depth[0])

    def _follow(
        self, grey: UInt8[ndarray, "h w"], following: UInt8[ndarray, "h w"], points: Float[ndarray, "n 2"]
    ) -> tuple[Float[ndarray, "n 2"], Bool[ndarray, " n"]]:
        options = {
            "winSize": (self.window, self.window),
            "maxLevel": self.levels,
            "minEigThreshold": self.min_eigenvalue,
            "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, self.iterations, self.epsilon),
        }
        start = (points - PIXEL_CENTRE).reshape(-1, 1, 2)  # OpenCV's pixel centres are at whole numbers
        there, found, _ = cv2.calcOpticalFlowPyrLK(grey, following, start, None, **options)
        back, returned, _ = cv2.calcOpticalFlowPyrLK(following, grey, there, None, **options)
        error = np.linalg.norm((back - start).reshape(-1, 2), axis=1)
        ok = (found.ravel() == 1) & (returned.ravel() == 1) & (error <= self.max_return_error)
        return there.reshape(-1, 2) + np.float32(PIXEL_CENTRE), ok


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
        seen = visibility[0]
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
    finite = np.isfinite(points).all(axis=-1)
    return Tracks(points=np.where(finite[..., None], points, 0).astype(np.float32), visibility=visibility & finite)


PIXEL_CENTRE = 0.5


def sample_depth(depth: Float[ndarray, "h w"], points: Float[ndarray, "n 2"]) -> Float[ndarray, " n"]:
    """The depth at the pixels that hold `points` (x, y); those outside take the nearest pixel's."""
    height, width = depth.shape
    column = np.clip(np.floor(points[:, 0]), 0, width - 1).astype(int)
    row = np.clip(np.floor(points[:, 1]), 0, height - 1).astype(int)
    return depth[row, column].astype(np.float32)


def _inside(points: Float[ndarray, "*t n 2"], height: int, width: int) -> Bool[ndarray, "*t n"]:
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
