"""From a raw video to a long video: what preparation writes, generation takes as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from longvie.media import Video, write_video
from tests.pipelines.preparation.prepare_helpers import depth_of, moving, rows_of, run, write_manifest
from tests.pipelines.test_cli import ends


def test_a_prepared_clip_becomes_a_video(tmp_path: Path, toy_folder: Path) -> None:
    """Size, rate and segment length come from the model; three segments of the toy's nine frames."""
    write_video(tmp_path / "a.mp4", moving(50, 1, 48, 64), 16)
    np.save(tmp_path / "a.npy", depth_of(50, 1, 48, 64))
    rows = [{"uri": "a.mp4", "depth": "a.npy", "depth_polarity": "depth", "prompt": "a red ball"}]
    options = {"model": str(toy_folder), "size": None, "fps": None, "segment_length": None}
    summary = run(write_manifest(tmp_path, rows), tmp_path / "prepared", **options)
    assert summary.num_videos == 1
    (row,) = rows_of(tmp_path / "prepared", "videos")
    config = json.loads((toy_folder / "model_index.json").read_text())
    assert (row["height"], row["width"]) == (config["height"], config["width"])
    line = ["generate", str(tmp_path / "prepared"), "--out", str(tmp_path / "made"), "--model", str(toy_folder)]
    assert ends([*line, "--workers", "0"]) == 0
    video = Video(tmp_path / "made" / row["video_id"] / "video.mp4")
    assert video.info.num_frames == row["stop"] - row["start"]
    manifest = json.loads((tmp_path / "made" / row["video_id"] / "manifest.json").read_text())
    assert len(manifest["segments"]) == row["num_segments"]
    assert {segment.get("prompt", "a red ball") for segment in manifest["segments"]} == {"a red ball"}
