"""Where the cuts of a video are, and which shots between them are worth preparing. It never holds more than a frame.

A segment must not cross a cut (LongVie 2 trains on shots only, for cuts poison training), so a cut is never undone: a
shot that is too short is rejected, not merged into its neighbour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from scenedetect import AdaptiveDetector, FrameTimecode

from longvie.media import fit_frames

# PySceneDetect looks at copies 256 pixels wide by default; 144 makes them 16:9.
HEIGHT, WIDTH = 144, 256
# A cut changes the picture RATIO times as much as the two frames on each side of it do, and by THRESHOLD at least, the
# mean change of hue, saturation and value, 0..255. These are PySceneDetect's defaults for its AdaptiveDetector. In the
# film Big Buck Bunny it finds 134 shots, ContentDetector (27) 174: by eye, nearly all of the 44 cuts that it alone has
# are fast motion, fades and rolling credits, and it misses two cuts between similar pictures (changes of 24 and 26).
# AdaptiveDetector misses the second of two cuts within two frames, and sees two cuts in fades from black.
WINDOW = 2
RATIO = 3.0
THRESHOLD = 15.0


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Frames `start .. stop-1` of the resampled timeline, without a cut inside."""

    start: int
    stop: int
    brightness: float  # mean luma, 0..255
    motion: float  # mean absolute difference of luma between neighbouring frames, 0..255

    @property
    def num_frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class ShotFilters:
    """Which shots are left out. A limit of None is not applied.

    Args:
        min_frames: shots with fewer are too short.
        black: shots darker than this mean luma are black.
        static: shots that move less than this are still pictures.
        min_motion, max_motion: shots that move less or more are left out.
    """

    min_frames: int = 1
    black: float | None = None
    static: float | None = None
    min_motion: float | None = None
    max_motion: float | None = None

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise ValueError(f"min_frames is {self.min_frames}; a shot has at least 1 frame")
        for name in ("black", "static", "min_motion", "max_motion"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 255:
                raise ValueError(f"{name} is {value}; give a number within 0..255, or leave it out")

    def reject(self, shot: Shot) -> str | None:
        """Why a shot is left out, with what was measured; None if it is kept."""
        if shot.num_frames < self.min_frames:
            return f"too short: {shot.num_frames} frames, at least {self.min_frames} are asked for"
        if self.black is not None and shot.brightness < self.black:
            return f"black: mean luma {shot.brightness:.2f}, at least {self.black:g} is asked for"
        if self.static is not None and shot.motion < self.static:
            return f"static: motion {shot.motion:.3f}, at least {self.static:g} is asked for"
        if self.min_motion is not None and shot.motion < self.min_motion:
            return f"too little motion: {shot.motion:.3f}, at least {self.min_motion:g} is asked for"
        if self.max_motion is not None and shot.motion > self.max_motion:
            return f"too much motion: {shot.motion:.3f}, at most {self.max_motion:g} is asked for"
        return None


def detect_shots(
    batches: Iterable[UInt8[ndarray, "t h w 3"]], *, fps: float, threshold: float | None = THRESHOLD
) -> list[Shot]:
    """The shots of a video in order, covering every frame once, however its frames are batched.

    Args:
        threshold: the least change that is a cut, 0..255; None: the video is one shot.
    """
    detector = AdaptiveDetector(
        adaptive_threshold=RATIO, min_scene_len=1, window_width=WINDOW, min_content_val=threshold or 0
    )
    brightness: list[float] = []
    change: list[float] = []  # from the frame before
    cuts: set[int] = set()
    before = None
    for place, frame in enumerate(_padded(_small(batches))):
        # The detector takes BGR and answers WINDOW frames late.
        if threshold is not None:
            found = detector.process_frame(FrameTimecode(place, float(fps)), frame[..., ::-1])
            cuts.update(timecode.frame_num - WINDOW for timecode in found)
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        brightness.append(float(luma.mean()))
        change.append(0.0 if before is None else float(cv2.absdiff(luma, before).mean()))
        before = luma
    brightness, change = brightness[WINDOW:-WINDOW], change[WINDOW:-WINDOW]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(brightness)), len(brightness)]
    return [
        Shot(
            start=start,
            stop=stop,
            brightness=float(np.mean(brightness[start:stop])),
            motion=float(np.mean(change[start + 1 : stop])) if stop - start > 1 else 0.0,
        )
        for start, stop in itertools.pairwise(edges)
        if start < stop
    ]


def _small(batches: Iterable[UInt8[ndarray, "t h w 3"]]) -> Iterator[UInt8[ndarray, "144 256 3"]]:
    for batch in batches:
        for frame in batch:
            yield fit_frames(frame[None], HEIGHT, WIDTH, "stretch")[0]


def _padded(frames: Iterator[UInt8[ndarray, "h w 3"]]) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """The first and last frame repeated, so that cuts beside the ends have neighbours on both sides too."""
    frame = next(frames, None)
    if frame is None:
        return
    yield from itertools.repeat(frame, WINDOW + 1)
    for frame in frames:
        yield frame
    yield from itertools.repeat(frame, WINDOW)
