"""The clients' side of the store: every method is one transaction, and a job is recorded before its id is returned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from serve.store.database import Database
from serve.store.records import Conflict, Entry, Job, NewJob, QueueFull
from serve.store.rows import CANCELLED, add_total, create, end, find, find_key, job_of, num_queued, one, put_in_trash
from serve.store.tables import boots, events, idempotency, inputs, jobs, segments, totals, trash, workers

ORPHAN_SECONDS = 3600.0  # after which uploads whose job was never recorded are removed


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
                return create(tx, entry, self.clock())
        except IntegrityError:  # two requests with one key at the same moment: the other was first
            if key is None:
                raise
            with self.database.write() as tx:
                return create(tx, entry, self.clock())

    def create_at_once(self, entries: Sequence[Entry]) -> list[Job | QueueFull | Conflict]:
        """Of each entry what `create` returns or raises, in one transaction, whose commit they share.

        Raises:
            Busy: another writes, and SQLite would have to wait; nothing was recorded.
        """

        def made(tx: sa.Connection, entry: Entry) -> Job | QueueFull | Conflict:
            try:
                return create(tx, entry, self.clock())
            except (QueueFull, Conflict) as error:  # raised before anything is written
                return error

        with self.database.write(wait=False) as tx:
            return [made(tx, entry) for entry in entries]

    def known_key(self, owner: str, key: str, fingerprint: str) -> Job | None:
        """The job that an idempotency key made, before anything is uploaded for it again."""
        with self.database.snapshot() as tx:
            return find_key(tx, owner, key, fingerprint)

    def waiting(self) -> int:
        with self.database.read() as tx:
            return num_queued(tx)

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
            return None if row is None else job_of(row)

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
            return [job_of(row) for row in tx.execute(query.order_by(order).limit(limit))]

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
