"""The engines' side of the store. Whatever an engine writes is written under its lease, or not at all.

A lease is a job, a fencing token that grows with every takeover, and a time until which no other engine takes the job.
Every change compares the token within its own transaction. So a worker that slept past its lease, whose job another
has taken, changes nothing: it is told `LeaseLost`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from serve.store.database import one_at_a_time
from serve.store.jobs import JobStore
from serve.store.records import Job
from serve.store.rows import CANCELLED, add_total, append_event, end, find, one
from serve.store.tables import SECONDS_BUCKETS, boots, events, jobs, owners, segments, workers

if TYPE_CHECKING:  # it brings torch, which the door does without
    from pipelines.generation.commits import Commit


class LeaseLost(RuntimeError):
    """Another engine has the job now, or it was deleted."""


class Cancelled(RuntimeError):
    """The job's owner wants it stopped."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to work at a job."""

    job: Job
    token: int
    worker: str


class Leases:
    """What engines do.

    Args:
        seconds: a lease holds without being renewed.
        max_failures: in a row, without a segment in between, before a job is given up.
    """

    def __init__(self, store: JobStore, seconds: float, max_failures: int) -> None:
        self.store = store
        self.seconds = seconds
        self.max_failures = max_failures

    def claim(self, worker: str, boot: str = "") -> Lease | None:
        """The next job: of the highest priority; then whose owner has fewest at work, then whose turn is longest ago.

        A job whose engine fell silent is taken over. One that ended that way too often, or was cancelled meanwhile,
        is ended here.
        """
        now = self.store.clock()
        with self.store.database.write() as tx:
            one_at_a_time(tx, "claim")
            if tx.scalar(sa.select(boots.c.draining).where(boots.c.boot == boot)):
                return None
            while (job := _next(tx, now)) is not None:
                taken_over = job.status == "in_progress"
                failures = job.failures + int(taken_over)
                if job.cancel_requested:
                    self._end(tx, job, "failed", error=(CANCELLED, "cancelled"))
                    continue
                if failures > self.max_failures:
                    error = ("engine_lost", f"its engine was lost {failures} times in a row; nothing more is tried")
                    self._end(tx, job, "failed", error=error)
                    continue
                break
            else:
                return None
            tx.execute(
                jobs.update()
                .where(jobs.c.id == job.id)
                .values(
                    status="in_progress",
                    stage="preparing" if {"source", "clip"} & set(job.request.get("files", ())) else "generating",
                    started_at=job.started_at or now,
                    token=job.token + 1,
                    worker=worker,
                    lease_until=now + self.seconds,
                    failures=failures,
                    step=0,
                )
            )
            _take_turn(tx, job.owner)
            if taken_over:
                add_total(tx, "jobs_taken_over", 1)
            else:
                append_event(tx, job.id, "state", {"status": "in_progress"})
            return Lease(job=one(tx, job.id), token=job.token + 1, worker=worker)

    def renew(self, lease: Lease) -> None:
        """Keep the lease. Raises `LeaseLost`."""
        with self.store.database.write() as tx:
            self._valid(tx, lease)
            self._update(tx, lease, lease_until=self.store.clock() + self.seconds)

    def check(self, lease: Lease) -> None:
        """Raises `LeaseLost` or `Cancelled`: stop working."""
        with self.store.database.snapshot() as tx:
            job = self._holds(find(tx, lease.job.id), lease)
            if job.cancel_requested:
                raise Cancelled

    @contextmanager
    def held(self, lease: Lease, commit: Commit | None = None, gpu: bool = False) -> Iterator[None]:
        """A write within which nobody takes the job over; with `commit`, the segment is recorded in the same breath.

        Dying inside leaves the file without its row, and `reconcile` mends that; the row never comes first.
        """
        with self.store.database.write() as tx:
            job = self._valid(tx, lease)
            if job.cancel_requested:
                raise Cancelled
            yield
            if commit is not None:
                self._record(tx, lease, commit, gpu)

    def stage(self, lease: Lease, stage: str) -> None:
        """What the engine does now: `preparing` or `generating`."""
        with self.store.database.write() as tx:
            self._valid(tx, lease)
            self._update(tx, lease, stage=stage)
            append_event(tx, lease.job.id, "state", {"status": "in_progress", "stage": stage})

    def planned(self, lease: Lease, num_segments: int) -> None:
        """How many segments the job has, now that its inputs are read."""
        with self.store.database.write() as tx:
            self._valid(tx, lease)
            self._update(tx, lease, num_segments=num_segments)

    def step(self, lease: Lease, segment: int, step: int, num_steps: int, seconds: float | None = None) -> None:
        """A denoising step is done. Raises `LeaseLost` or `Cancelled`: stop here."""
        with self.store.database.write() as tx:
            job = self._valid(tx, lease)
            if job.cancel_requested:
                raise Cancelled
            self._update(tx, lease, step=step, num_steps=num_steps, lease_until=self.store.clock() + self.seconds)
            append_event(tx, lease.job.id, "step", {"segment": segment, "step": step, "num_steps": num_steps})
            if seconds is not None:
                add_total(tx, "steps", 1)
                add_total(tx, "step_seconds", seconds)
                _observe(tx, "step_seconds", seconds)

    def reconcile(self, lease: Lease, commits: Sequence[Commit]) -> None:
        """Make the rows say what the folder holds: after a death in between, or where damaged files were dropped."""
        with self.store.database.write() as tx:
            self._valid(tx, lease)
            known = list(
                tx.scalars(
                    sa.select(segments.c["index"])
                    .where(segments.c.job_id == lease.job.id)
                    .order_by(segments.c["index"])
                )
            )
            tx.execute(segments.delete().where(segments.c.job_id == lease.job.id, segments.c["index"] >= len(commits)))
            for commit in commits[len(known) :]:
                self._record(tx, lease, commit, False)
            self._update(tx, lease, segments_done=len(commits))

    def complete(self, lease: Lease, video: Mapping[str, Any]) -> None:
        """The video is there."""
        with self.store.database.write() as tx:
            self._end(tx, self._valid(tx, lease), "completed", video=video)
            add_total(tx, "bytes", float(video["bytes"]))

    def fail(self, lease: Lease, code: str, message: str) -> None:
        """Nothing but another request would help."""
        with self.store.database.write() as tx:
            self._end(tx, self._valid(tx, lease), "failed", error=(code, message))

    def cancelled(self, lease: Lease) -> None:
        """The engine has stopped, as asked."""
        self.fail(lease, CANCELLED, "cancelled")

    def release(self, lease: Lease, error: str | None = None) -> None:
        """Give the job back: another engine goes on from its last segment. With an error, one that may pass."""
        with self.store.database.write() as tx:
            job = self._valid(tx, lease)
            failures = job.failures + int(error is not None)
            if error is not None and failures > self.max_failures:
                self._end(tx, job, "failed", error=("engine_error", error))
                return
            self._update(
                tx, lease, status="queued", stage=None, worker=None, lease_until=None, step=0, failures=failures
            )
            append_event(tx, lease.job.id, "state", {"status": "queued"})

    def alive(self, worker: str, boot: str) -> bool:
        """Say that an engine with its model loaded lives; whether it should go on taking jobs."""
        now = self.store.clock()
        with self.store.database.write() as tx:
            if not tx.execute(workers.update().where(workers.c.id == worker).values(seen_at=now, boot=boot)).rowcount:
                tx.execute(workers.insert().values(id=worker, boot=boot, seen_at=now))
            tx.execute(workers.delete().where(workers.c.seen_at < now - 100 * self.seconds))
            return not tx.scalar(sa.select(boots.c.draining).where(boots.c.boot == boot))

    def _valid(self, tx: sa.Connection, lease: Lease) -> Job:
        return self._holds(find(tx, lease.job.id, lock=True), lease)

    def _holds(self, job: Job | None, lease: Lease) -> Job:
        if job is None or job.status != "in_progress" or job.token != lease.token:
            raise LeaseLost(f"{lease.worker} no longer has {lease.job.id}")
        return job

    def _update(self, tx: sa.Connection, lease: Lease, **values: Any) -> None:
        tx.execute(jobs.update().where(jobs.c.id == lease.job.id).values(**values))

    def _end(self, tx: sa.Connection, job: Job, status: str, **how: Any) -> None:
        end(tx, job, status, self.store.clock(), retention=self.store.retention_seconds, **how)

    def _record(self, tx: sa.Connection, lease: Lease, commit: Commit, gpu: bool) -> None:
        job_id = lease.job.id
        tx.execute(
            segments.insert().values(
                job_id=job_id,
                index=commit.index,
                num_frames=commit.num_frames,
                bytes=commit.video_bytes,
                seconds=commit.seconds,
                token=lease.token,
            )
        )
        self._update(tx, lease, segments_done=commit.index + 1, step=0, failures=0)
        said = {"segment": commit.index, "num_frames": commit.num_frames, "seconds": commit.seconds}
        append_event(tx, job_id, "segment", said)  # before steps go, so that no number comes twice
        # the steps of a finished segment are told by it; what is replayed stays short
        tx.execute(events.delete().where(events.c.job_id == job_id, events.c.type == "step"))
        add_total(tx, "segments", 1)
        add_total(tx, "segment_seconds", commit.seconds)
        add_total(tx, "bytes", commit.video_bytes + commit.carry_bytes)
        add_total(tx, "gpu_seconds", commit.seconds if gpu else 0.0)
        _observe(tx, "segment_seconds", commit.seconds)


