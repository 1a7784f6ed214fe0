"""What the store promises, one promise at a time; any sequence of them is in test_model.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from pipelines.errors import UserError
from serve.store import Busy, Conflict, Entry, Job, JobStore, Leases, NewJob, QueueFull

SECONDS, FAILURES = 10.0, 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.sqlite")
    yield store
    store.database.dispose()


def put(store: JobStore, job_id: str, owner: str = "a", **changes: Any) -> None:
    store.create(NewJob(**{"id": job_id, "owner": owner, "request": {}, "num_segments": 1, "num_steps": 1, **changes}))


def test_priority_then_fair_share_then_age(store: JobStore) -> None:
    for k in range(3):
        put(store, f"a{k}")
    for k in range(2):
        put(store, f"b{k}", "b")
    put(store, "urgent", "a", priority=5)
    engine = Leases(store, 10, 3)
    order = []
    while (lease := engine.claim("w")) is not None:
        order.append(lease.job.id)
    assert order == ["urgent", "b0", "a0", "b1", "a1", "a2"]


def test_an_owner_has_no_more_jobs_at_once_than_allowed(store: JobStore) -> None:
    put(store, "a0", owner_concurrency=1)
    put(store, "a1", owner_concurrency=1)
    engine = Leases(store, 10, 3)
    lease = engine.claim("w")
    assert lease is not None
    assert engine.claim("w") is None
    engine.fail(lease, "x", "y")
    assert engine.claim("w") is not None


def test_drained_engines_take_nothing(store: JobStore) -> None:
    put(store, "a0")
    engine = Leases(store, 10, 3)
    assert engine.alive("w", "boot")
    store.set_draining("boot", draining=True)
    assert not engine.alive("w", "boot")
    assert engine.claim("w", "boot") is None
    assert engine.claim("w", "next boot") is not None


def test_keys_and_limits(store: JobStore) -> None:
    new = NewJob(id="one", owner="a", request={}, num_segments=1, num_steps=1)
    first = store.create(new, key="k", fingerprint="f", queue_limit=1)
    again = NewJob(id="two", owner="a", request={}, num_segments=1, num_steps=1)
    assert store.create(again, key="k", fingerprint="f", queue_limit=1).id == first.id
    with pytest.raises(Conflict):
        store.create(again, key="k", fingerprint="g")
    with pytest.raises(QueueFull):
        store.create(again, queue_limit=1)


def test_a_job_that_kills_its_engines_is_given_up(tmp_path: Path) -> None:
    now = [0.0]
    store = JobStore(f"sqlite:///{tmp_path}/jobs.sqlite", clock=lambda: now[0])
    put(store, "a0")
    engine = Leases(store, 10, 2)
    for _ in range(3):
        assert engine.claim("w") is not None
        now[0] += 11
    assert engine.claim("w") is None
    job = store.get("a0")
    assert job is not None
    assert (job.status, job.error_code) == ("failed", "engine_lost")


@pytest.mark.parametrize("url", ["nonsense", "mysql://x", "sqlite://", "sqlite:///:memory:"])
def test_databases_that_cannot_be(url: str) -> None:
    with pytest.raises(UserError, match="--database"):
        JobStore(url)


def test_small_files_are_recorded_with_their_job_and_go_with_it(store: JobStore) -> None:
    put(store, "a0", inputs={"first_frame": b"image", "dense": b"\0video"})
    assert store.inputs("a0") == {"first_frame": b"image", "dense": b"\0video"}
    assert store.delete("a0")
    assert store.inputs("a0") == {}
    assert (store.totals()["jobs_created"], store.totals()["jobs_deleted"]) == (1, 1)


def test_who_must_not_wait_is_told_that_another_writes(store: JobStore, tmp_path: Path) -> None:
    new = NewJob(id="a0", owner="a", request={}, num_segments=1, num_steps=1)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy):
        store.create_at_once([Entry(new=new)])
    other.execute("ROLLBACK")
    other.close()
    with store.database.write(), pytest.raises(Busy):
        store.create_at_once([Entry(new=new)])
    assert store.get("a0") is None
    [job] = store.create_at_once([Entry(new=new)])
    assert isinstance(job, Job)
    assert store.get("a0") == job


def test_jobs_in_one_transaction_are_what_they_are_alone(store: JobStore) -> None:
    """One that is refused takes nothing from the others."""
    news = [
        NewJob(id=f"a{k}", owner="a", request={}, num_segments=1, num_steps=1, inputs={"f": b"x"}) for k in range(5)
    ]
    made = store.create_at_once(
        [
            Entry(new=news[0], queue_limit=2),
            Entry(new=news[1], queue_limit=2, key="k", fingerprint="f"),
            Entry(new=news[2], queue_limit=2),
            Entry(new=news[3], key="k", fingerprint="other"),
            Entry(new=news[4], key="k", fingerprint="f"),
        ]
    )
    assert [type(one) for one in made] == [Job, Job, QueueFull, Conflict, Job]
    assert [made[0], made[1]] == [store.get("a0"), store.get("a1")]
    assert made[4] == made[1]
    assert [store.get(f"a{k}") for k in (2, 3, 4)] == [None] * 3
    assert store.inputs("a1") == {"f": b"x"}
    assert store.counts()["queued"] == 2


def test_events_begin_with_the_record_itself(store: JobStore) -> None:
    put(store, "a0")
    lease = Leases(store, 10, 3).claim("w")
    assert lease is not None
    told = [(number, data["status"]) for number, _, data in store.events("a0")]
    assert told == [(0, "queued"), (1, "in_progress")]
    assert [number for number, _, _ in store.events("a0", after=0)] == [1]
    assert store.events("never") == []


def test_a_thread_reads_what_others_wrote_with_the_connection_it_keeps(tmp_path: Path) -> None:
    one, other = (JobStore(f"sqlite:///{tmp_path}/jobs.sqlite") for _ in range(2))
    with one.database.read() as first:
        assert one.get("a0") is None
    put(other, "a0")
    assert one.get("a0") is not None
    with one.database.read() as again:
        assert again is first
    with pytest.raises(OperationalError), one.database.read() as tx:
        tx.execute(sa.text("SELECT nothing FROM nowhere"))
    with one.database.read() as new:
        assert new is not first
    assert one.get("a0") is not None
    with one.database.write():  # nobody who reads is in a writer's way, nor the other way round
        assert one.get("a0") is not None
