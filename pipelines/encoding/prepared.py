"""What `longvie prepare` wrote, as segments to be encoded: where their frames, controls and prompts are.

It reads tables and commits, no frame. Whether a source is still what was prepared is found when it is read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from pipelines.errors import UserError, first_line, storage_errors
from pipelines.preparation import recipe
from pipelines.preparation.units import UnitStore
from pipelines.storage import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class ControlRef:
    """A control's file in PREPARED, and what its content must be."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PreparedSegment:
    """One segment of a long video.

    Args:
        source, source_sha256: URI of the file with its frames, and what its content must be.
        source_start: its first frame on the source's resampled timeline.
        num_valid: frames that exist.
        prompt: None where preparation has none.
        dense, sparse: None where that control is absent.
    """

    video_id: str
    segment: int
    num_segments: int
    source: str
    source_sha256: str
    source_start: int
    num_valid: int
    prompt: str | None
    dense: ControlRef | None
    sparse: ControlRef | None

    @property
    def said(self) -> str:
        return f"{self.video_id} segment {self.segment}"


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A prepared folder.

    Args:
        frames: `fps`, `height`, `width` and `fit`, as `longvie.media.resampled` takes them.
        segments: in the order of video_id and number.
    """

    uri: str
    frames: Mapping[str, Any]
    segment_length: int
    segments: tuple[PreparedSegment, ...]


def read_prepared(uri: str) -> PreparedData:
    """The segments of a folder that `longvie prepare` or `longvie render` finished; `UserError` if it is none."""
    storage = open_storage(uri)
    uri = storage.uri
    try:
        content = json.loads(_read(storage, recipe.NAME))
        settings = content["settings"]
        if content["format"] != recipe.FORMAT:
            raise UserError(f"{uri} was prepared by another version of longvie; prepare it again")
        frames = {name: settings[name] for name in ("fps", "height", "width", "fit")}
        videos = {row["video_id"]: row for row in _table(storage, "videos.parquet")}
        rows = _table(storage, "segments.parquet")
        files = {
            name: said["sha256"]
            for commit in UnitStore(storage).read_all("controls").values()
            for name, said in commit.files.items()
        }
        segments = [_segment(row, videos[row["video_id"]], files) for row in rows]
        length = int(settings["segment_length"])
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{uri} is not as longvie prepare left it ({first_line(error)}); prepare it again") from error
    if not segments:
        raise UserError(f"{uri} has no segments; see its errors.parquet")
    ordered = sorted(segments, key=lambda one: (one.video_id, one.segment))
    return PreparedData(uri=uri, frames=frames, segment_length=length, segments=tuple(ordered))


def _segment(row: Mapping[str, Any], video: Mapping[str, Any], files: Mapping[str, str]) -> PreparedSegment:
    def control(kind: str) -> ControlRef | None:
        name = row[kind]
        if name is None:
            return None
        if name not in files:
            raise UserError(f"segments.parquet names {name}, which no commit vouches for; prepare again")
        return ControlRef(name=name, sha256=files[name])

    return PreparedSegment(
        video_id=row["video_id"],
        segment=row["segment"],
        num_segments=video["num_segments"],
        source=row["source"],
        source_sha256=video["sha256"],
        source_start=row["source_start"],
        num_valid=row["num_frames"],
        prompt=row["prompt"],
        dense=control("dense"),
        sparse=control("sparse"),
    )


def _table(storage: Storage, name: str) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(io.BytesIO(_read(storage, name))).to_pylist()


def _read(storage: Storage, name: str) -> bytes:
    try:
        return storage.read(name)
    except FileNotFoundError as error:
        raise UserError(f"{storage.uri} has no {name}; give a folder that longvie prepare finished") from error
    except storage_errors() as error:
        raise UserError(f"{storage.uri}/{name} cannot be read ({first_line(error)})") from error
