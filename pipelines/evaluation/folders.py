"""What lies in the folders that are compared: prepared long videos, and how far each run has made them.

It reads tables and commits, and no frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from longvie.media import local_path
from longvie.segments import Segment, plan_segments
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.evaluation.options import RunFolder
from pipelines.generation.commits import VideoStore
from pipelines.preparation.recipe import NAME as RECIPE
from pipelines.storage import open_storage, scheme_of


@dataclass(frozen=True, kw_only=True)
class ReferenceVideo:
    """One prepared long video. Of segments without tracks or a range, those are None; URIs are absolute."""

    video_id: str
    source: str
    sha256: str
    source_start: int  # its first frame on the source's resampled timeline
    num_frames: int
    dense: tuple[str, ...]
    sparse: tuple[str, ...]
    tracks: tuple[str | None, ...]
    ranges: tuple[tuple[float, float] | None, ...]
    polarity: str | None  # of the depth that the dense control shows
    prompts: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A folder of `longvie prepare`."""

    uri: str
    settings: Mapping[str, Any]  # prepare.json's
    videos: tuple[ReferenceVideo, ...]

    @property
    def frames(self) -> dict[str, Any]:
        """What decides its frames, as `longvie.media.resampled` takes it."""
        return {name: self.settings[name] for name in ("fps", "height", "width", "fit")}


@dataclass(frozen=True, kw_only=True)
class GeneratedVideo:
    """One long video as far as a run has made it.

    Args:
        segments: all that it is to have.
        files: URIs of those that exist, in order, and the SHA-256 of each.
        incomplete: why it is not whole; None if it is.
    """

    run: RunFolder
    video_id: str
    seed: int | None
    segments: tuple[Segment, ...]
    files: tuple[tuple[str, str], ...]
    incomplete: str | None
    settings: Mapping[str, Any]


def read_reference(uri: str) -> Reference:
    """The long videos of a prepared folder that are whole; `UserError` if it is none."""
    storage = open_storage(uri)
    try:
        settings = json.loads(storage.read(RECIPE))["settings"]
        videos = _table(uri, "videos.parquet", ["video_id", "sha256", "whole"])
        segments = _table(uri, "segments.parquet")
        stats = _table(uri, "stats.parquet", ["scope", "video_id", "polarity"])
    except FileNotFoundError as error:
        raise UserError(
            f"--reference {uri} is no folder that longvie prepare finished ({first_line(error)})"
        ) from error
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"--reference {uri} cannot be read ({first_line(error)}); prepare it again") from error
    except storage_errors() as error:
        raise UserError(f"--reference {uri} cannot be reached ({first_line(error)})") from error
    base = storage.uri
    polarity = {row["video_id"]: row["polarity"] for row in stats if row["scope"] == "video"}
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in segments:
        rows.setdefault(row["video_id"], []).append(row)
    found = []
    for row in videos:
        if not row["whole"]:
            continue
        own = sorted(rows[row["video_id"]], key=lambda segment: segment["segment"])
        found.append(
            ReferenceVideo(
                video_id=row["video_id"],
                source=own[0]["source"],
                sha256=row["sha256"],
                source_start=own[0]["source_start"],
                num_frames=own[-1]["start"] + own[-1]["num_frames"],
                dense=tuple(f"{base}/{segment['dense']}" for segment in own),
                sparse=tuple(f"{base}/{segment['sparse']}" for segment in own),
                tracks=tuple(f"{base}/{segment['tracks']}" if segment["tracks"] else None for segment in own),
                ranges=tuple(None if segment["low"] is None else (segment["low"], segment["high"]) for segment in own),
                polarity=polarity.get(row["video_id"]),
                prompts=tuple(segment["prompt"] for segment in own),
            )
        )
    if not found:
        raise UserError(f"--reference {uri} has no long video that is whole; run longvie prepare again")
    return Reference(uri=base, settings=settings, videos=tuple(found))


def read_generated(run: RunFolder, reference: Reference) -> list[GeneratedVideo]:
    """What a run has made of each reference video, missing ones too; `UserError` if it cannot be compared."""
    storage = open_storage(run.uri)
    found = []
    try:
        for video in reference.videos:
            store = VideoStore(storage, video.video_id)
            found.append(_generated(run, video, store, storage.uri, reference))
    except storage_errors() as error:
        raise UserError(f"--generated {run.uri} cannot be reached ({first_line(error)})") from error
    if not any(video.files for video in found):
        raise UserError(
            f"--generated {run.uri} has no video of {reference.uri}; give what longvie generate made of that folder"
        )
    return found


def _generated(
    run: RunFolder, video: ReferenceVideo, store: VideoStore, base: str, reference: Reference
) -> GeneratedVideo:
    manifest = store.read_manifest()
    length = reference.settings["segment_length"]
    if manifest is None:
        return GeneratedVideo(
            run=run,
            video_id=video.video_id,
            seed=None,
            segments=tuple(plan_segments(video.num_frames, length)),
            files=(),
            incomplete="it is not there",
            settings={},
        )
    settings = manifest["settings"]
    for name in ("height", "width", "fps", "segment_length"):
        if settings[name] != reference.settings[name]:
            raise UserError(
                f"{store.uri} has {name} {settings[name]}, {reference.uri} has {reference.settings[name]}; frames can "
                "only be compared one to one: prepare with --model, as the run's"
            )
    if settings["num_frames"] > video.num_frames:
        raise UserError(
            f"{store.uri} has {settings['num_frames']} frames, {video.video_id} of {reference.uri} has "
            f"{video.num_frames}; give the folder it was made from"
        )
    segments = plan_segments(settings["num_frames"], length)
    made = manifest.get("segments", [])
    incomplete = None
    if manifest["status"] != "done" or len(made) != len(segments):
        incomplete = f"{len(made)} of {len(segments)} segments are made ({manifest.get('error') or manifest['status']})"
    return GeneratedVideo(
        run=run,
        video_id=video.video_id,
        seed=(manifest["decided"]["seeds"] or [None])[0],
        segments=tuple(segments),
        files=tuple((f"{base}/{video.video_id}/segments/{said['index']:05d}.mp4", said["video"]) for said in made),
        incomplete=incomplete,
        settings=settings,
    )


def _table(uri: str, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    where = f"{uri.rstrip('/')}/{name}"
    path = Path(where) if scheme_of(uri) == "file" and "://" not in uri else Path(local_path(where))
    return pyarrow.parquet.read_table(path, columns=None if columns is None else list(columns)).to_pylist()