def _next(tx: sa.Connection, now: float) -> Job | None:
    """The job to be worked at next, locked."""
    working = jobs.alias("working")
    at_work = (
        sa.select(sa.func.count())
        .where(working.c.owner == jobs.c.owner, working.c.status == "in_progress", working.c.lease_until >= now)
        .scalar_subquery()
    )
    turn = sa.select(owners.c.turn).where(owners.c.owner == jobs.c.owner).scalar_subquery()
    claimable = sa.or_(jobs.c.status == "queued", sa.and_(jobs.c.status == "in_progress", jobs.c.lease_until < now))
    query = (
        sa.select(jobs)
        .where(claimable, sa.or_(jobs.c.owner_concurrency.is_(None), at_work < jobs.c.owner_concurrency))
        .order_by(jobs.c.priority.desc(), at_work, sa.func.coalesce(turn, 0), jobs.c.number)
        .limit(1)
        .with_for_update(skip_locked=True, of=jobs)
    )
    row = tx.execute(query).first()
    return None if row is None else Job(**row._mapping)


def _take_turn(tx: sa.Connection, owner: str) -> None:
    turn = (tx.scalar(sa.select(sa.func.max(owners.c.turn))) or 0) + 1
    if not tx.execute(owners.update().where(owners.c.owner == owner).values(turn=turn)).rowcount:
        tx.execute(owners.insert().values(owner=owner, turn=turn))


def _observe(tx: sa.Connection, name: str, seconds: float) -> None:
    for bucket in SECONDS_BUCKETS:
        if seconds <= bucket:
            add_total(tx, f"{name}_{bucket:g}", 1)
            return
