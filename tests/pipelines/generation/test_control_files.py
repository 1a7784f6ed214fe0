"""Controls in files are the same timeline, in one file or in many, and only what a segment needs is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pipelines.generation.control_files
from longvie.segments import plan_segments
from longvie.types import ControlMaps, Segment
from longvie.video import VideoError, read_frames, write_video
from pipelines.errors import UserError
from pipelines.generation.control_files import ControlFile, ControlFiles, ReadAhead, file_starts, timeline_length
from tests.pipelines.helpers import NUM_FRAMES, Inputs, moving


def described(inputs: Inputs, *names: str) -> tuple[ControlFile, ...]:
    return tuple(ControlFile.describe(inputs / name) for name in names)


def source(dense: tuple[ControlFile, ...] = (), sparse: tuple[ControlFile, ...] = ()) -> ControlFiles:
    return ControlFiles(dense=dense, sparse=sparse, height=32, width=48, fit="crop")


def test_one_file_is_the_controls_in_memory(inputs: Inputs) -> None:
    files = source(described(inputs, "dense.mp4"), described(inputs, "sparse.mp4"))
    assert files.num_frames == NUM_FRAMES
    whole = ControlMaps(dense=read_frames(inputs / "dense.mp4"), sparse=read_frames(inputs / "sparse.mp4"))
    for segment in plan_segments(NUM_FRAMES, 9):
        ours, theirs = files.at(segment), whole.at(segment)
        assert torch.equal(ours.dense, theirs.dense)
        assert torch.equal(ours.sparse, theirs.sparse)


def test_many_files_share_a_frame(inputs: Inputs) -> None:
    """At a seam the earlier file is read, except by the segment that begins there: tracks start anew with it."""
    parts = described(inputs, *(f"track_{i:02d}.mp4" for i in range(3)))
    assert file_starts(parts) == [0, 8, 16]
    assert timeline_length(parts) == NUM_FRAMES
    pixels = [read_frames(part.uri) for part in parts]
    files = source(sparse=parts)
    at_seam = files.at(Segment(index=1, start=8, num_frames=9, num_valid=9)).sparse
    assert torch.equal(at_seam, torch.cat([pixels[1][:9]]))
    across = files.at(Segment(index=1, start=5, num_frames=9, num_valid=9)).sparse
    assert torch.equal(across, torch.cat([pixels[0][5:9], pixels[1][1:6]]))
    over_three = files.at(Segment(index=0, start=6, num_frames=13, num_valid=13)).sparse
    assert torch.equal(over_three, torch.cat([pixels[0][6:9], pixels[1][1:9], pixels[2][1:3]]))
    last = files.at(Segment(index=3, start=24, num_frames=9, num_valid=2)).sparse
    assert torch.equal(last, torch.cat([pixels[2][8:10], pixels[2][9:10].expand(7, -1, -1, -1)]))


def test_frames_are_brought_to_size(inputs: Inputs) -> None:
    files = ControlFiles(dense=described(inputs, "dense.mp4"), height=16, width=64, fit="pad")
    assert files.at(plan_segments(NUM_FRAMES, 9)[0]).dense.shape == (9, 16, 64, 3)


def test_only_the_segments_frames_are_read(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def reading(uri: str, start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return read_frames(uri, start, stop)

    files = source(described(inputs, "dense.mp4"))
    monkeypatch.setattr(pipelines.generation.control_files, "read_frames", reading)
    files.at(plan_segments(NUM_FRAMES, 9)[2])
    assert asked == [(16, 25)]


def test_a_file_that_changes_after_planning_is_noticed(tmp_path: Path) -> None:
    write_video(tmp_path / "d.mp4", moving(9, 1), fps=8)
    files = source((ControlFile.describe(str(tmp_path / "d.mp4")),))
    write_video(tmp_path / "d.mp4", moving(9, 2), fps=8)
    with pytest.raises(VideoError, match=r"d\.mp4 has changed since the job was planned"):
        files.at(plan_segments(9, 9)[0])


def test_controls_that_do_not_go_together(inputs: Inputs, tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", moving(20, 1), fps=8)
    write_video(tmp_path / "wide.mp4", moving(NUM_FRAMES, 1, width=96), fps=8)
    write_video(tmp_path / "one.mp4", moving(1, 1), fps=8)
    other = Inputs(folder=tmp_path)
    dense = described(inputs, "dense.mp4")
    with pytest.raises(UserError, match=r"has 26 frames and sparse .* has 20; give both the same number"):
        source(dense, described(other, "short.mp4"))
    with pytest.raises(UserError, match="dense is 48x32 and sparse is 96x32: they would not lie on each other"):
        source(dense, described(other, "wide.mp4"))
    ControlFiles(dense=dense, sparse=described(other, "wide.mp4"), height=32, width=48, fit="stretch")
    with pytest.raises(UserError, match=r"one\.mp4 has 1 frame, so the segments do not increase"):
        source((*dense, *described(other, "one.mp4")))
    with pytest.raises(UserError, match=r"wide\.mp4 is 96x32, .*dense\.mp4 is 48x32"):
        source((*dense, *described(other, "wide.mp4")))


def test_a_file_that_breaks_off_is_found_when_it_is_described(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(40, 1, 64, 96), fps=8)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        ControlFile.describe(str(tmp_path / "cut.mp4"))


def test_reading_ahead_gives_the_same_in_any_order(inputs: Inputs) -> None:
    """One segment is read while the one before is made; a jump back or forth reads what was asked for."""
    files = source(described(inputs, "dense.mp4"), described(inputs, "sparse.mp4"))
    segments = plan_segments(NUM_FRAMES, 9)
    ahead = ReadAhead(files, segments)
    for index in (0, 1, 2, 3, 1, 2, 0, 3):
        maps = ahead.at(segments[index])
        assert torch.equal(maps.dense, files.at(segments[index]).dense)
        assert torch.equal(maps.sparse, files.at(segments[index]).sparse)
    ahead.close()


def test_an_error_in_what_was_read_ahead_is_that_segments_own(tmp_path: Path) -> None:
    write_video(tmp_path / "d.mp4", moving(17, 1), fps=8)
    files = source((ControlFile.describe(str(tmp_path / "d.mp4")),))
    segments = plan_segments(17, 9)
    asked = []

    class Failing:
        def at(self, segment: Segment) -> ControlMaps:
            asked.append(segment.index)
            if segment.index == 1:
                raise VideoError("gone")
            return files.at(segment)

    ahead = ReadAhead(Failing(), segments)
    assert ahead.at(segments[0]).dense is not None
    with pytest.raises(VideoError, match="gone"):
        ahead.at(segments[1])
    assert asked == [0, 1]
    ahead.close()
