"""What report.html says, and how much of it: plain values, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report.pictures import Plot

# What one page shows at most, so that it opens on a phone (some 4 MB) however many videos were prepared.
MAX_VIDEOS = 40
SEGMENTS_A_VIDEO = 3
MAX_SOURCES = 200
MAX_SHOTS = 400  # of one source
MAX_SHOTS_IN_ALL = 4000
MAX_ERRORS = 200
MAX_TEXT = 600  # characters of a prompt or an error


@dataclass(frozen=True, kw_only=True)
class ShownShot:
    """A shot on its source's timeline; `x` and `width` in percent of it, times in seconds."""

    number: int
    x: float
    width: float
    start: float
    stop: float
    kept: bool
    reason: str
    brightness: float
    motion: float


@dataclass(frozen=True, kw_only=True)
class ShownSource:
    uri: str
    facts: str
    duplicates: Sequence[str]
    seconds: float
    num_shots: int
    num_kept: int
    shots: Sequence[ShownShot]


@dataclass(frozen=True, kw_only=True)
class ShownSegment:
    """A segment by its middle frame, `at` seconds on the source's timeline; pictures are data URIs, or None."""

    index: int
    at: float
    prompt: str
    frame: str | None
    dense: str | None
    sparse: str | None


@dataclass(frozen=True, kw_only=True)
class ShownDepth:
    """Statistics of depth and their plot."""

    polarity: str
    count: int
    num_nan: int
    num_inf: int
    p5: float
    p95: float
    plot: Plot | None


@dataclass(frozen=True, kw_only=True)
class ShownVideo:
    video_id: str
    source: str
    shot: int
    start: float
    stop: float
    num_segments: int
    num_made: int
    whole: bool
    dense_name: str
    sparse_name: str
    depth: ShownDepth | None
    segments: Sequence[ShownSegment]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that report.html says; `num_...` count everything, the lists hold what is shown of it."""

    settings: Sequence[tuple[str, str]]
    measured: bool  # whether the dense control is depth
    num_sources: int
    num_shots: int
    num_kept: int
    num_videos: int  # long videos that are whole
    num_segments: int
    seconds: float  # of the segments that were prepared
    num_errors: int
    dataset: ShownDepth | None
    videos: Sequence[ShownVideo]
    sources: Sequence[ShownSource]
    errors: Sequence[Mapping[str, Any]]
