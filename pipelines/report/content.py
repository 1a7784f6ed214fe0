"""Gathers what report.html shows: from the tables (columns.py), and a few frames of sources and controls."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet

from longvie.controls.normalize import DepthHistogram
from longvie.media import Video, VideoError, fit_frames, timeline
from pipelines.errors import storage_errors
from pipelines.preparation.recipe import Recipe
from pipelines.report.page import (
    MAX_ERRORS,
    MAX_SHOTS,
    MAX_SHOTS_IN_ALL,
    MAX_SOURCES,
    MAX_VIDEOS,
    SEGMENTS_A_VIDEO,
    Page,
    ShownDepth,
    ShownSegment,
    ShownShot,
    ShownSource,
    ShownVideo,
)
from pipelines.report.pictures import plot_histogram, thumbnail
from pipelines.storage import Storage, scheme_of

_STATS_AT_ONCE = 16  # rows; each holds a histogram of up to 512 KB


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
    limits = {
        "brightness below": recipe.black,
        "motion below": max(filter(None, (recipe.static, recipe.min_motion)), default=None),
        "motion above": recipe.max_motion,
    }
    filters = [f", {name} {limit:g}" for name, limit in limits.items() if limit is not None]
    cuts = "each source is one" if recipe.cut_threshold is None else f"cut threshold {recipe.cut_threshold:g}"
    said = [
        ("Frames", f"{recipe.width}x{recipe.height}, {recipe.fps:g} fps, {recipe.fit}"),
        ("Segments", f"{recipe.segment_length} frames, neighbours share one"),
        ("Shots", f"{cuts}; left out: shorter than {recipe.min_frames} frames{''.join(filters)}"),
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
