"""Small servers: settings over the toy model, jobs as the door records them, engines that die where they are told."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn

from longvie.models.loading import fingerprint, read_pipeline_config
from pipelines.generation.commits import Fence
from pipelines.generation.worker import GeneratorWorker, Progress, WorkerConfig
from pipelines.storage import LocalStorage
from serve.engine.engine import Engine
from serve.places import Places
from serve.settings import ModelCard, ServeSettings
from serve.store import Job, JobStore, NewJob
from tests.pipelines.helpers import NUM_FRAMES, NUM_SEGMENTS, PROMPTS, Executioner, Inputs, KillingStorage


def card_of(model: Path) -> ModelCard:
    config = read_pipeline_config(str(model))
    return ModelCard(
        name="toy",
        fingerprint=fingerprint(str(model)),
        segment_length=config.segment_length,
        fps=config.fps,
        height=config.height,
        width=config.width,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        size_multiple=config.size_multiple,
    )


def settings_of(home: Path, model: Path, **changes: Any) -> ServeSettings:
    return ServeSettings(**{"home": str(home), "card": card_of(model), "model": str(model), **changes})


def put_job(settings: ServeSettings, store: JobStore, inputs: Inputs, job_id: str = "a", **changes: Any) -> Job:
    """Record a job of four segments, its inputs in place, as the door does."""
    folder = Path(Places(settings.home).input(job_id, ""))
    folder.mkdir(parents=True, exist_ok=True)
    files = {"first_frame": "first.png", "dense": "dense.mp4", "sparse": "sparse.mp4"}
    for name in files.values():
        shutil.copy(inputs / name, folder / name)
    request = {
        "files": files,
        "prompts": PROMPTS,
        "seed": 3,
        "num_frames": NUM_FRAMES,
        "config": {"height": 32, "width": 48},
    }
    new = NewJob(id=job_id, owner="me", request={**request, **changes}, num_segments=NUM_SEGMENTS, num_steps=2)
    return store.create(new)


def dying_worker(executioner: Executioner) -> type[GeneratorWorker]:
    """A worker that is killed at points of the commit protocol, as named in tests/pipelines/helpers.py."""

    class DyingWorker(GeneratorWorker):
        def __init__(
            self,
            config: WorkerConfig,
            on_progress: Callable[[Progress], None] | None = None,
            fence: Fence | None = None,
        ) -> None:
            def watched(at: Progress) -> None:
                executioner.at(f"step:{at.segment}:{at.step}")
                if on_progress is not None:
                    on_progress(at)

            super().__init__(config, watched, fence)

        def _open(self) -> LocalStorage:
            return KillingStorage(Path(self.config.out), executioner)

    return DyingWorker


def work_to_death(settings: ServeSettings, folder: str, points: Sequence[str]) -> None:
    """An engine that works at what there is and dies at one of the points. For a child process."""
    torch.set_num_threads(1)
    executioner = Executioner(Path(folder), points)
    engine = Engine(settings, worker_class=dying_worker(executioner))
    complete, claim = engine.leases.complete, engine.leases.claim

    def acknowledged(*arguments: Any) -> None:
        executioner.at("complete:before")
        complete(*arguments)

    def claimed(*arguments: Any) -> Any:
        lease = claim(*arguments)
        executioner.at("claimed")
        return lease

    engine.leases.complete, engine.leases.claim = acknowledged, claimed  # type: ignore[method-assign]
    engine.start()
    while engine.work_one() is not None:
        pass


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """An application behind a real socket, in a thread; its URL."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
