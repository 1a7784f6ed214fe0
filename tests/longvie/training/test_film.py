"""A film's parts: all of it but what is held out, as it is and mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longvie.media import CONTROL, Video, write_video
from longvie.scenes import render_scene
from longvie.training.film import kept_spans, write_held_out, write_parts
from longvie.training.tiny import FPS, HEIGHT, WIDTH


@given(
    st.integers(1, 400),
    st.sampled_from([8.0, 16.0, 24000 / 1001]),
    st.lists(st.floats(0, 50), max_size=6, unique=True).map(sorted),
)
def test_what_is_kept_is_all_that_is_not_held_out(num_frames: int, fps: float, bounds: list[float]) -> None:
    held_out = list(zip(bounds[::2], bounds[1::2], strict=False))
    kept = {frame for start, stop in kept_spans(num_frames, fps, held_out) for frame in range(start, stop)}
    for frame in range(num_frames):
        shown = (frame / fps, (frame + 1) / fps)
        touched = any(low < shown[1] and shown[0] < high for low, high in held_out)
        assert (frame in kept) != touched or any(abs(shown[k] - bound) < 1e-6 for k in (0, 1) for bound in bounds)
    assert all(0 <= frame < num_frames for frame in kept)


def test_parts_are_written_without_loss_and_mirrored(tmp_path: Path) -> None:
    frames = render_scene(3, 33, HEIGHT, WIDTH).frames
    write_video(tmp_path / "film.mp4", frames, FPS, codec=CONTROL)
    made = write_parts(tmp_path / "film.mp4", tmp_path / "parts", held_out=((1.0, 2.0),))
    assert [path.name for path in made] == ["part-0.mp4", "part-0-mirrored.mp4", "part-1.mp4", "part-1-mirrored.mp4"]
    for (plain, mirrored), part in zip((made[:2], made[2:]), (frames[:8], frames[16:]), strict=True):
        assert np.array_equal(Video(plain).read(range(len(part))), part)
        assert np.array_equal(Video(mirrored).read(range(len(part))), part[:, :, ::-1])
    stamps = [path.stat().st_mtime_ns for path in made]
    write_parts(tmp_path / "film.mp4", tmp_path / "parts", held_out=((1.0, 2.0),))
    assert [path.stat().st_mtime_ns for path in made] == stamps, "what exists is left"
    (rest,) = write_held_out(tmp_path / "film.mp4", tmp_path / "rest", held_out=((1.0, 2.0),))
    assert np.array_equal(Video(rest).read(range(8)), frames[8:16])
