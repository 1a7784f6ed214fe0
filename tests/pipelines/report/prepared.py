"""A small prepared OUT, as `longvie prepare` leaves it: tables, controls and the sources they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from longvie.controls.normalize import DepthHistogram, store_depth
from longvie.media import CONTROL, VIDEO, write_video
from longvie.segments import plan_segments
from pipelines.preparation import columns
from pipelines.preparation.recipe import Estimator, Recipe

FPS, HEIGHT, WIDTH, LENGTH = 8, 32, 48, 9
RECIPE = Recipe(
    fps=FPS,
    height=HEIGHT,
    width=WIDTH,
    fit="crop",
    segment_length=LENGTH,
    min_frames=LENGTH,
    cut_threshold=3.0,
    black=16.0,
    static=None,
    min_motion=0.5,
    max_motion=None,
    dense=Estimator(spec="builtin", fingerprint="d", polarity="depth"),
    measured=True,
    sparse=Estimator(spec="lucas-kanade", fingerprint="t"),
    tracked=True,
    scope="video",
)


def flat(grey: int, count: int) -> ndarray:
    """Frames of one grey, which any codec keeps."""
    return np.full((count, HEIGHT, WIDTH, 3), grey, np.uint8)


@dataclass
class Prepared:
    """Rows of the tables; `write` puts them into the folder."""

    folder: Path
    videos: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    stats: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def source(self, name: str, num_frames: int = 60, **changes: Any) -> dict[str, Any]:
        """The columns of videos.parquet that belong to a source; its file, a grey that grows by 4 a frame, is made."""
        path = self.folder / "sources" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            write_video(path, np.concatenate([flat(4 * i, 1) for i in range(num_frames)]), FPS, codec=VIDEO)
        row = {
            "source": str(path), "sha256": f"{name:0<64}"[:64], "duplicates": [], "source_fps": float(FPS),
            "source_height": HEIGHT, "source_width": WIDTH, "source_frames": num_frames,
            "source_seconds": num_frames / FPS, "variable": False, "codec": "h264", "rotation": 0, "bit_depth": 8,
            "has_audio": False, "decoder": "decord",
        }  # fmt: skip
        return {**row, **changes}

    def shot(
        self,
        source: dict[str, Any],
        shot: int,
        start: int,
        stop: int,
        reason: str | None = None,
        prompt: str = "a prompt",
        files: bool = True,
    ) -> str:
        """A shot, with its segments, controls and statistics if it is kept (no reason against it)."""
        video_id = f"v{len(self.videos)}-{shot:04d}"
        segments = plan_segments(stop - start, LENGTH) if reason is None else []
        self.videos.append(
            {
                **source,
                "video_id": video_id,
                "shot": shot,
                "start": start,
                "stop": stop,
                "kept": reason is None,
                "reason": reason,
                "brightness": 99.5,
                "motion": 4.25,
                "num_segments": len(segments),
                "whole": reason is None,
                "fps": float(FPS),
                "height": HEIGHT,
                "width": WIDTH,
            }
        )
        for segment in segments:
            names = {kind: f"controls/{video_id}/{kind}_{segment.index:05d}.mp4" for kind in ("dense", "sparse")}
            for grey, name in zip((80, 160), names.values(), strict=True):
                if files:
                    path = self.folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_video(path, flat(grey, segment.num_valid), FPS, codec=CONTROL)
            self.segments.append(
                {
                    **names,
                    "video_id": video_id,
                    "segment": segment.index,
                    "source": source["source"],
                    "start": segment.start,
                    "num_frames": segment.num_valid,
                    "source_start": start + segment.start,
                    "first_frame": None,
                    "tracks": "t.npz",
                    "prompt": prompt,
                    "low": 1.0,
                    "high": 2.0,
                }
            )
        if reason is None:
            depth = np.linspace(1, 3, 500, dtype=np.float32).reshape(1, 20, 25)
            self.statistics("video", video_id, depth)
        return video_id

    def statistics(self, scope: str, video_id: str, depth: ndarray, polarity: str = "depth") -> None:
        histogram = DepthHistogram.of(store_depth(depth))
        numbers = {name: getattr(histogram, name) for name in ("count", "num_nan", "num_inf", "min", "max")}
        percentiles = {f"p{q}": histogram.percentile(q) for q in (2, 5, 50, 95, 98)}
        self.stats.append(
            {
                "scope": scope,
                "video_id": video_id,
                "segment": -1,
                "polarity": polarity,
                "histogram": histogram.to_bytes(),
                **numbers,
                **percentiles,
            }
        )

    def error(self, source: str, error: str, stage: str = "scan", attempts: int = 1) -> None:
        self.errors.append({"source": source, "stage": stage, "unit": "file", "error": error, "attempts": attempts})

    def write(self) -> Path:
        for name, rows, schema in (
            ("videos", self.videos, columns.VIDEOS),
            ("segments", self.segments, columns.SEGMENTS),
            ("stats", self.stats, columns.STATS),
            ("errors", self.errors, columns.ERRORS),
        ):
            columns.write_table(self.folder / f"{name}.parquet", rows, schema)
        return self.folder
