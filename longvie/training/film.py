"""Windows of a prepared film as the tiny model sees scenes: frames, dense control, tracks drawn anew, and a prompt.

It reads what `longvie prepare` wrote (tables, dense controls, the source itself). Every window lies within one shot;
windows overlap, and each is taken mirrored, too. Tracks are followed and drawn for each window and its mirror image,
since the colours of points say where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from numpy import ndarray

from longvie.controls.render import default_grid
from longvie.controls.tracks import load_point_tracker
from longvie.media import Video, resampled
from longvie.segments import plan_segments
from longvie.training.data import SceneControls
from longvie.training.latents import World

STRIDE = 8  # frames from one window to the next
# Seconds of Big Buck Bunny that are never trained on: around the demo's excerpt, and one more stretch.
HELD_OUT = ((340.0, 390.0), (100.0, 120.0))

Span = tuple[float, float]


def windows(
    prepared: Path, world: World, held_out: Sequence[Span] = HELD_OUT, stride: int = STRIDE, only: Span | None = None
) -> Iterator[SceneControls]:
    """All windows of `world.num_frames` frames, in the order of shots, each followed by its mirror image.

    Args:
        prepared: a folder of `longvie prepare`, with the world's size and segment length.
        held_out: seconds of the sources that no window touches.
        only: windows within these seconds alone, and not mirrored: for validation on what was held out.
    """
    videos = pyarrow.parquet.read_table(prepared / "videos.parquet").to_pylist()
    segments = pyarrow.parquet.read_table(prepared / "segments.parquet").to_pylist()
    for video in videos:
        if not video["whole"] or video["stop"] - video["start"] < world.num_frames:
            continue
        if (video["height"], video["width"]) != (world.height, world.width):
            size = f"{world.width}x{world.height}"
            raise ValueError(f"{prepared} is {video['width']}x{video['height']}; prepare it with --size {size}")
        own = [segment for segment in segments if segment["video_id"] == video["video_id"]]
        shot = {"fps": video["fps"], "height": world.height, "width": world.width}
        frames = np.concatenate(list(resampled(video["source"], **shot, start=video["start"], stop=video["stop"])))
        dense = _dense(prepared, own)
        for first in range(0, len(frames) - world.num_frames + 1, stride):
            begin = (video["start"] + first) / video["fps"]
            end = begin + world.num_frames / video["fps"]
            if any(begin < high and low < end for low, high in held_out):
                continue
            if only is not None and not (only[0] <= begin and end <= only[1]):
                continue
            part = slice(first, first + world.num_frames)
            yield _window(frames[part], dense[part], own[0]["prompt"], world)
            if only is None:
                yield _window(frames[part, :, ::-1].copy(), dense[part, :, ::-1].copy(), own[0]["prompt"], world)


def _dense(prepared: Path, segments: Sequence[Mapping[str, Any]]) -> ndarray:
    """The dense control of a whole shot, its shared frames once, uint8 (t, h, w, 3)."""
    parts = []
    for segment in segments:
        video = Video(prepared / segment["dense"])
        frames = video.read(range(video.info.num_frames))
        parts.append(frames if segment["segment"] == 0 else frames[1:])
    return np.concatenate(parts)


def _window(frames: ndarray, dense: ndarray, prompt: str, world: World) -> SceneControls:
    tracker, grid = load_point_tracker(), default_grid(world.height, world.width)
    sparse = []
    for segment in plan_segments(len(frames), world.segment_length):
        part = frames[segment.start : segment.start + segment.num_valid]
        tracks = tracker(part, grid).with_depth(dense[segment.start, ..., 0])
        sparse.append(torch.from_numpy(tracks.render(world.height, world.width)))
    return SceneControls(
        frames=torch.from_numpy(frames),
        caption=prompt,
        dense=torch.from_numpy(dense),
        sparse_by_segment=tuple(sparse),
    )
