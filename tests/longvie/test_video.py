"""Frames in and out of files: exact counts, equal bytes, joins without re-encoding, errors in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from longvie.video import (
    VideoError,
    fit_frames,
    join_videos,
    local_path,
    probe_video,
    read_frames,
    read_image,
    write_image,
    write_video,
)


def moving(count: int, height: int = 32, width: int = 64) -> torch.Tensor:
    """A bright square that moves one pixel a frame over a smooth ground."""
    ramp = torch.linspace(40, 120, width).expand(height, width)
    frames = ramp[None, :, :, None].repeat(count, 1, 1, 3)
    for t in range(count):
        frames[t, 8:16, t : t + 8] = 230
    return frames.to(torch.uint8)


def test_round_trip(tmp_path: Path) -> None:
    frames = moving(20)
    write_video(tmp_path / "a.mp4", frames, fps=8)
    info = probe_video(tmp_path / "a.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (20, 32, 64, 8)
    read = read_frames(tmp_path / "a.mp4")
    assert read.shape == frames.shape
    assert (read.float() - frames.float()).abs().mean() < 2
    assert torch.equal(read_frames(tmp_path / "a.mp4", 5, 9), read[5:9]), "random access is exact"


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    """However they are batched and whatever lies in memory: x264's default settings fail one time in fifty."""
    hashes, path = set(), tmp_path / "video.mp4"
    random = np.random.default_rng(0)
    held: list[bytes] = []
    for attempt in range(150):
        write_video(path, iter(moving(12).split(5)) if attempt % 2 else moving(12), fps=16)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
        held = [*held[-20:], random.bytes(int(random.integers(1_000, 200_000)))]
    assert len(hashes) == 1


def test_join_keeps_every_frame_and_streams(tmp_path: Path) -> None:
    frames = moving(25)
    parts = [tmp_path / f"{i}.mp4" for i in range(3)]
    for part, piece in zip(parts, frames.split([9, 8, 8]), strict=True):
        write_video(part, piece, fps=8)
    join_videos(parts, tmp_path / "joined.mp4")
    joined = read_frames(tmp_path / "joined.mp4")
    assert torch.equal(joined, torch.cat([read_frames(part) for part in parts])), "no frame was re-encoded"
    data = (tmp_path / "joined.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a player can start before the file is complete"
    with av.open(str(tmp_path / "joined.mp4")) as opened:
        stream = opened.streams.video[0]
        times = [frame.time for frame in opened.decode(stream)]
        assert stream.average_rate == 8
    assert times == pytest.approx([i / 8 for i in range(25)])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(24, 48), (90, 40), (31, 33)])
def test_fit(fit: str, size: tuple[int, int]) -> None:
    frames = torch.full((2, *size, 3), 200, dtype=torch.uint8)
    fitted = fit_frames(frames, 32, 48, fit)  # type: ignore[arg-type]
    assert fitted.shape == (2, 32, 48, 3)
    black = (fitted == 0).all(-1).float().mean()
    same_shape = size[0] * 48 == size[1] * 32
    assert (black > 0) == (fit == "pad" and not same_shape)
    assert set(fitted.unique().tolist()) <= {0, 200}


def test_crop_keeps_the_centre() -> None:
    frames = torch.zeros(1, 32, 96, 3, dtype=torch.uint8)
    frames[:, :, 24:72] = 100
    assert fit_frames(frames, 32, 48, "crop").min() == 100


def test_images(tmp_path: Path) -> None:
    image = moving(1)[0]
    write_image(tmp_path / "a.png", image)
    assert torch.equal(read_image(tmp_path / "a.png"), image)
    turned = PILImage.fromarray(np.array(image))
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (64, 32, 3)
    PILImage.fromarray(np.array(image)).convert("RGBA").save(tmp_path / "alpha.png")
    assert torch.equal(read_image(tmp_path / "alpha.png"), image)


def test_remote_uris(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(5), fps=8)
    with fsspec.open("memory://videos/a.mp4", "wb") as file:
        file.write((tmp_path / "a.mp4").read_bytes())
    assert torch.equal(read_frames("memory://videos/a.mp4"), read_frames(tmp_path / "a.mp4"))
    assert local_path(f"file://{tmp_path}/a.mp4") == str(tmp_path / "a.mp4")


def test_av1_is_read_by_pyav(tmp_path: Path) -> None:
    frames = moving(6, 64, 64)
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libsvtav1", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        output.mux(stream.encode(None))
    assert probe_video(tmp_path / "a.mp4").num_frames == 6
    read = read_frames(tmp_path / "a.mp4", 2, 5)
    assert read.shape == (3, 64, 64, 3)
    assert (read.float() - frames[2:5].float()).abs().mean() < 12


@pytest.mark.parametrize(
    ("name", "content"),
    [("zero.mp4", b""), ("noise.mp4", bytes(range(256)) * 40), ("text.mp4", b"hello"), ("missing.mp4", None)],
)
def test_unreadable_videos_name_the_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for read in (probe_video, read_frames):
        with pytest.raises(VideoError, match=name) as raised:
            read(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_truncated_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(40, 64, 96), fps=8)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        read_frames(tmp_path / "cut.mp4")


@pytest.mark.parametrize(
    ("uri", "message"),
    [("nosuch://x/y.mp4", "nosuch"), ("memory://absent.mp4", "does not exist"), (".", "not a file")],
)
def test_bad_uris(uri: str, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        local_path(uri)


def test_frames_out_of_range(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(5), fps=8)
    with pytest.raises(VideoError, match=r"has 5 frames; frames 3\.\.6 were asked for"):
        read_frames(tmp_path / "a.mp4", 3, 7)


def test_unreadable_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG but no")
    with pytest.raises(VideoError, match=r"a\.png is not a readable image"):
        read_image(tmp_path / "a.png")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="even sides"):
        write_video(tmp_path / "a.mp4", moving(2, 31, 33), fps=8)
    with pytest.raises(VideoError, match="no frames"):
        write_video(tmp_path / "b.mp4", iter([]), fps=8)
