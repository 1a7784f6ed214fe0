"""The commit protocol: when a segment exists, and what a long video's folder may be trusted to hold.

    <video_id>/manifest.json            what the video is made of, and how far it is; written first and last
    <video_id>/segments/00000.mp4       new frames of a segment
    <video_id>/carry/00000.safetensors  what the next segment starts from
    <video_id>/commits/00000.json       written last: from then on the segment exists
    <video_id>/video.mp4                all segments, joined

A commit counts only if its `link` is the expected one (a hash over everything that decides the segment and all before
it), if it started from the carry of the commit before, and if its files are whole. So a crash anywhere, a changed
setting or a forgotten writer can leave files behind, and none of them is ever taken for the video's.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from longvie.types import Carry, Frames, SegmentResult
from longvie.video import join_videos, probe_video, write_video
from pipelines.errors import UserError
from pipelines.hashes import sha256, sha256_file
from pipelines.storage import Storage, check_video_id

FORMAT = 1  # of the folder; a reader refuses what it does not know


class CommitError(RuntimeError):
    """Files that are not what their commits say. Those commits are gone, so that the next attempt makes them anew."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One segment that exists."""

    index: int
    start: int  # first frame of the window on the video's timeline
    num_frames: int  # new frames in the segment's file
    prompt: str
    seed: int
    link: str
    previous_carry: str | None  # SHA-256 of the carry it started from; None for the first segment
    carry: str  # SHA-256 of the files, and of the raw frames as bytes
    video: str
    frames: str
    video_bytes: int
    carry_bytes: int
    seconds: float  # to make the frames
    write_seconds: float  # to encode and write the files before this one
    worker: str  # who made it: host, process id, devices
    versions: Mapping[str, str]

    def summary(self) -> dict[str, Any]:
        """What manifest.json repeats of it."""
        return {key: value for key, value in asdict(self).items() if key not in ("prompt", "link", "versions")}


class Fence(Protocol):
    """Whether this writer may still write. It raises, whatever it likes, where another has taken the video over."""

    def check(self) -> None:
        """Before files get their names."""
        ...

    def held(self, commit: Commit | None) -> AbstractContextManager[None]:
        """Around the write that makes a segment exist, or (None) that of a manifest: no takeover falls in between."""
        ...


class NoFence:
    """For a video that has one writer by construction."""

    def check(self) -> None:
        pass

    def held(self, commit: Commit | None) -> AbstractContextManager[None]:
        return nullcontext()


