"""What a user hands to `longvie prepare`, as sources: files, folders, globs, URIs, and manifests that name more.

It checks form only. Whether a file is there, is readable and holds a video is found by the stages, and is a row in
errors.parquet: one bad file does not keep thousands of good ones waiting.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from pipelines.captions.prompts import Prompts, parse_prompt_or_prompts
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.storage import check_uri, local_path_of, scheme_of

MANIFESTS = (".parquet", ".csv", ".jsonl")
POLARITIES = ("depth", "disparity")  # large is far; large is near
# What is taken from a folder; a file that is named is read whatever it is called.
VIDEO_SUFFIXES = ".3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m"
_FIELDS = ("uri", "prompt", "prompts", "depth", "depth_polarity", "tracks")
_GLOB = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input file as the user named it; URIs are absolute.

    Args:
        where: names it in messages: the argument, or the manifest's row.
        prompts: what its segments show, see prompts.py; empty without.
        depth: the user's own depth for it, a file or a folder of images; polarity: what large values mean.
        tracks: the user's own tracks: one file for the whole video, or one a segment; empty without.
    """

    uri: str
    where: str
    prompts: Prompts = ()
    depth: str | None = None
    depth_polarity: str | None = None
    tracks: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """All that was said of it beside its place."""
        return {
            "prompts": self.prompts,
            "depth": self.depth,
            "depth_polarity": self.depth_polarity,
            "tracks": self.tracks,
        }


def read_sources(inputs: Sequence[str], out: str) -> list[Source]:
    """The sources that the arguments name, sorted by URI, each once.

    Args:
        inputs: paths, folders (searched through, but for what lies in `out`), globs, URIs, manifests.
        out: where the run writes; never an input.

    Raises:
        UserError: an argument or row that cannot be understood, matches nothing, or contradicts another.
    """
    if not inputs:
        raise UserError("nothing to prepare: give video files, folders, globs, URIs or a manifest")
    found: dict[str, Source] = {}
    for given in inputs:
        for source in _expand(given, out):
            known = found.setdefault(source.uri, source)
            if known.given() != source.given():
                raise UserError(
                    f"{source.where}: {source.uri} is also named by {known.where} with another "
                    f"{_difference(known, source)}; name it once"
                )
    return [found[uri] for uri in sorted(found)]


def _expand(given: str, out: str) -> Iterable[Source]:
    check_uri(given, "input")
    suffix = PurePosixPath(given).suffix.lower()
    if scheme_of(given) == "file":
        path = local_path_of(given)
        if path.is_dir():
            return _named(_in_folder(given, _local_files(path, local_path_of(out))), given)
        if _GLOB & set(given) and not path.exists():
            return _named(_matching(given, _local_glob(path)), given)
        uri = str(path.absolute())
    else:
        uri = given
        if given.endswith("/"):
            return _named(_in_folder(given, _remote(given, out, glob=False)), given)
        if _GLOB & set(given) and not given.startswith("http"):
            return _named(_matching(given, _remote(given, out, glob=True)), given)
    if suffix in MANIFESTS:
        return _manifest(uri)
    return [Source(uri=uri, where=given)]


def _named(uris: Iterable[str], where: str) -> list[Source]:
    return [Source(uri=uri, where=where) for uri in uris]


def _in_folder(given: str, uris: Iterable[str]) -> list[str]:
    videos = [uri for uri in uris if PurePosixPath(uri).suffix.lower() in VIDEO_SUFFIXES.split()]
    if not videos:
        raise UserError(f"{given} holds no video; known endings are {VIDEO_SUFFIXES}")
    return videos


def _matching(given: str, uris: Iterable[str]) -> list[str]:
    matches = list(uris)
    if not matches:
        raise UserError(f"{given} matches no file; check the pattern, and quote it if the shell is not to expand it")
    return matches


def _local_files(folder: Path, out: Path) -> Iterator[str]:
    out = out.absolute()
    for path in sorted(folder.absolute().rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder.absolute()).parts)
        if not hidden and path.is_file() and not path.is_relative_to(out):
            yield str(path)


def _local_glob(pattern: Path) -> Iterator[str]:
    pattern = pattern.absolute()
    for path in sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))):
        if path.is_file():
            yield str(path)


