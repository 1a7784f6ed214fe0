"""The clients' side of the store: every method is one transaction, and a job is recorded before its id is returned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from serve.store.database import Database
from serve.store.tables import (
    boots,
    events,
    idempotency,
    inputs,
    jobs,
    segments,
    totals,
    trash,
    workers,
)

TERMINAL = ("completed", "failed")
CANCELLED = "cancelled"  # the error code of a job that its owner stopped
ORPHAN_SECONDS = 3600.0  # after which uploads whose job was never recorded are removed


class QueueFull(RuntimeError):
    """As many jobs wait as may."""


class Conflict(RuntimeError):
    """An idempotency key came again with another request."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be recorded; `request` is all that the engine needs to make it, but for files.

    Args:
        inputs: content of small files, by their names.
    """

    id: str
    owner: str
    request: Mapping[str, Any]
    num_segments: int
    num_steps: int
    owner_concurrency: int | None = None
    priority: int = 0
    inputs: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A job to be recorded, if as many do not wait already, and once for each idempotency key of an owner."""

    new: NewJob
    queue_limit: int | None = None
    key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is. Times are Unix seconds."""

    number: int
    id: str
    owner: str
    owner_concurrency: int | None
    priority: int
    status: str
    request: dict[str, Any] = field(repr=False)
    num_segments: int
    segments_done: int
    step: int
    num_steps: int
    stage: str | None
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    error_code: str | None
    error_message: str | None
    video: dict[str, Any] | None
    cancel_requested: bool
    token: int
    worker: str | None
    lease_until: float | None
    failures: int

    @property
    def progress(self) -> int:
        """Percent, of denoising steps; 100 only when the video is there."""
        if self.status == "completed":
            return 100
        done = self.segments_done * self.num_steps + min(self.step, self.num_steps)
        return min(99, 100 * done // max(1, self.num_segments * self.num_steps))


class JobStore:
    """What clients and the janitor do."""

    def __init__(
        self, url: str, retention_seconds: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = Database(url)
        self.retention_seconds = retention_seconds  # that a job is kept once it ended; None: for ever
        self.clock = clock
        self.local = self.database.local

    def create(
        self, new: NewJob, *, queue_limit: int | None = None, key: str | None = None, fingerprint: str = ""
    ) -> Job:
        """Record a job, or return the one that this idempotency key already made.

        Raises:
            QueueFull, Conflict: nothing was recorded.
        """
        entry = Entry(new=new, queue_limit=queue_limit, key=key, fingerprint=fingerprint)
        try:
            with self.database.write() as tx:
                return self._create(tx, entry)
        except IntegrityError:  # two requests with one key at the same moment: the other was first
            if key is None:
                raise
            with self.database.write() as tx:
                return self._create(tx, entry)

    def create_at_once(self, entries: Sequence[Entry]) -> list[Job | QueueFull | Conflict]:
        """Of each entry what `create` returns or raises, in one transaction, whose commit they share.

        Raises:
            Busy: another writes, and SQLite would have to wait; nothing was recorded.
        """

        def made(tx: sa.Connection, entry: Entry) -> Job | QueueFull | Conflict:
            try:
                return self._create(tx, entry)
            except (QueueFull, Conflict) as error:  # raised before anything is written
                return error

        with self.database.write(wait=False) as tx:
            return [made(tx, entry) for entry in entries]

    def _create(self, tx: sa.Connection, entry: Entry) -> Job:
        new, key = entry.new, entry.key
        if key is not None and (known := find_key(tx, new.owner, key, entry.fingerprint)) is not None:
            return known
        if entry.queue_limit is not None and (tx.scalar(_QUEUED) or 0) >= entry.queue_limit:
            raise QueueFull
        row = {**_UNTOUCHED, **vars(new), "created_at": self.clock()}
        files = row.pop("inputs")
        made = tx.execute(_NEW_JOB, row).inserted_primary_key
        assert made is not None
        if key is not None:
            tx.execute(
                idempotency.insert().values(owner=new.owner, key=key, job_id=new.id, fingerprint=entry.fingerprint)
            )
        if files:
            tx.execute(_NEW_INPUT, [{"job_id": new.id, "name": name, "content": part} for name, part in files.items()])
        return Job(number=made.number, video=None, **row)

    def known_key(self, owner: str, key: str, fingerprint: str) -> Job | None:
        """The job that an idempotency key made, before anything is uploaded for it again."""
        with self.database.snapshot() as tx:
            return find_key(tx, owner, key, fingerprint)

    def waiting(self) -> int:
        with self.database.read() as tx:
            return tx.scalar(_QUEUED) or 0

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """A job, of that owner if one is named."""
        with self.database.read() as tx:
            return find(tx, job_id, owner)

    def by_content(self, owner: str, sha256: str) -> Job | None:
        """The last finished job of an owner whose video has these bytes."""
        query = sa.select(jobs).where(jobs.c.owner == owner, jobs.c.status == "completed")
        query = query.where(jobs.c.video["sha256"].as_string() == sha256).order_by(jobs.c.number.desc()).limit(1)
        with self.database.read() as tx:
            row = tx.execute(query).first()
            return None if row is None else _job(row)

    def list(self, owner: str, *, after: str | None = None, limit: int = 20, newest_first: bool = True) -> list[Job]:
        """Jobs in the order of creation, from the one after `after` on. `KeyError` if that one is not theirs."""
        with self.database.snapshot() as tx:
            query = sa.select(jobs).where(jobs.c.owner == owner)
            if after is not None:
                cursor = find(tx, after, owner)
                if cursor is None:
                    raise KeyError(after)
                number = jobs.c.number
                query = query.where(number < cursor.number if newest_first else number > cursor.number)
            order = jobs.c.number.desc() if newest_first else jobs.c.number.asc()
            return [_job(row) for row in tx.execute(query.order_by(order).limit(limit))]

    def cancel(self, job_id: str, owner: str) -> Job | None:
        """Stop a job: at once if it waits, within a denoising step if an engine is at it; no change once it ended."""
        with self.database.write() as tx:
            job = find(tx, job_id, owner, lock=True)
            if job is None:
                return None
            if job.status == "queued":
                error = (CANCELLED, "cancelled before it began")
                end(tx, job, "failed", self.clock(), retention=self.retention_seconds, error=error)
            elif job.status == "in_progress":
                tx.execute(jobs.update().where(jobs.c.id == job_id).values(cancel_requested=True))
            return one(tx, job_id)

    def delete(self, job_id: str, owner: str | None = None) -> bool:
        """Forget a job, everything said of it, and (by the janitor) its files; false if there is none.

        Its engine, if one is at it, loses the lease, and may write files until it notices: the janitor comes again.
        """
        with self.database.write() as tx:
            job = find(tx, job_id, owner, lock=True)
            if job is None:
                return False
            for table in (segments, events, idempotency, inputs):
                tx.execute(table.delete().where(table.c.job_id == job_id))
            tx.execute(jobs.delete().where(jobs.c.id == job_id))
            put_in_trash(tx, job_id, max(self.clock(), job.lease_until or 0))
            add_total(tx, "jobs_deleted", 1)
            return True

    def events(self, job_id: str, after: int = -1) -> list[tuple[int, str, dict[str, Any]]]:
        """What happened to a job, in order, from the event after number `after` on; number 0: it was recorded."""
        with self.database.snapshot() as tx:
            rows = tx.execute(
                sa.select(events.c.number, events.c.type, events.c.data)
                .where(events.c.job_id == job_id, events.c.number > max(after, 0))
                .order_by(events.c.number)
            )
            found = [(row.number, row.type, row.data) for row in rows]
            if after < 0 and find(tx, job_id) is not None:
                found.insert(0, (0, "state", {"status": "queued"}))
            return found

    def inputs(self, job_id: str) -> dict[str, bytes]:
        """The small files that came with a job."""
        with self.database.read() as tx:
            return {row.name: row.content for row in tx.execute(sa.select(inputs).where(inputs.c.job_id == job_id))}

    def segments(self, job_id: str) -> list[tuple[int, float, int]]:
        """Frames, seconds of making and bytes of each segment that exists."""
        with self.database.snapshot() as tx:
            rows = tx.execute(sa.select(segments).where(segments.c.job_id == job_id).order_by(segments.c["index"]))
            return [(row.num_frames, row.seconds, row.bytes) for row in rows]

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self.database.snapshot() as tx:
            found = tx.execute(sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status))
            return {"queued": 0, "in_progress": 0, "completed": 0, "failed": 0, **{row[0]: row[1] for row in found}}

    def totals(self) -> dict[str, float]:
        with self.database.snapshot() as tx:
            found = {row.name: row.value for row in tx.execute(sa.select(totals).order_by(totals.c.name))}
            there = tx.scalar(sa.select(sa.func.count()).select_from(jobs)) or 0
            return {**found, "jobs_created": there + found["jobs_deleted"]}

    # the janitor's and the keeper's

    def expect_files(self, job_ids: Sequence[str]) -> None:
        """Before new jobs' uploads are stored: of those that are never recorded, the janitor removes them."""
        not_before = self.clock() + ORPHAN_SECONDS
        with self.database.write() as tx:
            tx.execute(trash.insert(), [{"job_id": job_id, "not_before": not_before} for job_id in job_ids])

    def discard(self, job_id: str) -> None:
        """A job was refused after its uploads were stored: they may go now."""
        with self.database.write() as tx:
            if find(tx, job_id) is None:
                put_in_trash(tx, job_id, self.clock())

    def expired(self) -> Sequence[str]:
        """Jobs that ended and were kept as long as promised."""
        with self.database.snapshot() as tx:
            return list(tx.scalars(sa.select(jobs.c.id).where(jobs.c.expires_at <= self.clock())))

    def trash(self) -> Sequence[str]:
        """Whose files can go now: of jobs that were deleted, or never recorded."""
        recorded = sa.select(jobs.c.id).where(jobs.c.id == trash.c.job_id).exists()
        with self.database.write() as tx:
            due = trash.c.not_before <= self.clock()
            tx.execute(trash.delete().where(due, recorded))  # expected once, and it came
            return list(tx.scalars(sa.select(trash.c.job_id).where(due)))

    def forget_trash(self, job_id: str) -> None:
        with self.database.write() as tx:
            tx.execute(trash.delete().where(trash.c.job_id == job_id))

    def num_workable(self) -> int:
        """Jobs that an engine is at, or could be."""
        with self.database.snapshot() as tx:
            open_jobs = sa.select(sa.func.count()).where(jobs.c.status.in_(("queued", "in_progress")))
            return tx.scalar(open_jobs) or 0

    def set_draining(self, boot: str, draining: bool) -> None:
        """From now on, engines of this start of the server take no job, and release theirs after its segment."""
        with self.database.write() as tx:
            tx.execute(boots.delete().where(boots.c.boot == boot))
            tx.execute(boots.insert().values(boot=boot, draining=draining))

    def num_at_work(self) -> int:
        """Jobs that an engine holds now."""
        with self.database.snapshot() as tx:
            held = (jobs.c.status == "in_progress") & (jobs.c.lease_until >= self.clock())
            return tx.scalar(sa.select(sa.func.count()).where(held)) or 0

    def num_workers(self, boot: str, within_seconds: float) -> int:
        """Engines of this start that hold the model and were alive so many seconds ago."""
        with self.database.snapshot() as tx:
            alive = (workers.c.boot == boot) & (workers.c.seen_at >= self.clock() - within_seconds)
            return tx.scalar(sa.select(sa.func.count()).where(alive)) or 0


