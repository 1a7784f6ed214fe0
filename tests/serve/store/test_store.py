"""The store against a model of it: any sequence of what clients and engines do, jumping clocks, lost leases."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from sqlalchemy.exc import OperationalError

from pipelines.errors import UserError
from pipelines.generation.commits import Commit
from serve.store import Busy, Cancelled, Conflict, Entry, Job, JobStore, Lease, LeaseLost, Leases, NewJob, QueueFull

SECONDS, FAILURES, SEGMENTS = 10.0, 2, 3


def commit_of(index: int) -> Commit:
    return Commit(
        index=index,
        start=0,
        num_frames=8,
        prompt="a",
        seed=0,
        link=str(index),
        previous_carry=None,
        carry="c",
        video="v",
        frames="f",
        video_bytes=10,
        carry_bytes=1,
        seconds=0.5,
        write_seconds=0.1,
        worker="w",
        versions={},
    )


class Died(Exception):
    """An engine's process ends here."""


def _die(dies: bool) -> None:
    if dies:
        raise Died


@dataclass
class Known:
    """What the model knows of a job; `files` are the commits in storage, which the store may not run ahead of."""

    owner: str
    status: str = "queued"
    token: int = 0
    until: float = 0.0
    failures: int = 0
    cancel: bool = False
    files: int = 0
    video: bool = False
    leases: list[Lease] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Rules do to the store what they do to the model; afterwards both must agree."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1000.0
        self.store = JobStore(f"sqlite:///{self.folder.name}/jobs.sqlite", clock=lambda: self.now)
        self.engine = Leases(self.store, SECONDS, FAILURES)
        self.known: dict[str, Known] = {}
        self.count = 0

    def teardown(self) -> None:
        self.store.database.dispose()
        self.folder.cleanup()

    @rule(target=jobs, owner=st.sampled_from("ab"))
    def create(self, owner: str) -> str:
        self.count += 1
        job_id = f"v{self.count}"
        self.store.create(NewJob(id=job_id, owner=owner, request={}, num_segments=SEGMENTS, num_steps=2))
        self.known[job_id] = Known(owner=owner)
        return job_id

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=leases)
    def claim(self) -> Any:
        lease = self.engine.claim("w")
        for known in self.known.values():  # what claim ends on its way
            expired = known.status == "in_progress" and known.until < self.now
            if (expired and known.cancel) or (expired and known.failures + 1 > FAILURES):
                gone = self.store.get(self._id(known))
                if gone is not None and gone.status == "failed":
                    known.status = "failed"
        if lease is None:
            assert not [k for k in self.known.values() if self._claimable(k)], "a job waits, and none was given"
            return multiple()
        known = self.known[lease.job.id]
        assert self._claimable(known), f"{lease.job.id} was given to two"
        known.failures += known.status == "in_progress"
        known.status, known.token, known.until = "in_progress", known.token + 1, self.now + SECONDS
        assert lease.token == known.token
        return lease

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        self._as_holder(lease, lambda known: setattr(known, "until", self.now + SECONDS), self.engine.renew, lease)

    @rule(lease=leases)
    def step(self, lease: Lease) -> None:
        known = self.known.get(lease.job.id)
        index = known.files if known else 0

        def done(known: Known) -> None:
            known.until = self.now + SECONDS

        self._as_holder(lease, done, self.engine.step, lease, index, 1, 2, 0.1, stops=True)

    @rule(lease=leases, dies=st.booleans())
    def commit(self, lease: Lease, dies: bool) -> None:
        """Write a segment under the lease; or die between the file and its row."""
        known = self.known.get(lease.job.id)
        if known is None or known.files >= SEGMENTS:
            return
        stored = self.store.get(lease.job.id)
        if stored is None or stored.segments_done < known.files:
            return  # a new engine reconciles first
        try:
            with self.engine.held(lease, commit_of(known.files)):
                assert self._holds(lease)
                known.files += 1
                _die(dies)
        except Died:
            pass
        except (LeaseLost, Cancelled):
            assert not self._holds(lease) or known.cancel
        else:
            known.failures = 0

    @rule(lease=leases)
    def reconcile(self, lease: Lease) -> None:
        known = self.known.get(lease.job.id)
        files = known.files if known else 0

        def done(known: Known) -> None:
            stored = self.store.get(lease.job.id)
            assert stored is not None
            assert stored.segments_done == files

        commits = [commit_of(index) for index in range(files)]
        before = self.store.get(lease.job.id)
        recorded = before is not None and before.segments_done < files
        self._as_holder(lease, done, self.engine.reconcile, lease, commits)
        if recorded and known is not None and self._holds(lease):
            known.failures = 0

    @rule(lease=consumes(leases))
    def complete(self, lease: Lease) -> None:
        known = self.known.get(lease.job.id)
        stored = self.store.get(lease.job.id)
        if known is None or stored is None or stored.segments_done < SEGMENTS:
            return

        def done(known: Known) -> None:
            known.status = "completed"

        if self._holds(lease):
            known.video = True  # written first
        self._as_holder(lease, done, self.engine.complete, lease, {"bytes": 1, "sha256": "s", "num_frames": 24})

    @rule(lease=leases, error=st.sampled_from([None, "disk"]))
    def release(self, lease: Lease, error: str | None) -> None:
        def done(known: Known) -> None:
            known.failures += error is not None
            known.status = "failed" if error and known.failures > FAILURES else "queued"

        self._as_holder(lease, done, self.engine.release, lease, error)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        known = self.known.get(job_id)
        answer = self.store.cancel(job_id, known.owner if known else "a")
        assert (answer is None) == (known is None)
        if known is not None and known.status == "queued":
            known.status = "failed"
        elif known is not None and known.status == "in_progress":
            known.cancel = True

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        assert self.store.delete(job_id) == (self.known.pop(job_id, None) is not None)

    @invariant()
    def nothing_is_lost_or_ahead_of_the_truth(self) -> None:
        for job_id, known in self.known.items():
            job = self.store.get(job_id, known.owner)
            assert job is not None
            assert (job.status, job.token, job.failures) == (known.status, known.token, known.failures)
            assert job.segments_done <= known.files
            assert len(self.store.segments(job_id)) == job.segments_done
            assert job.progress < 100 or known.video
            numbers = [number for number, _, _ in self.store.events(job_id)]
            assert numbers == sorted(set(numbers))
            told = [data["segment"] for _, kind, data in self.store.events(job_id) if kind == "segment"]
            assert told == list(range(len(told))), "each segment is told once, in order"
        assert sum(self.store.counts().values()) == len(self.known)

    def _as_holder(self, lease: Lease, done: Any, act: Any, *arguments: Any, stops: bool = False) -> None:
        """Do something under a lease: it works for the holder, and for nobody else."""
        holds = self._holds(lease)
        known = self.known.get(lease.job.id)
        try:
            act(*arguments)
        except LeaseLost:
            assert not holds
        except Cancelled:
            assert holds
            assert stops
            assert known is not None
            assert known.cancel
        else:
            assert holds, "a stale worker changed something"
            assert known is not None
            done(known)

    def _holds(self, lease: Lease) -> bool:
        known = self.known.get(lease.job.id)
        return known is not None and known.status == "in_progress" and known.token == lease.token

    def _claimable(self, known: Known) -> bool:
        return known.status == "queued" or (known.status == "in_progress" and known.until < self.now)

    def _id(self, known: Known) -> str:
        return next(job_id for job_id, other in self.known.items() if other is known)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


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
