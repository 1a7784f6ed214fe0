"""What a user hands to `longvie generate`, as rows: the authors' cond.json, or a JSONL or Parquet manifest.

It checks form only (fields, types, ranges, URIs), and says which line or entry and which field is at fault. Whether
files can be read and fit the model is plan.py's question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from longvie.config import check_seed
from longvie.media import local_path
from pipelines.captions.prompts import Prompts, check_text, parse_prompt_or_prompts
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.preparation.recipe import MANIFEST
from pipelines.storage import check_uri, check_video_id, local_path_of, scheme_of

_FIELDS = ("video_id", "first_frame", "dense", "sparse", "prompt", "prompts", "seed", "num_frames")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One long video as the user asked for it; URIs are absolute.

    Args:
        where: names the row in error messages.
        dense, sparse: URIs of the control's files in order; empty where it is absent.
        prompts: texts with the frame each holds from, or with None: one for all, one a segment or one a control file.
        seed, num_frames: None where the command line or the controls decide.
    """

    where: str
    video_id: str
    first_frame: str
    dense: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    prompts: Prompts
    seed: int | None = None
    num_frames: int | None = None
    notes: tuple[str, ...] = ()  # what the user should know of how it was read


def read_rows(source: str, first_frame: str | None = None, video_id: str | None = None) -> list[Row]:
    """The long videos of a cond.json, a .jsonl or a .parquet, or of a folder that `longvie prepare` wrote.

    Args:
        first_frame: needed with a cond.json, refused with a manifest, whose rows name theirs.
        video_id: names the video of a cond.json (default: its folder's name); picks one row of a manifest.
    """
    source = _manifest_in(check_uri(source, "input"))
    path = Path(local_path(source))
    suffix = Path(source).suffix.lower()
    base = source.rsplit("/", 1)[0] if scheme_of(source) != "file" else str(local_path_of(source).absolute().parent)
    name = Path(source).name
    if suffix == ".json":
        if first_frame is None:
            raise UserError(f"{name} needs --first-frame IMAGE: a cond.json names controls and prompts only")
        return [_cond(path, name, base, first_frame, video_id)]
    if first_frame is not None:
        raise UserError(f"--first-frame goes with a cond.json; each row of {name} names its own first_frame")
    if suffix == ".jsonl":
        raw = list(_jsonl(path, name))
    elif suffix == ".parquet":
        raw = _parquet(path, name)
    else:
        raise UserError(f"{source} is neither cond.json, .jsonl nor .parquet")
    if not raw:
        raise UserError(f"{name} has no rows")
    rows = [_row(where, content, base) for where, content in raw]
    seen: dict[str, str] = {}
    for row in rows:
        if row.video_id in seen:
            raise UserError(f"{row.where}, field video_id: {row.video_id!r} is also that of {seen[row.video_id]}")
        seen[row.video_id] = row.where
    if video_id is not None:
        if video_id not in seen:
            raise UserError(f"--video-id {video_id} is not in {name}")
        rows = [row for row in rows if row.video_id == video_id]
    return rows


def to_manifest(row: Row) -> dict[str, Any]:
    """A row as a line of a .jsonl manifest, which `read_rows` gives back."""
    prompts = [text if start is None else {"start": start, "text": text} for start, text in row.prompts]
    line: dict[str, Any] = {"video_id": row.video_id, "first_frame": row.first_frame, "prompts": prompts}
    line |= {name: list(files) for name, files in (("dense", row.dense), ("sparse", row.sparse)) if files}
    return line | {
        name: value for name, value in (("seed", row.seed), ("num_frames", row.num_frames)) if value is not None
    }


def _manifest_in(source: str) -> str:
    """The manifest of a prepared folder; the source itself if it is a file."""
    manifest = f"{source.rstrip('/')}/{MANIFEST}"
    if scheme_of(source) == "file":
        if not local_path_of(source).is_dir():
            return source
        if not local_path_of(manifest).is_file():
            raise UserError(f"{source} has no {MANIFEST}; give a folder that longvie prepare finished, or a file")
        return manifest
    known = (".json", ".jsonl", ".parquet")
    return source if Path(source).suffix.lower() in known else manifest