# What every request needs, compiled once
_QUEUED = sa.select(sa.func.count()).where(jobs.c.status == "queued")
_NEW_JOB, _NEW_INPUT, _NEW_EVENT = jobs.insert(), inputs.insert(), events.insert()
_ADD_TOTAL = (
    totals.update().where(totals.c.name == sa.bindparam("of")).values(value=totals.c.value + sa.bindparam("more"))
)
_LAST_EVENT = sa.select(sa.func.max(events.c.number)).where(events.c.job_id == sa.bindparam("of"))
_UNTOUCHED: Mapping[str, Any] = {  # of a job that nobody has worked at
    "status": "queued",
    **dict.fromkeys(("segments_done", "step", "token", "failures"), 0),
    **dict.fromkeys(("stage", "started_at", "completed_at", "expires_at", "error_code", "error_message")),
    **dict.fromkeys(("worker", "lease_until")),
    "cancel_requested": False,
}
_BY_ID = sa.select(jobs).where(jobs.c.id == sa.bindparam("job_id"))
_OWN = _BY_ID.where(jobs.c.owner == sa.bindparam("owner"))


def find(tx: sa.Connection, job_id: str, owner: str | None = None, lock: bool = False) -> Job | None:
    query = _BY_ID if owner is None else _OWN
    named = {"job_id": job_id} if owner is None else {"job_id": job_id, "owner": owner}
    row = tx.execute(query.with_for_update() if lock else query, named).first()
    return None if row is None else _job(row)


