"""`GeneratorWorker`: a plain class that makes segments and commits them; remote only at the edge (cluster.py).

Only a job's description comes in and a commit's few lines go out: frames, carries and videos go from here to storage
and back, never through Ray's object store.
"""

from __future__ import annotations

import functools
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

import longvie
from longvie.long_video import LongVideoRequest, run_segment
from longvie.models.loading import load_pipeline
from longvie.pipeline import LongViePipeline
from longvie.segments import plan_segments
from longvie.types import Carry
from longvie.video import VideoError, fit_frames, local_path, read_image
from pipelines.errors import UserError
from pipelines.generation.commits import Commit, Fence, VideoStore, carry_from
from pipelines.generation.control_files import ReadAhead
from pipelines.generation.plan import Beginning, ModelChoice, VideoJob, VideoPlan
from pipelines.hashes import sha256
from pipelines.storage import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What every worker of a run shares."""

    out: str
    model: ModelChoice
    model_fingerprint: str
    dtype: str
    device: str  # "cpu" or "cuda"
    threads: int  # for torch; it decides the order of floating-point sums, so it is fixed and recorded


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a worker is: the steps done within one segment."""

    video_id: str
    segment: int
    step: int
    num_steps: int


class GeneratorWorker:
    """Makes one segment a call. Keeps the carry of the video it is at, so that the next segment starts at once."""

    def __init__(
        self,
        config: WorkerConfig,
        on_progress: Callable[[Progress], None] | None = None,
        fence: Fence | None = None,
    ) -> None:
        self.config = config
        self._fence = fence
        self._on_progress = on_progress  # in the driver's own process; from elsewhere `progress` is asked
        self._pipe: LongViePipeline | None = None
        self._request: tuple[tuple[str, str], LongVideoRequest] | None = None  # of the video it is at
        self._controls: ReadAhead | None = None
        self._carry: tuple[tuple[str, str], str, Carry] | None = None  # of the last segment made, and its SHA-256
        self._progress: Progress | None = None

    def setup(self, video_id: str) -> dict[str, Any]:
        """Load the model, once; check that it is the planned one and that this node sees the output."""
        started = time.perf_counter()
        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"{socket.gethostname()}: the worker was given a GPU but torch sees none; install torch for CUDA "
                "there, or give --gpus-per-worker 0"
            )
        if self.store(video_id).read_manifest() is None:
            raise UserError(
                f"{socket.gethostname()} does not see {self.config.out}; give an output that every node sees, such as "
                "a shared folder or s3://"
            )
        self.load()
        return {"worker": self.name, "seconds": round(time.perf_counter() - started, 3)}

    def load(self) -> None:
        """Load the model, if it is the planned one."""
        torch.set_num_threads(self.config.threads)
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        choice = self.config.model
        if choice.fingerprint() != self.config.model_fingerprint:
            raise UserError(f"{socket.gethostname()} has another model at {choice.model} than the job was planned with")
        self._pipe = load_pipeline(
            choice.model,
            choice.control,
            choice.attention,
            dtype=getattr(torch, self.config.dtype),
            device=self.config.device,
        )

    def make_segment(self, job: VideoJob, index: int) -> Commit:
        """Make segment `index` of a video and commit it; all before it must exist.

        If it exists already, because a worker died between commit and reply, it is not made again.
        """
        if self._pipe is None:
            raise RuntimeError("setup() comes first")
        torch.set_num_threads(self.config.threads)  # holds for one thread only, and Ray may call from another
        store = self.store(job.video_id)
        carry, previous = self._carry_before(store, job, index)
        if carry is None:
            return store.commits(job.links[: index + 1])[index]
        segment = plan_segments(job.plan.num_frames, job.plan.segment_length)[index]
        steps = job.plan.config.num_inference_steps

        def on_step(step: int, _: int) -> None:
            self._progress = Progress(video_id=job.video_id, segment=index, step=step, num_steps=steps)
            if self._on_progress is not None:
                self._on_progress(self._progress)

        on_step(0, steps)
        result = run_segment(self._pipe, self._request_of(job), segment, replace(carry, seed=job.seeds[index]), on_step)
        if index == 0 and job.plan.beginning is not None:  # its first frame is the last of the video it continues
            result = replace(result, frames=result.frames[1:])
        commit = store.commit(
            result,
            job.plan.fps,
            prompt=job.prompts[index],
            seed=job.seeds[index],
            link=job.links[index],
            previous_carry=previous,
            worker=self.name,
            versions=versions(),
        )
        self._carry = ((job.video_id, commit.link), commit.carry, result.carry)
        self._progress = None
        return commit

    def finish(self, job: VideoJob, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Join the segments into video.mp4, then write the manifest that says so."""
        store = self.store(job.video_id)
        commits = store.commits(job.links)
        if len(commits) < job.num_segments:
            raise RuntimeError(f"{job.video_id} has {len(commits)} of {job.num_segments} segments")
        beginning = job.plan.beginning
        video = store.join(commits, before=Path(local_path(beginning.video)) if beginning else None)
        done = {**manifest, "status": "done", "segments": [commit.summary() for commit in commits], "video": video}
        store.write_manifest(done)
        return video

    def progress(self) -> Progress | None:
        """Where it is; answered beside the work, in a concurrency group of its own."""
        return self._progress

    @property
    def name(self) -> str:
        """Host, process and what devices it may use."""
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"{socket.gethostname()}:{os.getpid()} {self.config.device}" + (f" {devices}" if devices else "")

    def store(self, video_id: str) -> VideoStore:
        """A video's folder, behind this worker's fence."""
        return VideoStore(self._open(), video_id, self._fence)

    def _open(self) -> Storage:
        return open_storage(self.config.out)

    def _carry_before(self, store: VideoStore, job: VideoJob, index: int) -> tuple[Carry | None, str | None]:
        """What segment `index` starts from and its SHA-256; no carry if that segment exists already."""
        if index > 0 and self._carry is not None and self._carry[0] == (job.video_id, job.links[index - 1]):
            return self._carry[2], self._carry[1]
        commits = store.commits(job.links[: index + 1])
        if len(commits) == index + 1:
            return None, None
        if len(commits) < index:
            raise RuntimeError(f"segment {index} of {job.video_id} was asked for, but {len(commits)} exist")
        if index == 0 and job.plan.beginning is not None:
            return load_beginning(job.plan.beginning), None
        if index == 0:
            return Carry.start(self._request_of(job).first_frame, job.seeds[0]), None
        return store.load_carry(commits[-1]), commits[-1].carry

    def _request_of(self, job: VideoJob) -> LongVideoRequest:
        key = (job.video_id, job.links[-1])
        if self._request is None or self._request[0] != key:
            if self._controls is not None:
                self._controls.close()
            plan = job.plan
            self._controls = ReadAhead(plan.controls, plan_segments(plan.num_frames, plan.segment_length))
            self._request = (
                key,
                LongVideoRequest(
                    first_frame=_first_frame(plan),
                    controls=self._controls,
                    prompts=job.prompts,
                    num_frames=plan.num_frames,
                    seed=job.seeds[0],
                    config=plan.config,
                ),
            )
        return self._request[1]


@functools.cache
def versions() -> dict[str, str]:
    """Of all that decides a result's last bits."""
    names = ("torch", "diffusers", "transformers", "ray", "av")
    return {"longvie": longvie.__version__, "python": platform.python_version(), **{n: version(n) for n in names}}


def load_beginning(beginning: Beginning) -> Carry:
    """What a video that continues another starts from; `VideoError` if it is not what was planned with."""
    data = Path(local_path(beginning.carry)).read_bytes()
    if sha256(data) != beginning.carry_sha256:
        raise VideoError(f"{beginning.carry} has changed since the job was planned; run the job again")
    return replace(carry_from(data), next_index=0)


def _first_frame(plan: VideoPlan) -> Any:
    config = plan.config
    return fit_frames(read_image(plan.first_frame)[None], config.height, config.width, config.fit)[0]
