"""The videos of each benchmark, as prepared folders: the seeded one of ours, and the user's copy of LongVGenBench."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longvie.media import VideoError, local_path, probe_video, resampled, write_video
from longvie.models.loading import PipelineConfig
from pipelines.bench.options import MINI, BenchOptions
from pipelines.errors import UserError, first_line
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.prepare import prepare
from pipelines.progress import Report
from pipelines.scenes.options import ScenesOptions
from pipelines.scenes.scenes import make_scenes
from pipelines.storage import Storage

MINI_SCENES = 24
# Seconds of the film that the embedded model has not seen (longvie/tiny/README.md), and what is taken of them
FILM_SPANS, FILM_SHOTS, FILM_MIN_SEGMENTS = ((100.0, 120.0), (340.0, 365.0), (365.0, 390.0)), 6, 2
FILM_PROMPT = "a video"
# LongVGenBench (METHOD section 5): how many videos of each category; at least a minute, at least 1080 lines
CATEGORIES = {
    "real/indoor": 22,
    "real/outdoor-day": 33,
    "real/outdoor-night": 10,
    "game/indoor": 10,
    "game/outdoor-day": 15,
    "game/outdoor-night": 10,
}
MIN_SECONDS, MIN_LINES = 60.0, 1080
_VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi"}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One prepared folder of a benchmark."""

    name: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Videos:
    """What there is to run, and what should be there and is not: name and reason."""

    suites: tuple[Suite, ...]
    missing: tuple[tuple[str, str], ...]


def make_videos(options: BenchOptions, model: PipelineConfig, storage: Storage, report: Report) -> Videos:
    """Prepare a benchmark's videos, or go on where that stopped."""
    if options.name == MINI:
        return _mini(options, model, storage, report)
    return _long(options, model, storage, report)


def _common(options: BenchOptions) -> dict[str, Any]:
    return {"workers": options.workers, "address": options.address, "wait_for_nodes": options.wait_for_nodes}


def _mini(options: BenchOptions, model: PipelineConfig, storage: Storage, report: Report) -> Videos:
    count = min(options.videos or MINI_SCENES, MINI_SCENES)
    frames = options.segments * (model.segment_length - 1) + 1
    scenes = ScenesOptions(
        split="test",
        out=f"{storage.uri}/scenes",
        count=count,
        num_frames=frames,
        balanced=True,
        model=options.model.model or "tiny",
        **_common(options),
    )
    _all_made(make_scenes(scenes, report))
    suites = [Suite(name="scenes", reference=scenes.out)]
    if options.film is None:
        return Videos(
            suites=tuple(suites), missing=(("film", "give --film FILE, the whole of Big Buck Bunny (596 s)"),)
        )
    prepared, count = _film(options, model, options.film, storage, report)
    if count:
        suites.append(Suite(name="film", reference=prepared))
    missing = (("film", f"{count} of {FILM_SHOTS} shots are long enough"),) if count < FILM_SHOTS else ()
    return Videos(suites=tuple(suites), missing=missing)


def _film(options: BenchOptions, model: PipelineConfig, film: str, storage: Storage, report: Report) -> tuple[str, int]:
    """The shots of the spans that were held out, where they are long enough; the folder, and how many there are."""
    duration = probe_video(film).duration
    if duration < FILM_SPANS[-1][1]:
        raise UserError(
            f"--film {film} lasts {duration:.0f} s, stretches lie up to {FILM_SPANS[-1][1]:.0f} s: give the whole film"
        )
    prepared = PrepareOptions(
        inputs=(),
        out=f"{storage.uri}/film/prepared",
        model=options.model.model or "tiny",
        min_frames=FILM_MIN_SEGMENTS * (model.segment_length - 1) + 1,
        prompt=FILM_PROMPT,
        report=False,
        **_common(options),
    )
    fps, height, width, _ = prepared.sizes()
    folder = Path(_local_folder(storage.uri, "film/spans"))
    folder.mkdir(parents=True, exist_ok=True)
    inputs = []
    for start, stop in FILM_SPANS:
        path = folder / f"{start:.0f}-{stop:.0f}.mp4"
        if not path.is_file():
            frames = resampled(
                film, fps=fps, height=height, width=width, fit="crop", start=round(start * fps), stop=round(stop * fps)
            )
            partial = path.with_suffix(".partial.mp4")
            write_video(partial, frames, fps)
            partial.replace(path)
        inputs.append(str(path))
    summary = prepare(replace(prepared, inputs=tuple(inputs)), report)
    _all_made(summary)
    return prepared.out, summary.num_videos