def one(tx: sa.Connection, job_id: str) -> Job:
    return _job(tx.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())


def find_key(tx: sa.Connection, owner: str, key: str, fingerprint: str) -> Job | None:
    row = tx.execute(sa.select(idempotency).where(idempotency.c.owner == owner, idempotency.c.key == key)).first()
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise Conflict
    return find(tx, row.job_id)


def end(
    tx: sa.Connection,
    job: Job,
    status: str,
    now: float,
    *,
    retention: float | None = None,
    error: tuple[str, str] | None = None,
    video: Mapping[str, Any] | None = None,
) -> None:
    """A job's last change of state; its lease is over."""
    tx.execute(
        jobs.update()
        .where(jobs.c.id == job.id)
        .values(
            status=status,
            completed_at=now,
            expires_at=None if retention is None else now + retention,
            error_code=error[0] if error else None,
            error_message=error[1] if error else None,
            video=dict(video) if video else None,
            stage=None,
            worker=None,
            lease_until=None,
            step=0 if video else job.step,
        )
    )
    said = {"status": status, **({"error": {"code": error[0], "message": error[1]}} if error else {})}
    append_event(tx, job.id, "state", said)
    add_total(tx, f"jobs_{status}" if error is None or error[0] != CANCELLED else "jobs_cancelled", 1)


def append_event(tx: sa.Connection, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
    number = (tx.scalar(_LAST_EVENT, {"of": job_id}) or 0) + 1  # 0 is the job's own row
    tx.execute(_NEW_EVENT, {"job_id": job_id, "number": number, "type": kind, "data": dict(data)})


def add_total(tx: sa.Connection, name: str, value: float) -> None:
    tx.execute(_ADD_TOTAL, {"of": name, "more": value})


def put_in_trash(tx: sa.Connection, job_id: str, not_before: float) -> None:
    tx.execute(trash.delete().where(trash.c.job_id == job_id))
    tx.execute(trash.insert().values(job_id=job_id, not_before=not_before))


def _job(row: Any) -> Job:
    return Job(**row._mapping)
