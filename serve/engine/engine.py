"""One engine: the model loaded once, one job at a time, every write under the job's lease.

At-least-once work, exactly-once effect: a segment exists when its commit does (pipelines/generation/commits.py), the
commit is written while the lease is held in the store, and whoever takes the job over goes on from there.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from longvie.models.checkpoints import CheckpointError
from longvie.models.loading import read_pipeline_config
from longvie.video import VideoError
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.generation.commits import Commit, VideoStore
from pipelines.generation.continuation import Continuation, Redo, continue_video
from pipelines.generation.plan import ModelChoice
from pipelines.generation.worker import GeneratorWorker, Progress, WorkerConfig, versions
from serve.engine.inputs import plan_job
from serve.inputs import lay_out
from serve.places import Places
from serve.settings import ServeSettings
from serve.store import Cancelled, Job, JobStore, Lease, LeaseLost, Leases

_RENEWALS = 4  # times a lease is renewed within its length
_RETRY_SECONDS = 1.0  # after the place, not the job, failed
logger = logging.getLogger(__name__)


class LeaseFence:
    """The commit protocol's fence, as the store's lease."""

    def __init__(self, leases: Leases, lease: Callable[[], Lease], gpu: bool) -> None:
        self._leases = leases
        self._lease = lease
        self._gpu = gpu

    def check(self) -> None:
        self._leases.check(self._lease())

    def held(self, commit: Commit | None) -> AbstractContextManager[None]:
        return self._leases.held(self._lease(), commit, self._gpu)


class Engine:
    """Takes jobs from the store and makes them."""

    def __init__(
        self,
        settings: ServeSettings,
        store: JobStore | None = None,
        worker_class: type[GeneratorWorker] = GeneratorWorker,
    ) -> None:
        self.settings = settings
        self.store = store or JobStore(settings.database_url, settings.retention_seconds)
        self.leases = Leases(self.store, settings.lease_seconds, settings.max_failures)
        self.places = Places(settings.home)
        self._lease: Lease | None = None
        self._stepped: float | None = None  # when the last denoising step ended
        self._draining = threading.Event()
        self._stopped = threading.Event()
        config = WorkerConfig(
            out=self.places.videos,
            model=ModelChoice(model=settings.model, control=settings.control, attention=settings.attention),
            model_fingerprint=settings.card.fingerprint,
            dtype=settings.dtype,
            device=settings.device,
            threads=settings.threads,
        )
        fence = LeaseFence(self.leases, self._held, settings.device == "cuda")
        self._worker = worker_class(config, self._on_progress, fence)
        self.name = f"{self._worker.name} {secrets.token_hex(4)}"
        self._model = read_pipeline_config(settings.model)

    def start(self) -> None:
        """Load the model, then say so from time to time."""
        self._worker.load()
        self._beat()
        threading.Thread(target=self._beats, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Take no more jobs, and release the one at hand after its segment."""
        self._draining.set()

    def close(self) -> None:
        """No more heartbeats."""
        self._draining.set()
        self._stopped.set()

    def work_one(self) -> str | None:
        """Take the next job and work at it until it ends, is lost or is released; its id, or None if none waits.

        A bug raises: the job's lease runs out, and it is tried again until it is given up.
        """
        if self._draining.is_set():
            return None
        lease = self.leases.claim(self.name, self.settings.boot)
        if lease is None:
            return None
        self._lease, self._stepped = lease, None
        try:
            self._work(lease)
        except LeaseLost as error:
            logger.warning("%s", error)
        finally:
            self._lease = None
        return lease.job.id

    def _work(self, lease: Lease) -> None:
        try:
            state = self._open(lease)
            made = len(state.commits)
            while made < state.job.num_segments:
                if self._draining.is_set():
                    self.leases.release(lease)
                    return
                self._worker.make_segment(state.job, made)
                made += 1
            self.leases.complete(lease, self._finish(state))
        except Cancelled:
            self.leases.cancelled(lease)
        except LeaseLost:
            raise
        except (UserError, VideoError, CheckpointError) as error:
            self.leases.fail(lease, "invalid_input", self._told(error))
        except (*storage_errors(), RuntimeError) as error:
            logger.exception("%s failed", lease.job.id)
            self.leases.release(lease, f"{type(error).__name__}: {self._told(error)}")
            time.sleep(_RETRY_SECONDS)

    def _open(self, lease: Lease) -> Continuation:
        """Plan the job, and make its folder and its rows say what there is."""
        job = lease.job
        lay_out(self.leases.store, self.places, job)
        plan = plan_job(
            job.id,
            job.request,
            self.places,
            self._model,
            self.settings.model,
            stage=lambda stage: self.leases.stage(lease, stage),
            report=lambda kind, **fields: self.leases.check(lease),
        )
        machine = {
            "dtype": self.settings.dtype,
            "device": self.settings.device,
            "threads_per_worker": self.settings.threads,
        }
        about = {"inputs": plan.inputs(), "versions": versions()}
        settings = plan.settings(self.settings.card.fingerprint, machine)
        store = self._worker.store(job.id)
        state = continue_video(plan, store, settings, about, redo=_redo(job, store))
        self.leases.planned(lease, state.job.num_segments)
        state.open()
        self.leases.reconcile(lease, state.commits)
        return state

    def _finish(self, state: Continuation) -> dict[str, Any]:
        if state.finished:  # by an engine that died before it could say so
            manifest = state.store.read_manifest()
            if manifest is not None and manifest.get("video"):
                return manifest["video"]
        return self._worker.finish(state.job, state.manifest)

    def _on_progress(self, at: Progress) -> None:
        """After each denoising step: tell the store, and stop here if the job is cancelled or lost."""
        now = time.perf_counter()
        seconds = now - self._stepped if at.step and self._stepped is not None else None
        self._stepped = now
        self.leases.step(self._held(), at.segment, at.step, at.num_steps, seconds)

    def _held(self) -> Lease:
        if self._lease is None:
            raise LeaseLost(f"{self.name} is at no job")
        return self._lease

    def _beats(self) -> None:
        while not self._stopped.wait(self.settings.lease_seconds / _RENEWALS):
            self._beat()

    def _beat(self) -> None:
        """Renew what there is to renew. A lease that is lost is noticed where the work is done."""
        if not self.leases.alive(self.name, self.settings.boot):
            self._draining.set()
        lease = self._lease
        if lease is not None:
            try:
                self.leases.renew(lease)
            except LeaseLost as error:
                logger.warning("%s", error)

    def _told(self, error: Exception) -> str:
        """An error's first line, without the server's own paths."""
        return first_line(error).replace(f"{self.places.storage.uri}/", "")


def _redo(job: Job, store: VideoStore) -> Redo | None:
    """What a remix makes anew, as long as its folder is a copy of another video's."""
    manifest = store.read_manifest() if "remixes" in job.request else None
    if manifest is None or manifest["video_id"] == job.id:
        return None
    return Redo(segment=job.request["from_segment"])