def _local_folder(uri: str, name: str) -> str:
    """A folder below OUT on this machine's disk; cut films are kept nowhere else."""
    if "://" in uri and not uri.startswith("file://"):
        raise UserError(f"--out {uri}: --film needs a local folder to cut the film in; give a path")
    return f"{uri.removeprefix('file://')}/{name}"


def _long(options: BenchOptions, model: PipelineConfig, storage: Storage, report: Report) -> Videos:
    assert options.data is not None
    listed, missing = read_longvgenbench(options.data)
    usable = []
    for row in listed:
        why = unfit(row["uri"])
        if why is None:
            usable.append(row)
        else:
            missing.append((row["uri"], why))
    if not usable:
        raise UserError(f"--data {options.data} has no video that can be used ({missing[0][0]}: {missing[0][1]})")
    kept = _spread(usable, options.videos)
    storage.write(
        "videos.jsonl",
        "".join(json.dumps({k: v for k, v in row.items() if k in ("uri", "prompt")}) + "\n" for row in kept).encode(),
    )
    done = prepare(
        PrepareOptions(
            inputs=(f"{storage.uri}/videos.jsonl",),
            out=f"{storage.uri}/prepared",
            size=f"{model.width}x{model.height}",
            fps=model.fps,
            segment_length=model.segment_length,
            cuts=False,  # they are one shot each
            depth=options.depth,
            sparse=options.tracker,
            depth_gpus=options.gpus_per_worker or 0,
            sparse_gpus=options.gpus_per_worker or 0,
            **_common(options),
        ),
        report,
    )
    missing += [(str(error["source"]), str(error["error"])) for error in done.errors]
    return Videos(suites=(Suite(name="videos", reference=f"{storage.uri}/prepared"),), missing=tuple(missing))


def read_longvgenbench(data: str) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Rows `uri`, `category` and perhaps `prompt` of a user's copy, and what is missing from it.

    The copy is a folder with `manifest.jsonl` (those fields; paths from the folder on), or one with a folder a category
    (`real/indoor/*.mp4`, ...). Of a manifest, files that are not there are missing by name; and of either, each
    category that has fewer videos than the benchmark.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise UserError(f"--data {data} is not a folder; give your copy of LongVGenBench")
    rows: list[dict[str, Any]] = []
    missing: list[tuple[str, str]] = []
    manifest = folder / "manifest.jsonl"
    if manifest.is_file():
        for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                uri, category = row["uri"], row["category"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{manifest} line {number}: give an object with uri and category") from error
            if category not in CATEGORIES:
                raise UserError(f"{manifest} line {number}: category {category!r}; choose of {', '.join(CATEGORIES)}")
            path = folder / uri
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{manifest} line {number}: {uri} lies outside of {data}")
            if path.is_file():
                rows.append({**row, "uri": str(path)})
            else:
                missing.append((uri, "does not exist"))
    else:
        for category in CATEGORIES:
            found = sorted(path for path in folder.glob(f"{category}/*") if path.suffix.lower() in _VIDEOS)
            rows += [{"uri": str(path), "category": category} for path in found]
    if not rows:
        raise UserError(f"--data {data} has neither manifest.jsonl with videos nor folders {', '.join(CATEGORIES)}")
    counts = Counter(row["category"] for row in rows)
    for category, count in CATEGORIES.items():
        if counts[category] < count:
            missing.append((category, f"{counts[category]} of {count} videos are there"))
    return rows, missing


def unfit(uri: str) -> str | None:
    """Why a video is not one of LongVGenBench's; None if it may be."""
    try:
        info = probe_video(local_path(uri))
    except VideoError as error:
        return first_line(error)
    if info.duration < MIN_SECONDS:
        return f"lasts {info.duration:.1f} s; the benchmark's last a minute or more"
    if min(info.height, info.width) < MIN_LINES:
        return f"is {info.width}x{info.height}; the benchmark's have {MIN_LINES} lines or more"
    return None


def _spread(rows: Sequence[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """At most so many, one of each category in turn."""
    by_category: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(row)
    turns = sorted(
        ((at, number, row) for number, group in enumerate(by_category.values()) for at, row in enumerate(group)),
        key=lambda item: item[:2],
    )
    return [row for _, _, row in turns][:count]


def _all_made(summary: Any) -> None:
    if summary.errors:
        first = summary.errors[0]
        raise UserError(f"the benchmark's own video {first['source']} could not be prepared: {first['error']}")
