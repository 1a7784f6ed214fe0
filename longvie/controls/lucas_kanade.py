"""The default point tracker: OpenCV's pyramidal Lucas-Kanade. It needs no weights, no network and no torch."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray

from longvie.controls.tracks import PIXEL_CENTRE, Tracks, inside


@dataclass(frozen=True, kw_only=True)
class LucasKanade:
    """OpenCV's pyramidal Lucas-Kanade, frame to frame, with a forward-backward check.

    A point with too little texture takes the motion of the coarser pyramid level, a larger patch. A point is lost, and
    stays invisible where it was last seen, once it leaves the frame or once tracking it back does not return to where
    it came from (it was covered, or the match is a guess).
    """

    # Chosen on the synthetic world's exact tracks (benchmarked with 625 points over 49 frames): larger windows and a
    # looser check find more points, smaller and stricter ones are more exact.
    window: int = 21  # pixels a side
    levels: int = 4  # pyramid levels above the first: displacements up to some window / 2 * 2**levels pixels a frame
    iterations: int = 20
    epsilon: float = 0.01  # pixels; iteration stops at steps below
    min_eigenvalue: float = 1e-5  # of a patch's gradient matrix, as OpenCV scales it; below, it has too little texture
    max_return_error: float = 1.0  # pixels between a point and where tracking it forward and back brings it

    @property
    def name(self) -> str:
        return "lucas-kanade"

    @property
    def needs_torch(self) -> bool:
        return False

    @property
    def fingerprint(self) -> str:
        settings = "-".join(str(value) for value in astuple(self))
        return f"{self.name}-{settings}-opencv-{cv2.__version__}"

    def __call__(
        self,
        frames: UInt8[ndarray, "t h w 3"],
        points: Float[ndarray, "n 2"],
        depth: Shaped[ndarray, "t h w"] | None = None,
    ) -> Tracks:
        """Track `points` of frame 0; see `PointTracker`."""
        height, width = frames.shape[1:3]
        positions = np.empty((len(frames), len(points), 2), np.float32)
        visible = np.empty((len(frames), len(points)), bool)
        positions[0], visible[0] = points, inside(points, height, width)
        grey = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
        for t in range(1, len(frames)):
            following = cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY)
            positions[t], visible[t] = positions[t - 1], False
            (seen,) = np.nonzero(visible[t - 1])
            if len(seen):
                moved, returns = self._follow(grey, following, positions[t - 1, seen])
                kept = returns & inside(moved, height, width)
                positions[t, seen[kept]], visible[t, seen[kept]] = moved[kept], True
            grey = following
        tracks = Tracks(points=positions, visibility=visible)
        return tracks if depth is None else tracks.with_depth(depth[0])

    def _follow(
        self, grey: UInt8[ndarray, "h w"], following: UInt8[ndarray, "h w"], points: Float[ndarray, "n 2"]
    ) -> tuple[Float[ndarray, "n 2"], Bool[ndarray, " n"]]:
        """Where points go in the following frame, and whether going back returns to them."""

        def flow(one: ndarray, other: ndarray, start: ndarray) -> ndarray:
            # The status it also gives says only that the finest level had too little texture.
            end, _, _ = cv2.calcOpticalFlowPyrLK(
                one,
                other,
                start,
                np.empty_like(start),
                winSize=(self.window, self.window),
                maxLevel=self.levels,
                criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, self.iterations, self.epsilon),
                minEigThreshold=self.min_eigenvalue,
            )
            return end

        start = points - np.float32(PIXEL_CENTRE)  # OpenCV's pixel centres are at whole numbers
        there = flow(grey, following, start)
        error = np.linalg.norm(flow(following, grey, there) - start, axis=1)
        return there + np.float32(PIXEL_CENTRE), error <= self.max_return_error
