"""The store on PostgreSQL: the same order of jobs, and no job given to two engines that ask at the same moment."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from serve.store import JobStore, LeaseLost, Leases, NewJob
from tests.serve.store.test_model import commit_of

pytest.importorskip("psycopg", reason="psycopg is not installed")


def _program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own on a free port; it refuses to run as root, so there it runs as nobody."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL's own programs are not here")
    folder = tmp_path_factory.mktemp("postgres")
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, **user)
        for parent in list(folder.parents)[:2]:
            parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    data = folder / "data"
    subprocess.run([initdb, "-D", str(data), "-A", "trust", "-U", "longvie", "-N"], check=True,
                   capture_output=True, cwd=folder, **user)  # fmt: skip
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F"]
    server = subprocess.Popen([postgres, "-D", str(data), *options], stderr=subprocess.DEVNULL, cwd=folder, **user)
    url = f"postgresql://longvie@127.0.0.1:{port}/postgres"
    engine = sa.create_engine(url.replace("postgresql", "postgresql+psycopg"))
    while True:
        try:
            engine.connect().close()
            break
        except OperationalError:
            assert server.poll() is None
            time.sleep(0.1)
    engine.dispose()
    yield url
    server.send_signal(signal.SIGINT)  # its fast shutdown: it does not wait for clients
    server.wait()


def test_engines_that_ask_together_get_different_jobs(url: str) -> None:
    store = JobStore(url)
    for k in range(12):
        store.create(NewJob(id=f"v{k}", owner="ab"[k % 2], request={}, num_segments=1, num_steps=1))
    given: list[str] = []

    def engine(name: str) -> None:
        leases = Leases(store, 100, 3)
        while (lease := leases.claim(name)) is not None:
            given.append(lease.job.id)

    threads = [threading.Thread(target=engine, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == sorted(f"v{k}" for k in range(12))
    for k in range(12):
        assert store.delete(f"v{k}")


def test_engines_that_ask_together_keep_an_owner_to_what_it_may(url: str) -> None:
    store, held, most = JobStore(url), [0], [0]
    for k in range(8):
        new = NewJob(id=f"c{k}", owner="new", owner_concurrency=1, request={}, num_segments=1, num_steps=1)
        store.create(new)
    guard, errors = threading.Lock(), []

    def engine(name: str) -> None:
        leases = Leases(store, 100, 3)
        try:
            for _ in range(30):
                lease = leases.claim(name)
                if lease is None:
                    time.sleep(0.01)
                    continue
                with guard:
                    held[0] += 1
                    most[0] = max(most[0], held[0])
                time.sleep(0.005)
                with guard:
                    held[0] -= 1
                leases.complete(lease, {"bytes": 1, "sha256": "s", "num_frames": 1})
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            errors.append(error)

    threads = [threading.Thread(target=engine, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most[0] == 1
    assert all(store.get(f"c{k}").status == "completed" for k in range(8))  # type: ignore[union-attr]
    for k in range(8):
        assert store.delete(f"c{k}")


def test_a_takeover_waits_for_the_write_under_the_lease(url: str) -> None:
    now = [1000.0]
    store = JobStore(url, clock=lambda: now[0])
    store.create(NewJob(id="a", owner="a", request={}, num_segments=1, num_steps=1))
    leases = Leases(store, 10, 3)
    stale = leases.claim("stale")
    assert stale is not None
    now[0] += 11
    with leases.held(stale, commit_of(0)):
        assert leases.claim("other") is None, "the job is locked while its commit is written"
    other = leases.claim("other")
    assert other is not None
    assert other.job.segments_done == 1
    with pytest.raises(LeaseLost), leases.held(stale, commit_of(1)):
        pass
    leases.complete(other, {"bytes": 1, "sha256": "s", "num_frames": 8})
    assert [kind for _, kind, _ in store.events("a")] == ["state", "state", "segment", "state"]
    assert store.totals()["segments"] == 1


def test_one_key_makes_one_job_from_many_at_once(url: str) -> None:
    store, made = JobStore(url), []

    def client(k: int) -> None:
        new = NewJob(id=f"k{k}", owner="a", request={}, num_segments=1, num_steps=1)
        made.append(store.create(new, key="key", fingerprint="f").id)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1
