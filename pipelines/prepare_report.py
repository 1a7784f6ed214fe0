"""report.html: what preparation made of the sources, to be looked at. One file, no script, nothing from elsewhere.

It reads the tables (columns.py), a few frames of the sources and of the controls, and shows them. It holds no time of
day and no duration of work, so equal outputs have equal reports. How it looks is in templates/prepare_report.html.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet

from longvie.controls.normalize import DepthHistogram
from longvie.media import Video, VideoError, fit_frames, timeline
from pipelines.errors import storage_errors
from pipelines.recipe import Recipe
from pipelines.report_pictures import PLOT_HEIGHT, PLOT_WIDTH, Plot, plot_histogram, thumbnail
from pipelines.storage import Storage, scheme_of

REPORT = "report.html"

# What one page shows at most, so that it opens on a phone (some 4 MB) however many videos were prepared.
MAX_VIDEOS = 40
SEGMENTS_A_VIDEO = 3
MAX_SOURCES = 200
MAX_SHOTS = 400  # of one source
MAX_SHOTS_IN_ALL = 4000
MAX_ERRORS = 200
MAX_TEXT = 600  # characters of a prompt or an error

_STATS_AT_ONCE = 16  # rows; each holds a histogram of up to 512 KB


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


def write_report(folder: Path, storage: Storage, recipe: Recipe) -> None:
    """Write `folder/report.html` about the tables in a local folder and the controls in OUT.

    Args:
        folder: holds videos.parquet, segments.parquet, stats.parquet and errors.parquet.
        storage: OUT, with the files that segments.parquet names.
        recipe: what OUT is made with.
    """
    (folder / REPORT).write_bytes(render(read_page(folder, storage, recipe)))


def render(page: Page) -> bytes:
    """The page as HTML. Everything users wrote is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": _clock, "short": _short, "number": _number}
    template = environment.get_template("prepare_report.html")
    return template.render(page=page, plot_width=PLOT_WIDTH, plot_height=PLOT_HEIGHT).encode()


def read_page(folder: Path, storage: Storage, recipe: Recipe) -> Page:
    """Gather what the page shows."""
    shots = _rows(folder / "videos.parquet")
    segments = _rows(folder / "segments.parquet")
    errors = _rows(folder / "errors.parquet")
    kept = [shot for shot in shots if shot["kept"]]
    chosen = kept[:MAX_VIDEOS]
    depths = _depths(folder / "stats.parquet", {shot["video_id"] for shot in chosen})
    by_video: dict[str, list[dict[str, Any]]] = {}
    for segment in segments:
        by_video.setdefault(segment["video_id"], []).append(segment)
    pictures = _Pictures(storage, recipe)
    sources = [list(rows) for _, rows in groupby(shots, key=lambda shot: shot["sha256"])]
    return Page(
        settings=_settings(recipe),
        measured=recipe.measured,
        num_sources=len(sources),
        num_shots=len(shots),
        num_kept=len(kept),
        num_videos=sum(shot["whole"] for shot in kept),
        num_segments=len(segments),
        # neighbours share a frame
        seconds=sum(row["num_frames"] - (row["segment"] > 0) for row in segments) / recipe.fps,
        num_errors=len(errors),
        dataset=depths.get(""),
        videos=[
            _video(shot, by_video.get(shot["video_id"], []), depths.get(shot["video_id"]), recipe, pictures)
            for shot in chosen
        ],
        sources=_sources(sources[:MAX_SOURCES]),
        errors=errors[:MAX_ERRORS],
    )


def _settings(recipe: Recipe) -> list[tuple[str, str]]:
    """What decided the outputs, in words."""
    scope = {"video": "each long video", "dataset": "the dataset", "segment": "each segment (for ablation)"}
    filters = [
        f"{name} below {limit:g}" for name, limit in (("brightness", recipe.black), ("motion", recipe.static)) if limit
    ]
    cuts = "each source is one" if recipe.cut_threshold is None else f"cut threshold {recipe.cut_threshold:g}"
    said = [
        ("Frames", f"{recipe.width}x{recipe.height}, {recipe.fps:g} fps, {recipe.fit}"),
        ("Segments", f"{recipe.segment_length} frames, neighbours share one"),
        ("Shots", f"{cuts}; left out: shorter than {recipe.min_frames} frames{''.join(f', {f}' for f in filters)}"),
        ("Depth" if recipe.measured else "Dense control", recipe.dense.spec),
        ("Tracks" if recipe.tracked else "Sparse control", recipe.sparse.spec),
    ]
    return [*said, ("Depth is scaled over", scope[recipe.scope])] if recipe.measured else said