class VideoStore:
    """The folder of one long video. One writer at a time makes its segments, in order."""

    def __init__(self, storage: Storage, video_id: str, fence: Fence | None = None) -> None:
        self.video_id = check_video_id(video_id)
        self._storage = storage
        self._fence: Fence = fence or NoFence()

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, or None if there is none; `UserError` if it is not ours."""
        try:
            manifest = json.loads(self._storage.read(self._name("manifest.json")))
        except FileNotFoundError:
            return None
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(
                f"{self._storage.uri}/{self._name('manifest.json')} was not written by this version of longvie; "
                "choose another --out, or begin anew with --restart"
            )
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        content = json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False).encode()
        with self._fence.held(None):
            self._storage.write(self._name("manifest.json"), content)

    def commits(self, links: Sequence[str]) -> list[Commit]:
        """The segments that exist: the longest prefix whose commits are the expected ones and whose files are there."""
        present = set(self._storage.list(self._name("commits")))
        found: list[Commit] = []
        for index, link in enumerate(links):
            commit = self._read_commit(index) if f"{index:05d}.json" in present else None
            if commit is None or commit.link != link or commit.previous_carry != (found[-1].carry if found else None):
                break
            if (
                self._storage.size(self._segment(index)) != commit.video_bytes
                or self._storage.size(self._carry(index)) != commit.carry_bytes
            ):
                break
            found.append(commit)
        return found

    def truncate(self, index: int) -> None:
        """Forget segments `index` and later, the last first, so that what remains is a prefix whenever this stops."""
        for name in reversed(self._storage.list(self._name("commits"))):
            if name >= f"{index:05d}.json":
                self._storage.delete(self._name(f"commits/{name}"))
        self._storage.delete(self._name("video.mp4"))

    def load_carry(self, commit: Commit) -> Carry:
        """What the segment after `commit` starts from."""
        data = self._storage.read(self._carry(commit.index))
        if sha256(data) != commit.carry:
            self.truncate(commit.index)
            raise CommitError(f"{self._carry(commit.index)} is not the file that was committed")
        return carry_from(data)

    def commit(self, result: SegmentResult, fps: float, **decided: Any) -> Commit:
        """Write a segment's files, then its commit. `decided`: the commit's fields that are not of the result."""
        started = time.perf_counter()
        index = result.segment.index
        self._fence.check()
        with ThreadPoolExecutor(1) as beside:  # the carry is written while the video is encoded
            carry_written = beside.submit(self._write_carry, index, result.carry)
            video = self._write_segment(index, result.frames, fps)
            carry = carry_written.result()
        commit = Commit(
            index=index,
            start=result.segment.start,
            num_frames=len(result.frames),
            carry=sha256(carry),
            video=sha256(video),
            frames=hashlib.sha256(result.frames.numpy().data).hexdigest(),
            video_bytes=len(video),
            carry_bytes=len(carry),
            seconds=round(result.seconds, 4),
            write_seconds=round(time.perf_counter() - started, 4),
            **decided,
        )
        with self._fence.held(commit):
            self._storage.write(self._name(f"commits/{index:05d}.json"), json.dumps(asdict(commit), indent=2).encode())
        return commit

    def join(self, commits: Sequence[Commit], before: Path | None = None) -> dict[str, Any]:
        """Make video.mp4 of the segments, checking each against its commit; what manifest.json says of it.

        Args:
            before: a video that these segments continue; it comes first.
        """
        with tempfile.TemporaryDirectory() as folder:
            parts = [Path(folder) / f"{commit.index:05d}.mp4" for commit in commits]
            for commit, part in zip(commits, parts, strict=True):
                self._storage.get(self._segment(commit.index), part)
                if sha256_file(part) != commit.video:
                    self.truncate(commit.index)
                    raise CommitError(f"{self._segment(commit.index)} is not the file that was committed")
            joined = Path(folder) / "video.mp4"
            join_videos([*([before] if before else []), *parts], joined)
            self._fence.check()
            self._storage.put(self._name("video.mp4"), joined)
            return {
                "sha256": sha256_file(joined),
                "bytes": joined.stat().st_size,
                "num_frames": probe_video(joined).num_frames
                if before
                else sum(commit.num_frames for commit in commits),
            }

    def has_video(self, said: Mapping[str, Any] | None) -> bool:
        """Whether the video.mp4 that the manifest speaks of is there."""
        return said is not None and self._storage.size(self._name("video.mp4")) == said["bytes"]

    @property
    def uri(self) -> str:
        return f"{self._storage.uri}/{self.video_id}"

    def _write_segment(self, index: int, frames: Frames, fps: float) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segment.mp4"
            write_video(path, frames, fps)
            data = path.read_bytes()
        self._storage.write(self._segment(index), data)
        return data

    def _write_carry(self, index: int, carry: Carry) -> bytes:
        data = carry_bytes(carry)
        self._storage.write(self._carry(index), data)
        return data

    def _read_commit(self, index: int) -> Commit | None:
        try:
            return Commit(**json.loads(self._storage.read(self._name(f"commits/{index:05d}.json"))))
        except (FileNotFoundError, ValueError, TypeError):  # not a commit of ours: the segment does not exist
            return None

    def _name(self, name: str) -> str:
        return f"{self.video_id}/{name}"

    def _segment(self, index: int) -> str:
        return self._name(f"segments/{index:05d}.mp4")

    def _carry(self, index: int) -> str:
        return self._name(f"carry/{index:05d}.safetensors")


def carry_bytes(carry: Carry) -> bytes:
    """A carry's file; equal carries give equal bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "carry.safetensors"
        carry.save(path)
        return _in_order(path.read_bytes())


def carry_from(data: bytes) -> Carry:
    """The carry that the bytes of its file hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "carry.safetensors"
        path.write_bytes(data)
        carry = Carry.load(path)
        # safetensors maps the file; copies let it go
        return Carry(
            next_index=carry.next_index,
            first_frame=carry.first_frame.clone(),
            history=carry.history.clone(),
            seed=carry.seed,
        )


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: safetensors writes metadata in an order that changes."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
