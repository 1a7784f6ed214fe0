"""What is done to a job's rows within a transaction; clients' side and engines' side are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from serve.store.records import Conflict, Entry, Job, QueueFull
from serve.store.tables import events, idempotency, inputs, jobs, totals, trash

CANCELLED = "cancelled"  # the error code of a job that its owner stopped

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


def create(tx: sa.Connection, entry: Entry, now: float) -> Job:
    """Record a job, or return the one that its idempotency key already made.

    Raises:
        QueueFull, Conflict: nothing was written.
    """
    new, key = entry.new, entry.key
    if key is not None and (known := find_key(tx, new.owner, key, entry.fingerprint)) is not None:
        return known
    if entry.queue_limit is not None and num_queued(tx) >= entry.queue_limit:
        raise QueueFull
    row = {**_UNTOUCHED, **vars(new), "created_at": now}
    files = row.pop("inputs")
    made = tx.execute(_NEW_JOB, row).inserted_primary_key
    assert made is not None
    if key is not None:
        tx.execute(idempotency.insert().values(owner=new.owner, key=key, job_id=new.id, fingerprint=entry.fingerprint))
    if files:
        tx.execute(_NEW_INPUT, [{"job_id": new.id, "name": name, "content": part} for name, part in files.items()])
    return Job(number=made.number, video=None, **row)


def num_queued(tx: sa.Connection) -> int:
    return tx.scalar(_QUEUED) or 0


def find(tx: sa.Connection, job_id: str, owner: str | None = None, lock: bool = False) -> Job | None:
    query = _BY_ID if owner is None else _OWN
    named = {"job_id": job_id} if owner is None else {"job_id": job_id, "owner": owner}
    row = tx.execute(query.with_for_update() if lock else query, named).first()
    return None if row is None else job_of(row)


def one(tx: sa.Connection, job_id: str) -> Job:
    return job_of(tx.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())


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


def job_of(row: Any) -> Job:
    return Job(**row._mapping)
