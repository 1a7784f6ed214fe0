from __future__ import annotations

from pathlib import Path

import pytest

from serve.janitor import tidy
from serve.places import Places
from serve.store import JobStore, Leases, NewJob
from serve.store.jobs import ORPHAN_SECONDS


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    return JobStore(f"sqlite:///{tmp_path}/jobs.sqlite", retention_seconds=100, clock=clock)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(str(tmp_path / "home"))


def put(places: Places, job_id: str) -> Path:
    for folder in ("inputs", "prepared", "videos"):
        places.storage.write(f"{folder}/{job_id}/deep/file", b"x")
    return Path(places.storage.uri) / "videos" / job_id


def new(job_id: str) -> NewJob:
    return NewJob(id=job_id, owner="a", request={}, num_segments=1, num_steps=1)


def test_what_expired_goes_and_what_works_stays(store: JobStore, places: Places, clock: Clock) -> None:
    ended, working = put(places, "ended"), put(places, "working")
    for job_id in ("ended", "working"):
        store.create(new(job_id))
    engine = Leases(store, 10_000, 3)
    lease = engine.claim("w")
    assert lease is not None
    engine.complete(lease, {"bytes": 1, "sha256": "s", "num_frames": 1})
    assert engine.claim("w") is not None
    clock.now += 99
    assert tidy(store, places) == 0
    assert ended.exists()
    clock.now += 2
    assert tidy(store, places) == 1
    assert (ended.exists(), working.exists(), store.get("ended")) == (False, True, None)


def test_uploads_that_never_became_a_job(store: JobStore, places: Places, clock: Clock) -> None:
    orphan, recorded = put(places, "orphan"), put(places, "recorded")
    for job_id in ("orphan", "recorded"):
        store.expect_files([job_id])
    store.create(new("recorded"))
    assert tidy(store, places) == 0
    clock.now += ORPHAN_SECONDS + 1
    assert tidy(store, places) == 1
    assert (orphan.exists(), recorded.exists()) == (False, True)


def test_files_of_a_deleted_job_go_again_once_its_engine_must_have_noticed(
    store: JobStore, places: Places, clock: Clock
) -> None:
    folder = put(places, "a")
    store.create(new("a"))
    assert Leases(store, 10, 3).claim("w") is not None
    store.delete("a")
    assert tidy(store, places) == 0
    put(places, "a")  # the engine, which has not noticed
    clock.now += 11
    assert tidy(store, places) == 1
    assert not folder.exists()


def test_what_cannot_be_removed_stays_on_the_list(
    store: JobStore, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(new("a"))
    put(places, "a")
    store.delete("a")

    def fails(name: str) -> None:
        raise PermissionError(name)

    monkeypatch.setattr(places.storage, "delete", fails)
    assert tidy(store, places) == 0
    monkeypatch.undo()
    assert tidy(store, places) == 1
