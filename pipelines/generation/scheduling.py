"""Many long videos over workers that may die: who makes what next, and what happens when something fails.

Longest video first; a video stays on its worker; after a failure it goes on, anywhere, from its last commit. It knows
Ray's ways of failing, and nothing of frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.errors import first_line, storage_errors
from pipelines.generation.commits import CommitError
from pipelines.generation.continuation import Continuation
from pipelines.generation.worker import Progress
from pipelines.progress import Report

_TICK_SECONDS = 0.2  # how often progress is asked for
_STRANDED_SECONDS = 30.0  # how long no worker at all may find a place after nodes were lost


@dataclass(kw_only=True)
class Outcome:
    """What became of one video."""

    video_id: str
    uri: str
    status: str  # "done", "failed" or "up to date"
    num_segments: int
    made: int = 0  # segments made by this run
    error: str | None = None


@dataclass(kw_only=True)
class _Video:
    state: Continuation
    job: Any  # the job in the object store, a few KB, sent once
    next: int
    outcome: Outcome
    failures: int = 0  # in a row, at the same segment
    not_before: float = 0.0

    @property
    def left(self) -> int:
        return self.state.job.num_segments - self.next


@dataclass(kw_only=True, eq=False)
class _Worker:
    actor: Any
    call: Any = None  # the reply it owes
    video: _Video | None = None
    ready: bool = False
    watch: Any = field(default=None)


class Scheduler:
    """Runs to the end: every video is done or failed when `run` returns.

    Args:
        start: starts one more worker, an actor of `GeneratorWorker`.
        num_workers: at most so many at once.
        max_retries: failures in a row at one segment (or in starting workers) before giving up.
        placeable: whether the cluster has a place for a worker at all.
    """

    def __init__(
        self,
        videos: Sequence[Continuation],
        start: Callable[[], Any],
        num_workers: int,
        max_retries: int,
        report: Report,
        placeable: Callable[[], bool],
    ) -> None:
        self._start = start
        self._num_workers = num_workers
        self._max_retries = max_retries
        self._report = report
        self._placeable = placeable
        self._workers: list[_Worker] = []
        self._barren = 0  # workers in a row that never became ready
        self._last_place = time.monotonic()
        self._videos = [
            _Video(
                state=state,
                job=ray.put(state.job),
                next=len(state.commits),
                outcome=Outcome(
                    video_id=state.job.video_id,
                    uri=state.store.uri,
                    status="running",
                    num_segments=state.job.num_segments,
                ),
            )
            for state in videos
        ]
        self._waiting = sorted(self._videos, key=lambda video: -video.left)

    def run(self) -> list[Outcome]:
        try:
            while open_videos := sum(video.outcome.status == "running" for video in self._videos):
                while len(self._workers) < min(self._num_workers, open_videos):
                    self._hire()
                self._assign()
                calls = {worker.call: worker for worker in self._workers if worker.call is not None}
                replied = ray.wait(list(calls), timeout=_TICK_SECONDS)[0] if calls else time.sleep(_TICK_SECONDS)
                for call in replied or ():
                    self._reply(calls[call], call)
                self._watch()
                self._check_stranded()
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)
        return [video.outcome for video in self._videos]

    def _hire(self) -> None:
        worker = _Worker(actor=self._start())
        worker.call = worker.actor.setup.remote(self._videos[0].outcome.video_id)
        self._workers.append(worker)

    def _assign(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.ready and worker.call is None:
                video = next((video for video in self._waiting if video.not_before <= now), None)
                if video is None:
                    return
                self._waiting.remove(video)
                worker.video = video
                self._go_on(worker, video)

    def _go_on(self, worker: _Worker, video: _Video) -> None:
        if video.left:
            worker.call = worker.actor.make_segment.remote(video.job, video.next)
        else:
            worker.call = worker.actor.finish.remote(video.job, video.state.manifest)

    def _reply(self, worker: _Worker, call: Any) -> None:
        worker.call = None
        try:
            value = ray.get(call)
        except RayTaskError as error:  # the worker lives; what it ran raised
            cause = error.cause if isinstance(error.cause, Exception) else error
            if worker.video is None:
                self._dismiss(worker, str(cause), fatal=isinstance(cause, ValueError))
                return
            if not isinstance(cause, (ValueError, CommitError, *storage_errors())):
                self._dismiss(worker, str(cause))  # after an error on a GPU the process is of no more use
            self._stumble(worker, cause, fatal=isinstance(cause, ValueError))
        except RayError as error:  # the worker is gone, or as good as gone
            self._dismiss(worker, first_line(error))
            if worker.video is not None:
                self._stumble(worker, RuntimeError(f"its worker died ({first_line(error)})"))
        else:
            self._advance(worker, value)

    def _advance(self, worker: _Worker, value: Any) -> None:
        video = worker.video
        if video is None:
            worker.ready = True
            self._barren = 0
            self._report("worker", **value)
            return
        video.failures = 0
        if video.left:
            commit, video.next = value, video.next + 1
            video.outcome.made += 1
            self._report(
                "segment",
                video_id=video.outcome.video_id,
                segment=commit.index,
                num_segments=video.outcome.num_segments,
                num_frames=commit.num_frames,
                seconds=commit.seconds,
                write_seconds=commit.write_seconds,
                worker=commit.worker,
            )
            self._go_on(worker, video)
        else:
            worker.video = None
            self._close(video, "done")

    def _stumble(self, worker: _Worker, error: Exception, fatal: bool = False) -> None:
        """A video failed on a worker: it waits, first in the queue, or is given up."""
        video, worker.video = worker.video, None
        assert video is not None
        video.failures += 1
        reason = f"segment {video.next}: {type(error).__name__}: {first_line(error)}"
        if fatal or video.failures > self._max_retries:
            self._close(video, "failed", reason)
            return
        self._report(
            "retry", video_id=video.outcome.video_id, segment=video.next, failures=video.failures, error=reason
        )
        try:
            video.next = len(video.state.store.commits(video.state.job.links))
        except storage_errors():
            pass  # storage is what failed; the worker will look again before it makes anything
        video.not_before = time.monotonic() + 0.25 * 2**video.failures
        self._waiting.insert(0, video)

    def _dismiss(self, worker: _Worker, reason: str, fatal: bool = False) -> None:
        self._workers.remove(worker)
        ray.kill(worker.actor)
        if worker.ready:
            self._report("worker lost", error=reason)
            return
        self._barren += 1
        self._report("worker failed", error=reason)
        if fatal or self._barren > self._max_retries:
            self._give_up(f"no worker could start: {reason}")

    def _give_up(self, reason: str) -> None:
        for video in [video for video in self._videos if video.outcome.status == "running"]:
            self._close(video, "failed", reason)
        self._waiting.clear()

    def _close(self, video: _Video, status: str, error: str | None = None) -> None:
        video.outcome.status, video.outcome.error = status, error
        if error is not None:
            try:
                video.state.store.write_manifest({**video.state.manifest, "status": status, "error": error})
            except storage_errors() as failure:
                self._report("retry", video_id=video.outcome.video_id, error=f"its manifest: {first_line(failure)}")
        self._report("video", video_id=video.outcome.video_id, status=status, error=error, uri=video.outcome.uri)

    def _watch(self) -> None:
        """Pass on where workers are. A slow answer is left for a later round; a dead worker's is not waited for."""
        for worker in self._workers:
            if worker.watch is not None:
                if not ray.wait([worker.watch], timeout=0)[0]:
                    continue
                try:
                    at: Progress | None = cast(Any, ray.get(worker.watch))
                except RayError:
                    at = None
                worker.watch = None
                video = worker.video  # the answer may be late: of a segment that is done
                if at is not None and video and (at.video_id, at.segment) == (video.outcome.video_id, video.next):
                    self._report("step", video_id=at.video_id, segment=at.segment, step=at.step, num_steps=at.num_steps)
            if worker.video is not None and worker.call is not None:
                worker.watch = worker.actor.progress.options(concurrency_group="watch").remote()

    def _check_stranded(self) -> None:
        """Nodes can go for good while workers wait for a place; that must not become a hang."""
        now = time.monotonic()
        if now - self._last_place < 1.0 and not any(worker.ready for worker in self._workers):
            return
        if any(worker.ready for worker in self._workers) or self._placeable():
            self._last_place = now
        elif now - self._last_place > _STRANDED_SECONDS:
            self._give_up("the cluster has no node left with a place for a worker")
