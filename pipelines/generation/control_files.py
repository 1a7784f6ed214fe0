"""Controls that lie in files: one file for the whole video, or one a segment, read only where a segment asks.

It knows where on the timeline a file lies and that its content is the one the job was planned with; codecs are
longvie/video.py's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from longvie.config import Fit
from longvie.types import ControlMaps, ControlSource, Frames, Segment
from longvie.video import VideoError, fit_frames, local_path, probe_video, read_frames
from pipelines.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ControlFile:
    """One video file of a control, as it was when the job was planned."""

    uri: str
    num_frames: int
    height: int
    width: int
    sha256: str

    @staticmethod
    def describe(uri: str) -> ControlFile:
        """Probe and hash a file. `VideoError` if it cannot be read from its first frame to its last."""
        info = probe_video(uri)
        read_frames(uri, info.num_frames - 1)
        return ControlFile(
            uri=uri, num_frames=info.num_frames, height=info.height, width=info.width, sha256=sha256_of(uri)
        )


@dataclass(frozen=True, kw_only=True)
class ControlFiles:
    """A `ControlSource` over files; of several, each starts on the last frame of the one before.

    Args:
        dense, sparse: the files in order; none where that control is absent.
        height, width, fit: what the frames are brought to.
    """

    dense: tuple[ControlFile, ...] = ()
    sparse: tuple[ControlFile, ...] = ()
    height: int
    width: int
    fit: Fit
    _checked: set[str] = field(default_factory=set, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_alike("dense", self.dense)
        _check_alike("sparse", self.sparse)
        if not (self.dense and self.sparse):
            return
        if timeline_length(self.dense) != timeline_length(self.sparse):
            raise UserError(
                f"dense ({self.dense[0].uri}, ...) has {timeline_length(self.dense)} frames and sparse "
                f"({self.sparse[0].uri}, ...) has {timeline_length(self.sparse)}; give both the same number"
            )
        shapes = [files[0].width / files[0].height for files in (self.dense, self.sparse)]
        if self.fit != "stretch" and abs(shapes[0] / shapes[1] - 1) > 0.02:
            raise UserError(
                f"dense is {self.dense[0].width}x{self.dense[0].height} and sparse is {self.sparse[0].width}x"
                f"{self.sparse[0].height}: they would not lie on each other; give both the same shape, or --fit stretch"
            )

    @property
    def num_frames(self) -> int | None:
        """Frames on the timeline; None without any control."""
        files = self.dense or self.sparse
        return timeline_length(files) if files else None

    def at(self, segment: Segment) -> ControlMaps:
        return ControlMaps(dense=self._read(self.dense, segment), sparse=self._read(self.sparse, segment))

    def _read(self, files: tuple[ControlFile, ...], segment: Segment) -> Frames | None:
        if not files:
            return None
        length = timeline_length(files)
        begin, end = segment.start, min(segment.start + segment.num_frames, length)
        pieces = []
        at = begin
        for start, file in zip(file_starts(files), files, strict=True):
            last = start + file.num_frames - 1
            # A frame that two files share is read from the earlier one, except where the segment begins with it:
            # there the later file begins too, and tracks start anew with their segment.
            if at > last or at >= end or (at == last == begin and file is not files[-1]):
                continue
            stop = min(end, last + 1)
            pieces.append(fit_frames(self._frames(file, at - start, stop - start), self.height, self.width, self.fit))
            at = stop
        frames = torch.cat(pieces)
        missing = segment.num_frames - len(frames)
        return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames

    def _frames(self, file: ControlFile, start: int, stop: int) -> Frames:
        if file.sha256 not in self._checked:
            if sha256_of(file.uri) != file.sha256:
                raise VideoError(f"{file.uri} has changed since the job was planned; run the job again")
            self._checked.add(file.sha256)
        return read_frames(file.uri, start, stop)


class ReadAhead:
    """A `ControlSource` that reads the next segment's controls while the one before is made: decoding is hidden.

    At most one segment is held ahead, so memory stays flat.
    """

    def __init__(self, source: ControlSource, segments: Sequence[Segment]) -> None:
        self._source = source
        self._segments = segments
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[int, Future[ControlMaps]] | None = None

    def at(self, segment: Segment) -> ControlMaps:
        ahead, self._next = self._next, None
        maps = ahead[1].result() if ahead is not None and ahead[0] == segment.index else self._source.at(segment)
        after = segment.index + 1
        if after < len(self._segments):
            self._next = (after, self._pool.submit(self._source.at, self._segments[after]))
        return maps

    def close(self) -> None:
        """Forget what was read ahead; no thread stays."""
        self._next = None
        self._pool.shutdown(cancel_futures=True)


def _check_alike(name: str, files: Sequence[ControlFile]) -> None:
    for file in files:
        first = files[0]
        if (file.height, file.width) != (first.height, first.width):
            raise UserError(
                f"{name}: {file.uri} is {file.width}x{file.height}, {first.uri} is {first.width}x{first.height}; "
                "give all files of a control the same size"
            )
        if len(files) > 1 and file.num_frames < 2:
            raise UserError(
                f"{name}: {file.uri} has 1 frame, so the segments do not increase; each file of several starts on the "
                "last frame of the one before and adds at least one"
            )


def file_starts(files: tuple[ControlFile, ...]) -> list[int]:
    """Where on the timeline each file starts: on the last frame of the one before."""
    starts = [0]
    for file in files[:-1]:
        starts.append(starts[-1] + file.num_frames - 1)
    return starts


def timeline_length(files: tuple[ControlFile, ...]) -> int:
    """Frames of all files, those they share counted once."""
    return sum(file.num_frames - 1 for file in files) + 1


def sha256_of(uri: str) -> str:
    """SHA-256 of a file's content, anywhere."""
    with Path(local_path(uri)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
