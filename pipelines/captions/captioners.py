"""Who writes the prompt of a segment: the user (in words, a manifest or a file beside the video) or a vision model.

A captioner is a plain value: it is sent to workers, and its `identity` is part of what decides a unit. It knows no
codec and needs no torch. The vision model is asked in caption_endpoint.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import fsspec
from jaxtyping import UInt8
from numpy import ndarray

from pipelines.captions.prompts import Prompts, check_text, parse_prompts
from pipelines.errors import UserError, first_line, storage_errors

MAX_SIDECAR_BYTES = 4 << 20  # a prompt is a paragraph; thousands of them are still less than this


class CaptionError(RuntimeError):
    """A segment that could not be captioned: one line that names who was asked and the remedy."""


class Captioner(Protocol):
    """Writes one segment's prompt. Raises `CaptionError` where it cannot."""

    @property
    def identity(self) -> str:
        """Equal for captioners that would write the same; enters the key of what is made with it."""
        ...

    def __call__(self, frames: UInt8[ndarray, "t h w 3"], index: int, video_id: str) -> str:
        """The prompt of segment `index` of a long video, from its RGB frames (0..255)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConstantCaptioner:
    """The same prompt everywhere."""

    text: str

    def __post_init__(self) -> None:
        check_text("--prompt", "text", self.text)

    @property
    def identity(self) -> str:
        return json.dumps(["constant", self.text])

    def __call__(self, frames: UInt8[ndarray, "t h w 3"], index: int, video_id: str) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class GivenCaptioner:
    """The user's own prompts for one long video, one a segment, as `prompts.assign_prompts` gives them."""

    texts: tuple[str, ...]

    @property
    def identity(self) -> str:
        return json.dumps(["given", *self.texts])

    def __call__(self, frames: UInt8[ndarray, "t h w 3"], index: int, video_id: str) -> str:
        if not 0 <= index < len(self.texts):
            raise CaptionError(f"{video_id} segment {index}: prompts are given for {len(self.texts)} segments")
        return self.texts[index]


def read_sidecar(video_uri: str) -> Prompts:
    """The prompts in the file beside a video: for `a/b.mp4`, `a/b.txt` or `a/b.json`.

    A .txt holds one prompt, or one a line for each segment; blank lines are passed over. A .json holds a text, a list
    of texts, or a list of objects with `start` and `text`. None or both of the files, or a faulty one: `UserError`.
    """
    stem = video_uri.removesuffix(PurePosixPath(video_uri).suffix)
    found = {uri: text for uri in (f"{stem}.txt", f"{stem}.json") if (text := _read_text(uri)) is not None}
    if len(found) != 1:
        said = "neither exists" if not found else "both exist"
        raise UserError(f"{video_uri}: its prompts are looked for in {stem}.txt or {stem}.json; {said}, give one")
    ((uri, text),) = found.items()
    if uri.endswith(".json"):
        return _parse_json(uri, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{uri} is empty; write one prompt, or one a line for each segment")
    return tuple((None, line) for line in lines)


def _parse_json(uri: str, text: str) -> Prompts:
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise UserError(f"{uri} is not JSON ({first_line(error)})") from error
    if isinstance(content, str):
        return ((None, check_text(uri, "text", content)),)
    if isinstance(content, Mapping):
        raise UserError(f"{uri} is an object; give a text, a list of texts, or a list of objects with start and text")
    return parse_prompts(uri, content)


def _read_text(uri: str) -> str | None:
    """The file's text, or None if there is no such file."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if not filesystem.isfile(path):
            return None
        if filesystem.size(path) > MAX_SIDECAR_BYTES:
            raise UserError(f"{uri} has more than {MAX_SIDECAR_BYTES:,} bytes; that is no file of prompts")
        return filesystem.cat_file(path).decode("utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} is not UTF-8 text ({first_line(error)}); save it as UTF-8") from error
    except storage_errors() as error:
        raise UserError(f"{uri} cannot be read ({first_line(error)})") from error
