"""`longvie rewrite`: a prepared video under an edited first frame (P1 §2.3, video editing): same controls, new prompts.

The user edits the first frame; a vision model compares it with the original and rewrites each prompt. What comes out is
an ordinary manifest for `longvie generate`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import UInt8
from numpy import ndarray

from longvie.media import VideoError, read_image
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.generation.inputs import Row, read_rows
from pipelines.storage import (
    Storage,
    check_uri,
    check_video_id,
    check_writable,
    local_path_of,
    open_storage,
    scheme_of,
)


class Rewriter(Protocol):
    """Rewrites a caption for an edited first frame; see `CaptionEndpoint.rewrite`."""

    def rewrite(self, caption: str, original: UInt8[ndarray, "h w 3"], edited: UInt8[ndarray, "h w 3"]) -> str: ...


@dataclass(frozen=True, kw_only=True)
class RewriteOptions:
    """Args:
    source: a manifest (.jsonl or .parquet) or what `longvie prepare` made.
    video_id: which of its videos.
    first_frame: the edited image.
    out: the .jsonl to be written; it must not exist.
    new_id: names the edited video; default `<video_id>-edited`.
    """

    source: str
    video_id: str
    first_frame: str
    out: str
    new_id: str | None = None

    def __post_init__(self) -> None:
        check_uri(self.first_frame, "--first-frame")
        check_video_id(self.edited_id, "--as")
        if not self.out.endswith(".jsonl"):
            raise UserError(f"--out {self.out} is not a .jsonl; longvie generate would not read it")

    @property
    def edited_id(self) -> str:
        return f"{self.video_id}-edited" if self.new_id is None else self.new_id


def rewrite(options: RewriteOptions, rewriter: Rewriter) -> dict[str, Any]:
    """Write the manifest of the edited video; its one row. Equal prompts are rewritten once.

    Raises:
        UserError: what only the user can mend.
        CaptionError: the model did not answer; nothing is written then.
    """
    (row,) = read_rows(options.source, video_id=options.video_id)
    storage, name = _place(options.out)
    original, edited = _image(row.first_frame, row.where), _image(options.first_frame, "--first-frame")
    rewritten = {text: rewriter.rewrite(text, original, edited) for text in dict.fromkeys(t for _, t in row.prompts)}
    edited_row = _row(row, options, rewritten)
    try:
        storage.write(name, (json.dumps(edited_row, ensure_ascii=False) + "\n").encode())
    except storage_errors() as error:
        raise UserError(f"--out {options.out} cannot be written ({first_line(error)})") from error
    return edited_row


def _place(out: str) -> tuple[Storage, str]:
    """Where the manifest goes; checked before the model is asked."""
    if scheme_of(out) == "file":
        path = local_path_of(out).absolute()
        folder, name = str(path.parent), path.name
    else:
        folder, _, name = out.rpartition("/")
    check_writable(folder)
    storage = open_storage(folder)
    if storage.size(name) is not None:
        raise UserError(f"--out {out} exists; give another file")
    return storage, name


def _row(row: Row, options: RewriteOptions, rewritten: dict[str, str]) -> dict[str, Any]:
    """The edited video as a row of a manifest; its URIs are absolute, so the manifest may lie anywhere."""
    first = options.first_frame
    fields: dict[str, Any] = {
        "video_id": options.edited_id,
        "first_frame": first if "://" in first else str(Path(first).expanduser().absolute()),
        "dense": list(row.dense) or None,
        "sparse": list(row.sparse) or None,
        "prompts": [
            rewritten[text] if start is None else {"start": start, "text": rewritten[text]}
            for start, text in row.prompts
        ],
        "seed": row.seed,
        "num_frames": row.num_frames,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _image(uri: str, where: str) -> UInt8[ndarray, "h w 3"]:
    try:
        return read_image(uri)
    except VideoError as error:
        raise UserError(f"{where}: {error}") from error
