"""Windows of a prepared film: within shots, clear of what is held out, mirrored with tracks of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from longvie.scenes import render_scene
from longvie.segments import plan_segments
from longvie.training.film import windows
from longvie.training.latents import World
from longvie.video import write_video

WORLD = World(height=32, width=48, segment_length=9, num_segments=2)
FPS = 8.0
SHOTS = ((0, 33), (33, 45), (45, 78))  # frames of the source; the second is shorter than a window


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.from_numpy(render_scene(3, SHOTS[-1][1], WORLD.height, WORLD.width).frames)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, frames: torch.Tensor) -> Path:
    """What `longvie prepare` leaves, as far as training reads it; a segment's depth is a ramp that says which it is."""
    folder = tmp_path_factory.mktemp("film")
    write_video(folder / "source.mp4", frames, FPS)
    videos: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    for number, (start, stop) in enumerate(SHOTS):
        common = {"video_id": f"film-{number}", "source": str(folder / "source.mp4")}
        videos.append(
            common
            | {"start": start, "stop": stop, "whole": True, "fps": FPS, "height": WORLD.height, "width": WORLD.width}
        )
        for segment in plan_segments(stop - start, WORLD.segment_length):
            grey = torch.arange(segment.start, segment.start + segment.num_valid, dtype=torch.uint8) * 4
            name = f"dense_{number}_{segment.index}.mp4"
            write_video(
                folder / name, grey.view(-1, 1, 1, 1).expand(-1, WORLD.height, WORLD.width, 3).contiguous(), FPS
            )
            segments.append(common | {"segment": segment.index, "dense": name, "prompt": "a film"})
    for name, rows in (("videos", videos), ("segments", segments)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def test_windows_lie_within_shots_and_each_has_its_mirror_image(prepared: Path, frames: torch.Tensor) -> None:
    made = list(windows(prepared, WORLD, held_out=()))
    starts = [0, 8, 16, 45, 53, 61]
    assert len(made) == 2 * len(starts)
    for start, plain, mirrored in zip(starts, made[::2], made[1::2], strict=True):
        truth = frames[start : start + WORLD.num_frames].float()
        assert (plain.frames.float() - truth).abs().mean() < 8  # the source is compressed
        assert torch.equal(mirrored.frames, plain.frames.flip(2))
        assert torch.equal(mirrored.dense, plain.dense.flip(2))
        within = start if start < SHOTS[0][1] else start - SHOTS[2][0]
        assert abs(plain.dense[0].float().mean() - 4 * within) < 6
        assert plain.caption == "a film"


def test_tracks_of_a_mirror_image_have_the_colours_of_where_they_are(prepared: Path) -> None:
    plain, mirrored = list(windows(prepared, WORLD, held_out=()))[:2]
    assert len(plain.sparse_by_segment) == WORLD.num_segments
    for one, other in zip(plain.sparse_by_segment, mirrored.sparse_by_segment, strict=True):
        # in the first frame points stand on the same grid, red from left to right, whichever way the film is shown
        assert torch.equal(one[0, ..., :2], other[0, ..., :2])
        assert np.diff(one[0, ..., 0].float().amax(0).numpy().reshape(-1, 6).max(1)).min() > 0


def test_nothing_held_out_is_in_a_window(prepared: Path) -> None:
    held_out = ((1.0, 2.0), (9.0, 9.5))  # frames 8 to 16, 72 to 76
    kept = list(windows(prepared, WORLD, held_out=held_out))
    assert len(kept) == 2 * len([16, 45, 53])
    (only,) = windows(prepared, WORLD, held_out=(), only=(5.5, 8.0))
    assert len(only.frames) == WORLD.num_frames


def test_a_film_of_another_size_is_refused_with_the_remedy(prepared: Path) -> None:
    with pytest.raises(ValueError, match="prepare it with --size 96x64"):
        next(windows(prepared, World(segment_length=9, num_segments=2)))
