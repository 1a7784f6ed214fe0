"""What a video is; and every way to be none raises one line that names the file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import av
import numpy as np
import pytest

from longvie.media import VideoError, probe_video, resampled, write_image
from tests.longvie.media.clips import copy_stream, encode, numbered, sound_only

COUNT = 40


def decode_all(path: Path) -> int:
    return sum(map(len, resampled(path, fps=24, height=32, width=48)))


def test_what_a_video_is(tmp_path: Path) -> None:
    info = probe_video(encode(tmp_path / "a.mp4", range(COUNT), fps=30000 / 1001, audio=True))
    assert (info.num_frames, info.height, info.width, info.codec) == (COUNT, 64, 96, "h264")
    assert (info.rotation, info.bit_depth, info.has_audio, info.variable) == (0, 8, True, False)
    assert info.fps == pytest.approx(30000 / 1001, abs=1e-9)
    assert info.duration == pytest.approx(COUNT * 1001 / 30000, abs=1e-9)
    deep = probe_video(encode(tmp_path / "b.mkv", range(COUNT), codec="libx265", pixel_format="yuv420p10le"))
    assert (deep.codec, deep.bit_depth, deep.has_audio, deep.fps) == ("hevc", 10, False, 24)
    times = [i * 40 + (i % 5) ** 2 for i in range(COUNT)]
    varies = probe_video(encode(tmp_path / "c.mp4", range(COUNT), milliseconds=times))
    assert varies.variable
    assert probe_video(encode(tmp_path / "d.webm", range(COUNT), codec="libvpx-vp9", fps=30)).fps == 30


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", range(COUNT)).rename(tmp_path / "a.txt")
    assert probe_video(tmp_path / "a.txt").num_frames == COUNT


def test_cover_art_is_no_video_and_one_frame_is_one(tmp_path: Path) -> None:
    assert probe_video(encode(tmp_path / "one.mp4", [7])).num_frames == 1
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as output:
        sound_only(tmp_path / "plain.m4a")
        with av.open(str(tmp_path / "plain.m4a")) as plain:
            stream = output.add_stream_from_template(plain.streams.audio[0])
            cover = output.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = 64, 96, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            for packet in plain.demux(plain.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
            output.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1), format="rgb24")))
            output.mux(cover.encode(None))
    with pytest.raises(VideoError, match=r"song\.m4a has no video, only audio"):
        probe_video(tmp_path / "song.m4a")


def broken(tmp_path: Path, kind: str) -> Path:
    good = encode(tmp_path / "good.mp4", range(COUNT), options={"g": "12"}, audio=True)
    data = good.read_bytes()
    path = tmp_path / "broken.mp4"
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "text":
        path.write_text("hello\n" * 100)
    elif kind == "playlist":
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{good}\n#EXT-X-ENDLIST\n")
    elif kind == "file list":
        path.write_text("ffconcat version 1.0\nfile good.mp4\n")
    elif kind == "picture":
        write_image(path, numbered(1))
    elif kind == "only audio":
        sound_only(path)
    elif kind == "header only":
        path.write_bytes(data[:200])
    elif kind == "directory":
        path.mkdir()
    elif kind == "permission denied":
        if os.geteuid() == 0:
            pytest.skip("root may read every file")
        path.write_bytes(data)
        path.chmod(0)
    elif kind == "truncated at its end":
        # the index lies at the front, and frames are missing
        with av.open(str(good)) as opened, av.open(str(path), "w", options={"movflags": "+faststart"}) as output:
            stream = output.add_stream_from_template(opened.streams.video[0])
            for packet in opened.demux(opened.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    elif kind == "truncated Matroska":
        copy_stream(good, path, container="matroska")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    return path


KINDS = [
    *("zero bytes", "garbage", "text", "playlist", "file list", "picture", "only audio", "header only", "directory"),
    *("missing", "permission denied", "truncated at its end", "truncated Matroska"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_name_themselves(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    for read in (probe_video, decode_all):
        with pytest.raises(VideoError, match=r"broken\.mp4") as raised:
            read(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_damage_in_the_middle_raises(tmp_path: Path, codec: str, container: str) -> None:
    """The last third of a file, overwritten: never a shorter or a painted-over video, never another error."""
    path = encode(
        tmp_path / f"a.{container}", range(COUNT), codec=codec, options={"g": "1"} if codec == "mpeg4" else None
    )
    with av.open(str(path)) as opened:
        places = [p.pos for p in opened.demux(video=0) if p.pos is not None and p.size > 40]
    data = bytearray(path.read_bytes())
    for place in places[len(places) // 2 :: 3]:
        data[place + 12 : place + 40] = np.random.default_rng(place).bytes(28)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=rf"a\.{container}"):
        decode_all(path)


@pytest.mark.parametrize("flips", [1, 30])
def test_flipped_bits_never_raise_anything_else(tmp_path: Path, flips: int) -> None:
    """Few flips may decode as something valid; whatever happens, it is a video or a `VideoError`, at once."""
    refused = 0
    for name, how in (("a.mp4", {}), ("a.mkv", {}), ("a.ts", {}), ("b.webm", {"codec": "libvpx-vp9"})):
        data = encode(tmp_path / name, range(20), **how).read_bytes()
        for seed in range(12):
            flipped, where = bytearray(data), random.Random(f"{name}{seed}")
            for _ in range(flips):
                flipped[where.randrange(len(data))] ^= 1 << where.randrange(8)
            path = tmp_path / f"flipped{seed}{Path(name).suffix}"
            path.write_bytes(flipped)
            try:
                decode_all(path)
            except VideoError as error:
                refused += path.name in str(error)
    assert refused >= (40 if flips == 30 else 1)
