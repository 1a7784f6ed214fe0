"""What is written: what a model sees is what was written, equal frames are equal bytes, joins re-encode nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import decord
import numpy as np
import pytest

from longvie.controls.render import render_tracks, uniform_grid
from longvie.media import CONTROL, GREY, VIDEO, Codec, Video, VideoError, join_videos, write_video

HEIGHT, WIDTH = 96, 176


def depth(count: int) -> np.ndarray:
    """Grey slopes and edges that move, over all values 0..255."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [128 + 90 * np.sin(x / 20 + t / 9) + 60 * np.cos(y / 15 - t / 7) + 50 * (x > 80 + t) for t in range(count)]
    return np.repeat(np.clip(waves, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def tracks(count: int) -> np.ndarray:
    """Saturated rectangles on black, as the released weights expect them."""
    grid = uniform_grid(HEIGHT, WIDTH, 12, 16)
    moved = grid[None] + np.arange(count)[:, None, None] * np.sin(grid[None] / 30)
    near = np.random.default_rng(0).uniform(1, 9, len(grid))
    return render_tracks(moved, np.ones(moved.shape[:2], bool), near, HEIGHT, WIDTH)


@pytest.mark.parametrize(("codec", "frames"), [(CONTROL, tracks(20)), (CONTROL, depth(20)), (GREY, depth(20))])
def test_controls_are_seen_as_they_were_written(tmp_path: Path, codec: Codec, frames: np.ndarray) -> None:
    """Promised is a mean absolute error of 1/255 in every frame; both decoders give 0."""
    write_video(tmp_path / "a.mp4", frames, 16, codec=codec)
    by_pyav = np.stack(list(Video(tmp_path / "a.mp4").frames(range(len(frames)))))
    by_decord = decord.VideoReader(str(tmp_path / "a.mp4"), num_threads=1).get_batch(range(len(frames))).asnumpy()
    for read in (by_pyav, by_decord):
        assert np.abs(read.astype(int) - frames).mean(axis=(1, 2, 3)).max() <= 1
        assert (read == frames).all()


def test_the_video_codec_does_not_keep_that_promise_for_tracks(tmp_path: Path) -> None:
    """Why controls have a codec of their own."""
    frames = tracks(10)
    write_video(tmp_path / "a.mp4", frames, 16, codec=VIDEO)
    read = Video(tmp_path / "a.mp4").read(range(10))
    assert np.abs(read.astype(int) - frames).mean() > 1


@pytest.mark.parametrize(("codec", "frames"), [(CONTROL, tracks(8)), (GREY, depth(8))])
def test_equal_frames_give_equal_bytes(tmp_path: Path, codec: Codec, frames: np.ndarray) -> None:
    hashes, path = set(), tmp_path / "a.mp4"
    random = np.random.default_rng(0)
    held: list[bytes] = []
    for attempt in range(30):  # 1000 were run when the codec was chosen
        write_video(path, np.array_split(frames, 1 + attempt % 4), 16, codec=codec)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
        held = [*held[-20:], random.bytes(int(random.integers(1_000, 200_000)))]
    assert len(hashes) == 1


def test_controls_join_without_loss(tmp_path: Path) -> None:
    frames = tracks(12)
    for part in range(3):
        write_video(tmp_path / f"{part}.mp4", frames[part * 4 : part * 4 + 4], 16, codec=CONTROL)
    join_videos([tmp_path / f"{part}.mp4" for part in range(3)], tmp_path / "all.mp4")
    assert (Video(tmp_path / "all.mp4").read(range(12)) == frames).all()


def test_grey_refuses_colours_and_colour_takes_any_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4: the frames have colours; write them with CONTROL"):
        write_video(tmp_path / "a.mp4", tracks(1), 16, codec=GREY)
    odd = tracks(3)[:, :31, :45]
    write_video(tmp_path / "b.mp4", odd, 16, codec=CONTROL)
    assert (Video(tmp_path / "b.mp4").read(range(3)) == odd).all()
    for codec in (VIDEO, GREY):
        with pytest.raises(VideoError, match=r"45x31 is odd; H\.264 needs even sides"):
            write_video(tmp_path / "c.mp4", depth(1)[:, :31, :45], 16, codec=codec)
