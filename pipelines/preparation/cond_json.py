"""A prepared long video in the authors' layout: cond.json and a first frame, as their own scripts read it.

    cond/<video_id>/cond.json    [{"text", "depth", "track"}], one entry a segment
    cond/<video_id>/first.png

As in the release, paths hold from a folder above, here OUT: `./controls/<video_id>/dense_00000.mp4`. From there
`longvie generate cond/<video_id>/cond.json --first-frame cond/<video_id>/first.png` reads it back, wherever OUT lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.storage import Storage


def write_cond_json(folder: Path, row: Mapping[str, Any], storage: Storage) -> None:
    """Write one row of manifest.jsonl in the authors' layout into a local folder, under its names below OUT.

    Args:
        row: with `video_id`, `first_frame`, and a list each of `dense`, `sparse` and `prompts`, one a segment;
            paths hold from OUT.
        storage: OUT, where the first frame is copied from.
    """
    home = folder / "cond" / row["video_id"]
    home.mkdir(parents=True)
    storage.get(row["first_frame"], home / "first.png")
    entries = [
        {"text": text, "depth": f"./{depth}", "track": f"./{track}"}
        for text, depth, track in zip(row["prompts"], row["dense"], row["sparse"], strict=True)
    ]
    (home / "cond.json").write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
