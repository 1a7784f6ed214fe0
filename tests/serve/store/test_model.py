"""The store against a model of it: any sequence of what clients and engines do, jumping clocks, lost leases."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pipelines.generation.commits import Commit
from serve.store import Cancelled, JobStore, Lease, LeaseLost, Leases, NewJob

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
