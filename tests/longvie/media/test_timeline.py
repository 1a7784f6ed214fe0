"""The resampled timeline: at k/fps stands the frame that is shown then, whatever the batches; and memory is flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvie.media import Video, VideoError, num_resampled, probe_video, resampled, timeline
from tests.longvie.media.clips import encode, numbers_of

SMALL: Any = {"height": 32, "width": 48, "fit": "stretch"}
MEMORY = """
import json, sys
import longvie.segments, longvie.shots
from longvie.media import resampled
count = sum(map(len, resampled(sys.argv[1], fps=16, height=352, width=640, stop=int(sys.argv[2]))))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"frames": count, "peak": int(peak.split()[1]) / 1024, "torch": "torch" in sys.modules}))
"""


def measured(path: Path, frames: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(frames)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.floats(1, 120),
    st.sampled_from([0.001, 1 / 24, 1 / 90_000]),
)
def test_a_frame_is_shown_from_its_time_to_the_next_ones(gaps: list[int], fps: float, tick: float) -> None:
    ends = np.cumsum(gaps) * tick
    times = ends - np.array(gaps) * tick
    shown = timeline(times, ends[-1], fps)
    assert (np.diff(shown) >= 0).all()
    for k, frame in enumerate(shown):
        assert times[frame] <= k / fps + 2e-6
        assert frame == len(times) - 1 or k / fps < times[frame + 1]
    assert (len(shown) - 1) / fps < max(ends[-1], 1e-9)
    assert len(shown) / fps >= ends[-1] - 2e-6


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "webm"])
@pytest.mark.parametrize(("source", "to"), [(24, 16), (25, 8), (30, 60), (16, 16), (30000 / 1001, 16)])
def test_constant_rates(tmp_path: Path, container: str, source: float, to: float) -> None:
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    path = encode(
        tmp_path / f"a.{container}",
        range(50),
        fps=source,
        codec=codec,
        options={"bf": "2"} if codec == "libx264" else None,
    )
    got = numbers_of(resampled(path, fps=to, **SMALL))
    assert got == [int(k * source / to + 1e-6) for k in range(len(got))]
    assert len(got) == num_resampled(path, to) == -(-50 * to // source)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("to", [8, 16, 50])
def test_variable_rate_goes_by_timestamps(tmp_path: Path, container: str, to: int) -> None:
    gaps = [20, 20, 20, 200, 33, 33, 100, 7, 7, 500] * 4
    times = [sum(gaps[:i]) for i in range(len(gaps))]
    path = encode(tmp_path / f"a.{container}", range(40), milliseconds=times, options={"bf": "2"})
    info = probe_video(path)
    assert info.variable
    got = numbers_of(resampled(path, fps=to, **SMALL))
    assert got == [max(i for i in range(40) if times[i] <= k * 1000 / to + 1e-3) for k in range(len(got))]
    assert info.fps == pytest.approx(info.num_frames / info.duration)


def test_batches_and_parts_change_nothing(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", range(60), fps=30, options={"bf": "2", "g": "12"})
    for fps in (12, 75):
        whole = np.concatenate(list(resampled(path, fps=fps, **SMALL)))
        for batch in (1, 7, 1000):
            batches = list(resampled(path, fps=fps, batch=batch, **SMALL))
            assert max(map(len, batches)) <= batch
            assert (np.concatenate(batches) == whole).all()
        part = np.concatenate(list(resampled(path, fps=fps, start=13, stop=20, batch=3, **SMALL)))
        assert (part == whole[13:20]).all()
    with pytest.raises(VideoError, match=r"a\.mp4 has 24 frames at 12 fps; frames 20\.\.29 were asked for"):
        next(resampled(path, fps=12, start=20, stop=30, **SMALL))
    with pytest.raises(ValueError, match="fps is 0"):
        num_resampled(path, 0)


def test_memory_is_flat_and_small(tmp_path: Path) -> None:
    """4 s and 24 s of a 640x360 video peak within 5 %; 720p stays below 300 MB; torch is not imported."""
    path = encode(tmp_path / "a.mp4", range(360), codec="mpeg4", size=(360, 640), fps=15)
    short, long = (measured(path, frames)["peak"] for frames in (64, 384))
    assert long < short * 1.05
    large = measured(encode(tmp_path / "large.mp4", range(24), codec="mpeg4", size=(720, 1280)), 16)
    assert large["peak"] < 300
    assert not large["torch"]


def test_one_open_video_streams_and_jumps(tmp_path: Path) -> None:
    video = Video(encode(tmp_path / "a.mp4", range(40), options={"g": "10", "bf": "3"}))
    assert numbers_of([video.frames([3, 3, 4, 39, 0, 12])]) == [3, 3, 4, 39, 0, 12]