def _jsonl(path: Path, name: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(_text(path, name).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            rows.append((where, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({first_line(error)})") from error
    return rows


def _parquet(path: Path, name: str) -> list[tuple[str, Any]]:
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a readable Parquet file ({first_line(error)})") from error
    return [
        (f"{name} row {number}", {key: value for key, value in row.items() if value is not None})
        for number, row in enumerate(rows, start=1)
    ]


def _row(where: str, content: Any, base: str) -> Row:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is not an object; give fields {', '.join(_FIELDS)}")
    unknown = sorted(set(content) - set(_FIELDS))
    if unknown:
        raise UserError(f"{where}, field {unknown[0]}: unknown; known are {', '.join(_FIELDS)}")
    for required in ("video_id", "first_frame"):
        if required not in content:
            raise UserError(f"{where}, field {required}: missing")
    if ("prompt" in content) == ("prompts" in content):
        raise UserError(f"{where}, field prompt: give either prompt (a text) or prompts (a list)")

    def uri(field: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise UserError(f"{where}, field {field}: {value!r} is not a path or URI")
        return _absolute(base, check_uri(value, f"{where}, field {field}:"))

    def files(field: str) -> tuple[str, ...]:
        given = content.get(field)
        if given is None:
            return ()
        return tuple(uri(field, value) for value in (given if isinstance(given, list) and given else [given]))

    return Row(
        where=where,
        video_id=check_video_id(content["video_id"], f"{where}, field video_id:"),
        first_frame=uri("first_frame", content["first_frame"]),
        dense=files("dense"),
        sparse=files("sparse"),
        prompts=parse_prompt_or_prompts(where, content),
        seed=_number(where, "seed", content.get("seed"), check_seed),
        num_frames=_number(where, "num_frames", content.get("num_frames"), check_num_frames),
    )


def _cond(path: Path, name: str, base: str, first_frame: str, video_id: str | None) -> Row:
    try:
        entries = json.loads(_text(path, name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not JSON ({first_line(error)})") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{name} is not a list of segments; each entry has text, depth and track")
    found: dict[str, list[str]] = {"depth": [], "track": []}
    prompts: list[tuple[int | None, str]] = []
    beside = 0
    for number, entry in enumerate(entries):
        where = f"{name} entry {number}"
        if not isinstance(entry, Mapping):
            raise UserError(f"{where} is not an object with text, depth and track")
        if "text" not in entry:
            raise UserError(f"{where}, field text: missing")
        prompts.append((None, check_text(where, "text", entry["text"])))
        for field, uris in found.items():
            if field not in entry:
                continue
            value = entry[field]
            if not isinstance(value, str) or not value:
                raise UserError(f"{where}, field {field}: {value!r} is not a path or URI")
            uri, moved = _search(f"{where}, field {field}", base, value)
            beside += moved
            uris.append(uri)
    for field, uris in found.items():
        if uris and len(uris) != len(entries):
            lacking = next(number for number, entry in enumerate(entries) if field not in entry)
            raise UserError(f"{name} entry {lacking}, field {field}: missing; other entries have it")
    if video_id is None:
        video_id = check_video_id(Path(base).name or "video", "the folder's name (give --video-id):")
    note = f"{name}: {beside} control files were not at the paths it says; those beside it were taken"
    return Row(
        where=name,
        video_id=check_video_id(video_id, "--video-id"),
        first_frame=_absolute(str(Path.cwd()), check_uri(first_frame, "--first-frame")),
        dense=tuple(found["depth"]),
        sparse=tuple(found["track"]),
        prompts=tuple(prompts),
        notes=(note,) if beside else (),
    )


def _search(where: str, base: str, value: str) -> tuple[str, bool]:
    """A control of a cond.json: its paths hold from the folder it was released in, so parents are tried, then the
    file's name beside it. Also says whether it was only found there."""
    check_uri(value, where)
    if "://" in value or value.startswith("/"):
        return value, False
    if scheme_of(base) != "file":
        scheme, _, inside = base.partition("://")
        parts = inside.split("/")
        folders = [f"{scheme}://{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
        exists: Callable[[str], bool] = _exists_remotely
    else:
        folders = [str(folder) for folder in (Path(base), *Path(base).parents)]
        exists = lambda uri: Path(uri).is_file()  # noqa: E731
    for folder in folders:
        if exists(_absolute(folder, value)):
            return _absolute(folder, value), False
    if exists(_absolute(base, Path(value).name)):
        return _absolute(base, Path(value).name), True
    raise UserError(f"{where}: {value} does not exist under {base}, its parent folders, or beside the file")


def _exists_remotely(uri: str) -> bool:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem.exists(path)
    except (*storage_errors(), ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be reached ({first_line(error)})") from error


def _absolute(base: str, value: str) -> str:
    if "://" in value:
        return value
    if value.startswith(("/", "~")):
        return str(Path(value).expanduser())
    if "://" in base:
        return f"{base}/{value.removeprefix('./')}"
    return str(Path(base) / value)


def check_num_frames(value: int) -> int:
    """Return the frame count, or raise `ValueError`."""
    if value < 1:
        raise ValueError(f"num_frames is {value}; a video has at least 1 frame")
    return value


def _number(where: str, field: str, value: Any, check: Callable[[int], int]) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{where}, field {field}: {value!r} is not a whole number")
    try:
        return check(value)
    except ValueError as error:
        raise UserError(f"{where}, field {field}: {error}") from error


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not a readable text file ({first_line(error)})") from error