def _remote(uri: str, out: str, *, glob: bool) -> list[str]:
    """Files below a folder, or those that match a pattern, in an object store."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        paths = filesystem.glob(path) if glob else filesystem.find(path)
    except (*storage_errors(), ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be listed ({first_line(error)})") from error
    uris = [filesystem.unstrip_protocol(str(path)) for path in sorted(paths)]
    return [found for found in uris if not found.startswith(out.rstrip("/") + "/")]


def _manifest(uri: str) -> list[Source]:
    name = PurePosixPath(uri).name
    base = uri.rsplit("/", 1)[0]
    try:
        with fsspec.open(uri, "rb") as file:
            content: bytes = file.read()  # type: ignore[union-attr]
    except (*storage_errors(), ImportError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({first_line(error)})") from error
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[PurePosixPath(uri).suffix.lower()]
    rows = [_row(where, row, base) for where, row in reader(content, name)]
    if not rows:
        raise UserError(f"{name} has no rows")
    return rows


def _jsonl(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_text(content, name).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is not JSON ({first_line(error)})") from error
        yield where, row


def _csv(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(_text(content, name), newline=""), strict=True, restkey="")
    try:
        for row in reader:
            if "" in row:
                raise UserError(f"{name} line {reader.line_num}: more cells than the first line has names")
            yield f"{name} line {reader.line_num}", {field: value for field, value in row.items() if value}
    except csv.Error as error:
        raise UserError(f"{name} line {reader.line_num} is not CSV ({first_line(error)})") from error


def _parquet(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a readable Parquet file ({first_line(error)})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{name} row {number}", row


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a text file ({first_line(error)})") from error


def _row(where: str, content: Any, base: str) -> Source:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is not an object; give fields {', '.join(_FIELDS)}")
    content = {field: value for field, value in content.items() if value is not None}
    unknown = sorted(set(content) - set(_FIELDS))
    if unknown:
        raise UserError(f"{where}, field {unknown[0]}: unknown; known are {', '.join(_FIELDS)}")
    if "uri" not in content:
        raise UserError(f"{where}, field uri: missing")

    def uri(field: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise UserError(f"{where}, field {field}: {value!r} is not a path or URI")
        return _absolute(base, check_uri(value, f"{where}, field {field}:"))

    if "prompt" in content and "prompts" in content:
        raise UserError(f"{where}, field prompt: give either prompt (a text) or prompts (a list), or neither")
    polarity = content.get("depth_polarity")
    if polarity is not None and polarity not in POLARITIES:
        raise UserError(f"{where}, field depth_polarity: {polarity!r}; choose depth (large is far) or disparity (near)")
    if ("depth" in content) != (polarity is not None):
        raise UserError(
            f"{where}, field depth_polarity: give it with depth, and only then: depth (large values are far) or "
            "disparity (large values are near)"
        )
    tracks = content.get("tracks", [])
    listed = tracks if isinstance(tracks, list) else [tracks]
    return Source(
        uri=uri("uri", content["uri"]),
        where=where,
        prompts=parse_prompt_or_prompts(where, content) if {"prompt", "prompts"} & set(content) else (),
        depth=uri("depth", content["depth"]) if "depth" in content else None,
        depth_polarity=polarity,
        tracks=tuple(uri("tracks", value) for value in listed),
    )


def _absolute(base: str, value: str) -> str:
    if scheme_of(value) != "file":
        return value
    path = local_path_of(value)
    if path.is_absolute():
        return str(path)
    return f"{base}/{value.removeprefix('./')}" if "://" in base else str(Path(base) / path)


def _difference(one: Source, other: Source) -> str:
    return next(field for field, value in one.given().items() if other.given()[field] != value)


def canonical(sources: Sequence[Source]) -> Source:
    """Of several with the same content, the one that is prepared: the first by URI, with what only another says."""
    first, *others = sorted(sources, key=lambda source: source.uri)
    for other in others:
        first = replace(
            first,
            prompts=first.prompts or other.prompts,
            depth=first.depth or other.depth,
            depth_polarity=first.depth_polarity or other.depth_polarity,
            tracks=first.tracks or other.tracks,
        )
    return first
