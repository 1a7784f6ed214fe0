"""Prepared videos in the authors' layout, read back as `longvie generate` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipelines.generation.inputs import read_rows
from pipelines.preparation.cond_json import write_cond_json
from pipelines.storage import LocalStorage, Storage, open_storage

PROMPTS = ["a hare", 'two "hares"\nand 兔子']


def prepared(storage: Storage, video_id: str = "hare-01234567-0000") -> dict[str, Any]:
    """A row of manifest.jsonl and the files it names."""
    row = {
        "video_id": video_id,
        "first_frame": f"controls/{video_id}/first_00000.png",
        "dense": [f"controls/{video_id}/dense_{i:05d}.mp4" for i in range(2)],
        "sparse": [f"controls/{video_id}/sparse_{i:05d}.mp4" for i in range(2)],
        "prompts": PROMPTS,
        "num_frames": 30,
    }
    for name in (row["first_frame"], *row["dense"], *row["sparse"]):
        storage.write(name, name.encode())
    return row


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    row = prepared(storage)
    write_cond_json(tmp_path, row, storage)
    home = tmp_path / "cond" / row["video_id"]
    (read,) = read_rows(str(home / "cond.json"), first_frame=str(home / "first.png"))
    assert read.video_id == row["video_id"]
    assert [Path(uri).relative_to(tmp_path).as_posix() for uri in read.dense] == row["dense"]
    assert [Path(uri).relative_to(tmp_path).as_posix() for uri in read.sparse] == row["sparse"]
    assert read.prompts == tuple((None, text) for text in PROMPTS)
    assert Path(read.first_frame).read_bytes() == row["first_frame"].encode()
    assert read.notes == ()


def test_the_layout_is_the_authors(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    write_cond_json(tmp_path, prepared(storage, "v"), storage)
    entries = json.loads((tmp_path / "cond" / "v" / "cond.json").read_text(encoding="utf-8"))
    assert entries[1] == {
        "text": PROMPTS[1],
        "depth": "./controls/v/dense_00001.mp4",
        "track": "./controls/v/sparse_00001.mp4",
    }


def test_it_is_read_back_from_an_object_store(tmp_path: Path) -> None:
    storage = open_storage("memory://bucket/prepared")
    row = prepared(storage, "v")
    write_cond_json(tmp_path, row, storage)
    for name in ("cond.json", "first.png"):
        storage.put(f"cond/v/{name}", tmp_path / "cond" / "v" / name)
    home = "memory://bucket/prepared/cond/v"
    (read,) = read_rows(f"{home}/cond.json", first_frame=f"{home}/first.png")
    assert read.dense == tuple(f"memory://bucket/prepared/{name}" for name in row["dense"])
    assert fsspec.filesystem("memory").cat_file(read.sparse[1]) == row["sparse"][1].encode()


def test_every_segment_has_all_three(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(ValueError, match="zip"):
        write_cond_json(tmp_path, {**prepared(storage), "prompts": PROMPTS[:1]}, storage)
