from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from pipelines.generation.worker import GeneratorWorker
from serve.engine.engine import Engine
from serve.places import Places
from serve.settings import ServeSettings
from serve.store import JobStore
from tests.pipelines.helpers import NUM_SEGMENTS, Inputs, artifacts, run
from tests.serve.helpers import put_job, settings_of


@pytest.fixture
def settings(tmp_path: Path, toy_folder: Path) -> ServeSettings:
    return settings_of(tmp_path / "home", toy_folder)


@pytest.fixture
def store(settings: ServeSettings) -> JobStore:
    return JobStore(settings.database_url)


def started(settings: ServeSettings, store: JobStore) -> Engine:
    engine = Engine(settings, store)
    engine.start()
    return engine


def test_makes_what_generate_makes(
    settings: ServeSettings, store: JobStore, inputs: Inputs, toy_folder: Path, tmp_path: Path
) -> None:
    put_job(settings, store, inputs)
    engine = started(settings, store)
    assert engine.work_one() == "a"
    engine.close()
    run(inputs.manifest(tmp_path, inputs.row()), tmp_path / "out", toy_folder)
    assert artifacts(Path(engine.places.videos) / "a") == artifacts(tmp_path / "out" / "a")
    job = store.get("a")
    assert job is not None
    assert (job.status, job.progress, job.segments_done) == ("completed", 100, NUM_SEGMENTS)
    assert [frames for frames, _, _ in store.segments("a")] == [9, 8, 8, 1]
    kinds = [kind for _, kind, _ in store.events("a")]
    assert kinds == ["state", "state", *["segment"] * NUM_SEGMENTS, "state"]


def test_stops_within_a_step_when_cancelled(settings: ServeSettings, store: JobStore, inputs: Inputs) -> None:
    put_job(settings, store, inputs)
    engine = started(settings, store)
    step, seen = engine.leases.step, []

    def stepping(lease, segment, done, *rest) -> None:
        seen.append((segment, done))
        if (segment, done) == (1, 1):
            store.cancel("a", "me")
        step(lease, segment, done, *rest)

    engine.leases.step = stepping  # type: ignore[method-assign]
    engine.work_one()
    engine.close()
    assert seen[-1] == (1, 1), "no step was made after the one that it was cancelled in"
    job = store.get("a")
    assert job is not None
    assert (job.status, job.error_code, job.segments_done) == ("failed", "cancelled", 1)


def test_gives_its_job_back_after_a_segment_when_drained(
    settings: ServeSettings, store: JobStore, inputs: Inputs
) -> None:
    put_job(settings, store, inputs)
    engine = started(settings, store)
    engine.leases.step = lambda *_: engine.stop()  # type: ignore[method-assign, assignment]
    engine.work_one()
    engine.close()
    job = store.get("a")
    assert job is not None
    assert (job.status, job.segments_done, job.failures) == ("queued", 1, 0)
    assert started(settings, store).work_one() == "a"
    job = store.get("a")
    assert job is not None
    assert job.status == "completed"


def test_a_stale_worker_cannot_commit(settings: ServeSettings, inputs: Inputs, toy_folder: Path) -> None:
    """It sleeps past its lease within a segment, another engine finishes the job, it wakes: nothing changes."""
    asleep, awake = threading.Event(), threading.Event()

    class Sleeper(GeneratorWorker):
        def store(self, video_id: str):
            store = super().store(video_id)
            write = store._write_segment

            def slowly(*arguments):
                data = write(*arguments)
                asleep.set()
                awake.wait(60)
                return data

            store._write_segment = slowly  # type: ignore[method-assign]
            return store

    shifted = [0.0]
    store = JobStore(settings.database_url, clock=lambda: time.time() + shifted[0])
    put_job(settings, store, inputs)
    stale = Engine(settings, store, worker_class=Sleeper)
    stale._worker.load()
    thread = threading.Thread(target=stale.work_one)
    thread.start()
    assert asleep.wait(60)
    shifted[0] = 1000.0
    engine = Engine(settings, store)
    engine._worker.load()
    assert engine.work_one() == "a"
    folder = Path(engine.places.videos) / "a"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    job = store.get("a")
    awake.set()
    thread.join()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert store.get("a") == job
    assert job is not None
    assert job.status == "completed"
    assert job.token == 2


def test_what_cannot_be_made_ends_with_a_reason(settings: ServeSettings, store: JobStore, inputs: Inputs) -> None:
    put_job(settings, store, inputs, num_frames=1000)
    started(settings, store).work_one()
    job = store.get("a")
    assert job is not None
    assert (job.status, job.error_code) == ("failed", "invalid_input")
    assert "1000" in (job.error_message or "")


def test_a_source_is_prepared_on_the_way(settings: ServeSettings, store: JobStore, inputs: Inputs) -> None:
    folder = Path(Places(settings.home).input("a", ""))
    folder.mkdir(parents=True)
    shutil.copy(inputs / "dense.mp4", folder / "source")
    put_job(settings, store, inputs, files={"source": "source"}, prompts=["a red ball"], num_frames=17)
    engine = started(settings, store)
    engine.work_one()
    engine.close()
    job = store.get("a")
    assert job is not None
    assert (job.status, job.error_message, job.segments_done) == ("completed", None, 2)
    stages = [data.get("stage") for _, kind, data in store.events("a") if kind == "state"]
    assert stages == [None, None, "preparing", "generating", None]