def _video(
    shot: Mapping[str, Any],
    segments: Sequence[Mapping[str, Any]],
    depth: ShownDepth | None,
    recipe: Recipe,
    pictures: _Pictures,
) -> ShownVideo:
    few = _spread(segments, SEGMENTS_A_VIDEO)
    return ShownVideo(
        video_id=shot["video_id"],
        source=shot["source"],
        shot=shot["shot"],
        start=shot["start"] / shot["fps"],
        stop=shot["stop"] / shot["fps"],
        num_segments=shot["num_segments"],
        num_made=len(segments),
        whole=shot["whole"],
        dense_name="Depth" if recipe.measured else f"Dense control ({recipe.dense.spec})",
        sparse_name="Tracks" if recipe.tracked else f"Sparse control ({recipe.sparse.spec})",
        depth=depth,
        segments=[
            ShownSegment(
                index=segment["segment"],
                at=(segment["source_start"] + segment["num_frames"] // 2) / shot["fps"],
                prompt=segment["prompt"] or "",
                frame=pictures.of_source(shot, segment),
                dense=pictures.of_control(segment["dense"], segment["num_frames"] // 2),
                sparse=pictures.of_control(segment["sparse"], segment["num_frames"] // 2),
            )
            for segment in few
        ],
    )


def _sources(sources: Sequence[Sequence[Mapping[str, Any]]]) -> list[ShownSource]:
    left = MAX_SHOTS_IN_ALL
    shown = []
    for rows in sources:
        shown.append(_source(rows, min(left, MAX_SHOTS)))
        left -= len(shown[-1].shots)
    return shown


def _source(rows: Sequence[Mapping[str, Any]], num_shots: int) -> ShownSource:
    first = rows[0]
    frames = max(row["stop"] for row in rows)
    facts = [
        f"{first['source_width']}x{first['source_height']}",
        f"{first['source_fps']:.4g} fps" + (" (variable)" if first["variable"] else ""),
        f"{first['codec']}" + (f", {first['bit_depth']} bit" if first["bit_depth"] > 8 else ""),
        *([f"turned by {first['rotation']}°"] if first["rotation"] else []),
        f"read with {first['decoder']}",
    ]
    return ShownSource(
        uri=first["source"],
        facts=", ".join(facts),
        duplicates=first["duplicates"],
        seconds=first["source_seconds"],
        num_shots=len(rows),
        num_kept=sum(row["kept"] for row in rows),
        shots=[
            ShownShot(
                number=row["shot"],
                x=round(100 * row["start"] / frames, 3),
                width=round(100 * (row["stop"] - row["start"]) / frames, 3),
                start=row["start"] / row["fps"],
                stop=row["stop"] / row["fps"],
                kept=row["kept"],
                reason=row["reason"] or "",
                brightness=row["brightness"],
                motion=row["motion"],
            )
            for row in rows[:num_shots]
        ],
    )


class _Pictures:
    """Thumbnails; None where a file cannot be read (the page says so in its place)."""

    def __init__(self, storage: Storage, recipe: Recipe) -> None:
        self._storage = storage
        self._recipe = recipe
        self._opened: tuple[str, Video] | None = None  # the source read last; videos come in their order

    def of_source(self, shot: Mapping[str, Any], segment: Mapping[str, Any]) -> str | None:
        """The segment's middle frame as it was prepared. Sources elsewhere are not fetched again for it."""
        if scheme_of(shot["source"]) != "file":
            return None
        try:
            if self._opened is None or self._opened[0] != shot["source"]:
                self._opened = (shot["source"], Video(shot["source"]))
            video = self._opened[1]
            shown = timeline(video.times, video.info.duration, self._recipe.fps)
            frames = video.read([int(shown[segment["source_start"] + segment["num_frames"] // 2])])
        except (VideoError, IndexError, OSError):  # moved or changed since it was prepared
            return None
        return thumbnail(fit_frames(frames, self._recipe.height, self._recipe.width, self._recipe.fit)[0])

    def of_control(self, name: str, frame: int) -> str | None:
        """A frame of a file in OUT."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            try:
                self._storage.get(name, path)
                return thumbnail(Video(path).read([frame])[0])
            except (VideoError, *storage_errors()):
                return None


def _depths(path: Path, video_ids: set[str]) -> dict[str, ShownDepth]:
    """Statistics of some long videos by their id, and of the dataset under ""; a few histograms are held at a time."""
    found = {}
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_STATS_AT_ONCE):
            for row in batch.to_pylist():
                if row["scope"] == "dataset" or (row["scope"] == "video" and row["video_id"] in video_ids):
                    found[row["video_id"]] = _depth(row)
    return found


def _depth(row: Mapping[str, Any]) -> ShownDepth:
    plot = None
    if row["polarity"] != "mixed":
        counts = DepthHistogram.from_bytes(row["histogram"]).counts
        plot = plot_histogram(counts, row["p2"], row["p5"], row["p95"], row["p98"], row["polarity"])
    names = ("polarity", "count", "num_nan", "num_inf", "p5", "p95")
    return ShownDepth(plot=plot, **{name: row[name] for name in names})


def _rows(path: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(path).to_pylist()


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _clock(seconds: float) -> str:
    """`1:02.5` of 62.5 seconds."""
    minutes, rest = divmod(round(seconds * 10), 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest / 10:04.1f}" if minutes >= 60 else f"{minutes}:{rest / 10:04.1f}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _number(value: float) -> str:
    return f"{value:.4g}"
