"""What stands at the top of OUT: the tables, manifest.jsonl that `longvie generate` reads, and cond.json on request.

All of it follows from commits, so it is one unit itself: it is written when something in it has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.preparation import columns, statistics
from pipelines.preparation.cond_json import write_cond_json
from pipelines.preparation.long_videos import Content, LongVideo, video_id_of
from pipelines.preparation.recipe import MANIFEST, Recipe
from pipelines.preparation.units import UnitCommit
from pipelines.report.report import write_report
from pipelines.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that a run knows at its end, in the order of sources, shots and segments.

    Args:
        contents: with their scans.
        videos: long videos, whether or not they could be made.
        ranged: those of them whose depth is complete.
        controls: commits of segments by unit.
        prompts: of segments by unit.
        errors: rows of errors.parquet.
    """

    recipe: Recipe
    contents: Sequence[tuple[Content, Mapping[str, Any]]]
    videos: Sequence[LongVideo]
    ranged: Sequence[LongVideo]
    controls: Mapping[str, UnitCommit]
    prompts: Mapping[str, str]
    errors: Sequence[Mapping[str, Any]]

    def whole(self, video: LongVideo) -> bool:
        """Whether all segments of a long video are there, each with its prompt."""
        units = [video.segment_unit(segment) for segment in video.segments]
        return all(unit in self.controls and unit in self.prompts for unit in units)

    def decides(self) -> dict[str, Any]:
        """What the files at the top of OUT are made of."""
        return {
            "settings": self.recipe.settings(),
            "contents": [[list(content.uris), content.sha256, scan] for content, scan in self.contents],
            "ranged": [video.video_id for video in self.ranged],
            "controls": {unit: commit.key for unit, commit in self.controls.items()},
            "prompts": dict(self.prompts),
            "errors": list(self.errors),
        }


def write_outputs(prepared: Prepared, storage: Storage, folder: Path, *, cond_json: bool, report: bool) -> None:
    """Write the tables, manifests and the report into a local folder, under their names below OUT."""
    columns.write_table(folder / "videos.parquet", _videos(prepared), columns.VIDEOS)
    columns.write_table(folder / "segments.parquet", _segments(prepared), columns.SEGMENTS)
    columns.write_table(folder / "errors.parquet", prepared.errors, columns.ERRORS)
    stats = statistics.rows(storage, prepared.ranged, prepared.controls) if prepared.recipe.measured else ()
    columns.write_table(folder / "stats.parquet", stats, columns.STATS)
    whole = [video for video in prepared.videos if prepared.whole(video)]
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        for video in whole:
            file.write(json.dumps(_manifest_row(prepared, video), ensure_ascii=False) + "\n")
    if cond_json:
        for video in whole:
            write_cond_json(folder, _manifest_row(prepared, video), storage)
    if report:
        write_report(folder, storage, prepared.recipe)


def _videos(prepared: Prepared) -> Iterator[dict[str, Any]]:
    videos = {video.video_id: video for video in prepared.videos}
    recipe = prepared.recipe
    for content, scan in prepared.contents:
        info = scan["info"]
        for shot, found in enumerate(scan["shots"]):
            video_id = video_id_of(content, shot)
            video = videos.get(video_id)
            yield {
                "video_id": video_id,
                "source": content.source.uri,
                "sha256": content.sha256,
                "duplicates": list(content.duplicates),
                "shot": shot,
                "start": found["start"],
                "stop": found["stop"],
                "kept": found["reason"] is None,
                "reason": found["reason"],
                "brightness": found["brightness"],
                "motion": found["motion"],
                "num_segments": 0 if video is None else len(video.segments),
                "whole": video is not None and prepared.whole(video),
                "fps": recipe.fps,
                "height": recipe.height,
                "width": recipe.width,
                "source_fps": info["fps"],
                "source_height": info["height"],
                "source_width": info["width"],
                "source_frames": info["num_frames"],
                "source_seconds": info["duration"],
                **{name: info[name] for name in ("variable", "codec", "rotation", "bit_depth", "has_audio", "decoder")},
            }


def _segments(prepared: Prepared) -> Iterator[dict[str, Any]]:
    for video in prepared.videos:
        for segment in video.segments:
            commit = prepared.controls.get(video.segment_unit(segment))
            if commit is None:
                continue
            made = commit.result
            low, high = made["range"] if made["range"] is not None else (None, None)
            yield {
                "video_id": video.video_id,
                "segment": segment.index,
                "source": video.content.source.uri,
                "start": segment.start,
                "num_frames": segment.num_valid,
                "source_start": video.start + segment.start,
                "first_frame": made["first"],
                "dense": made["dense"],
                "sparse": made["sparse"],
                "tracks": made["tracks"],
                "prompt": prepared.prompts.get(video.segment_unit(segment)),
                "low": low,
                "high": high,
            }


def _manifest_row(prepared: Prepared, video: LongVideo) -> dict[str, Any]:
    """A row as `longvie generate` reads it; paths hold from OUT."""
    units = [video.segment_unit(segment) for segment in video.segments]
    made = [prepared.controls[unit].result for unit in units]
    return {
        "video_id": video.video_id,
        "first_frame": made[0]["first"],
        "dense": [result["dense"] for result in made],
        "sparse": [result["sparse"] for result in made],
        "prompts": [prepared.prompts[unit] for unit in units],
        "num_frames": video.num_frames,
    }
