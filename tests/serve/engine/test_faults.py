"""kill -9 of engines at seeded points: no job is lost, no segment made twice, the bytes those of an unkilled run.

Each engine is a process of its own, over one store and one home; the signal is SIGKILL. Over Ray, the same is tested
in tests/serve/test_server.py.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

from serve.settings import ServeSettings
from serve.store import JobStore
from tests.pipelines.helpers import NUM_SEGMENTS, Inputs, all_points, artifacts, commits_of, run
from tests.serve.helpers import put_job, settings_of, work_to_death

# Before a checkpoint, after it, and after the result but before the acknowledgement. Every engine writes the manifest
# first; it is written again, to say `done`, only by the one that finishes.
POINTS = ["claimed", *all_points(), "complete:before"]

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.serve.helpers"])


@pytest.fixture(scope="module")
def whole(inputs: Inputs, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `longvie generate` makes, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(inputs.manifest(folder, inputs.row()), folder / "out", toy_folder)
    return artifacts(folder / "out" / "a")


@pytest.fixture
def settings(tmp_path: Path, toy_folder: Path) -> ServeSettings:
    # a dead engine's lease must run out before another takes over; nothing here lasts longer than a renewal
    return settings_of(tmp_path / "home", toy_folder, lease_seconds=1.0, max_failures=100)


def engine_dies(settings: ServeSettings, marks: Path, points: list[str]) -> int | None:
    """Run an engine in a child until it dies or has nothing to do; its exit code."""
    marks.mkdir(exist_ok=True)
    child = _forkserver.Process(target=work_to_death, args=(settings, str(marks), points))
    child.start()
    child.join()
    return child.exitcode


def never_ahead(store: JobStore, folder: Path) -> None:
    """What the store says exists, exists."""
    job = store.get("a")
    assert job is not None, "a job is never lost"
    there = commits_of(folder)
    assert job.segments_done <= len(there)
    assert len(store.segments("a")) == job.segments_done
    if job.status == "completed":
        assert (folder / "video.mp4").is_file()
        assert json.loads((folder / "manifest.json").read_text())["status"] == "done"


def check_finished(settings: ServeSettings, store: JobStore, folder: Path, whole: dict[str, bytes]) -> None:
    job = store.get("a")
    assert job is not None
    assert (job.status, job.segments_done, job.progress) == ("completed", NUM_SEGMENTS, 100)
    assert artifacts(folder) == whole
    told = [data["segment"] for _, kind, data in store.events("a") if kind == "segment"]
    assert told == list(range(NUM_SEGMENTS)), "each segment is told once"
    assert store.totals()["segments"] == NUM_SEGMENTS, "no segment counts twice"


def wait_for_lease(store: JobStore) -> None:
    job = store.get("a")
    if job is not None and job.lease_until is not None:
        time.sleep(max(0.0, job.lease_until - time.time()) + 0.01)


def kill_and_recover(
    settings: ServeSettings, inputs: Inputs, whole: dict[str, bytes], marks: Path, points: list[str]
) -> int:
    """Engines die at the points, one after the other, until the job is done; how many were killed."""
    store = JobStore(settings.database_url)
    put_job(settings, store, inputs)
    folder = Path(settings.home) / "videos" / "a"
    killed, before = 0, {}
    while True:
        code = engine_dies(settings, marks, points)
        never_ahead(store, folder)
        now = commits_of(folder)
        assert before.items() <= now.items(), "a commit is never written again"
        before = now
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"an engine ended with {code}"
        killed += 1
        wait_for_lease(store)
    check_finished(settings, store, folder, whole)
    return killed


@pytest.mark.parametrize(
    "points",
    [
        ["a/commits/00001.json:whole", "a/commits/00001.json:renamed", "complete:before"],
        random.Random(6).sample(POINTS, 3),
    ],
)
def test_killed_engines(
    settings: ServeSettings, inputs: Inputs, whole: dict[str, bytes], tmp_path: Path, points: list[str]
) -> None:
    assert kill_and_recover(settings, inputs, whole, tmp_path / "marks", points) == len(points)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_engines_over_and_over(
    settings: ServeSettings, inputs: Inputs, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    """Twelve videos, five kills each: sixty."""
    points = random.Random(seed).sample(POINTS, 5)
    assert kill_and_recover(settings, inputs, whole, tmp_path / "marks", points) == len(points)
