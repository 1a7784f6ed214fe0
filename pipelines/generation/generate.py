"""`longvie generate`: many long videos, from a user's file to video.mp4s, resumed from whatever exists.

Plans first (nothing is written while anything can still be refused), then works: over Ray actors (scheduling.py), or in
this very process with `workers=0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from longvie.config import check_seed
from pipelines import cluster
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.generation.commits import VideoStore
from pipelines.generation.continuation import Continuation, Redo, continue_video
from pipelines.generation.inputs import check_num_frames, read_rows
from pipelines.generation.plan import DTYPES, ModelChoice, VideoPlan, plan_videos
from pipelines.generation.scheduling import Outcome, Scheduler
from pipelines.generation.worker import GeneratorWorker, Progress, WorkerConfig, versions
from pipelines.progress import Report
from pipelines.storage import check_writable, open_storage, scheme_of


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """All a run is asked for. Out-of-range values raise `UserError` naming the flag.

    Args:
        source: cond.json, .jsonl or .parquet, see inputs.py.
        out: where videos go, any of storage.py's URIs.
        overrides: fields of `GenerationConfig`; None means the model's default.
        seed: of videos whose row says none; with `from_segment`, the new seed from there on.
        prompt: only with `from_segment`: the new prompt from there on.
        workers: None for as many as fit; 0 for this process, without Ray.
        gpus_per_worker: None for 1 where the cluster has GPUs, else 0.
        device, dtype: None for what the placement gives; float32 on a CPU, bfloat16 on a GPU.
        max_retries: failures in a row at one segment before its video is given up.
    """

    source: str
    out: str
    first_frame: str | None = None
    video_id: str | None = None
    model: ModelChoice = field(default_factory=ModelChoice)
    dtype: str | None = None
    device: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    num_frames: int | None = None
    seed: int | None = None
    restart: bool = False
    from_segment: int | None = None
    prompt: str | None = None
    workers: int | None = None
    gpus_per_worker: int | None = None
    threads_per_worker: int = 1
    address: str | None = None
    wait_for_nodes: float = 0.0
    max_retries: int = 3

    def __post_init__(self) -> None:
        for flag, value, low in (
            ("--workers", self.workers, 0),
            ("--gpus-per-worker", self.gpus_per_worker, 0),
            ("--threads-per-worker", self.threads_per_worker, 1),
            ("--max-retries", self.max_retries, 0),
            ("--wait-for-nodes", self.wait_for_nodes, 0),
            ("--from-segment", self.from_segment, 0),
        ):
            if value is not None and not value >= low:
                raise UserError(f"{flag} is {value}; give {low} or more")
        for flag, value, choices in (("--dtype", self.dtype, DTYPES), ("--device", self.device, ("cpu", "cuda"))):
            if value is not None and value not in choices:
                raise UserError(f"{flag} is {value}; choose one of {', '.join(choices)}")
        try:
            check_seed(0 if self.seed is None else self.seed)
            check_num_frames(1 if self.num_frames is None else self.num_frames)
        except ValueError as error:
            raise UserError(f"--{str(error).replace('_', '-', 1)}") from error
        if self.prompt is not None and self.from_segment is None:
            raise UserError("--prompt goes with --from-segment K; prompts of a whole video stand in the input file")
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("--prompt is empty; give a text, or leave it out to keep the prompts in force")
        if self.restart and self.from_segment is not None:
            raise UserError("--restart and --from-segment exclude each other; one begins anew, the other keeps a part")
        if self.workers == 0 and (self.address or self.gpus_per_worker):
            raise UserError("--workers 0 works in this process, without Ray: leave out --address and --gpus-per-worker")
        if scheme_of(self.out) == "memory" and self.workers != 0:
            raise UserError("--out memory:// lives within one process; give --workers 0, or another place")


def generate(
    options: GenerateOptions, report: Report, worker_class: type[GeneratorWorker] = GeneratorWorker
) -> list[Outcome]:
    """Make every video that is asked for; one outcome each, in the input's order.

    Raises:
        UserError, CheckpointError, VideoError: what only the user can mend; nothing has been written then.
    """
    rows = read_rows(options.source, options.first_frame, options.video_id)
    if options.from_segment is not None and len(rows) > 1:
        raise UserError(
            f"--from-segment concerns one video, {options.source} has {len(rows)}: name one with --video-id"
        )
    check_writable(options.out)
    model = options.model.absolute()
    plans = plan_videos(rows, model.check(), options.overrides, options.num_frames)
    for note in [note for row in rows for note in row.notes]:
        report("note", text=note)
    if options.workers == 0:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU in this process; leave it out")
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        states, config = _open(options, model, plans, device)
        _tell(report, states, f"in this process, on {device}")
        return _in_order(states, _run_here(_unfinished(states), config, worker_class, options.max_retries, report))
    with cluster.cluster(options.address):
        placement = cluster.place(
            options.workers,
            options.gpus_per_worker,
            options.threads_per_worker,
            num_videos=len(plans),
            wait_seconds=options.wait_for_nodes,
        )
        if options.device == "cuda" and not placement.gpus_per_worker:
            raise UserError("--device cuda needs --gpus-per-worker 1 or more")
        states, config = _open(options, model, plans, options.device or placement.device)
        _tell(report, states, str(placement))
        if not _unfinished(states):
            return _in_order(states, [])
        remote = cluster.remote_worker(worker_class, placement)
        scheduler = Scheduler(
            _unfinished(states),
            start=lambda: remote.remote(config),
            num_workers=placement.workers,
            max_retries=options.max_retries,
            report=report,
            placeable=lambda: cluster.can_place(placement),
        )
        return _in_order(states, scheduler.run())


def _open(
    options: GenerateOptions, model: ModelChoice, plans: Sequence[VideoPlan], device: str
) -> tuple[list[Continuation], WorkerConfig]:
    """Decide what each folder is to hold; when all may be continued, make them say so."""
    storage = open_storage(options.out)
    config = WorkerConfig(
        out=storage.uri,
        model=model,
        model_fingerprint=model.fingerprint(),
        dtype=options.dtype or ("float32" if device == "cpu" else "bfloat16"),
        device=device,
        threads=options.threads_per_worker,
    )
    machine = {"dtype": config.dtype, "device": device, "threads_per_worker": config.threads}
    redo = None
    if options.from_segment is not None:
        redo = Redo(segment=options.from_segment, prompt=options.prompt, seed=options.seed)
    try:
        states = [
            continue_video(
                plan,
                VideoStore(storage, plan.video_id),
                plan.settings(config.model_fingerprint, machine),
                {"inputs": {**plan.inputs(), **_names(model)}, "versions": versions()},
                seed=options.seed if redo is None else None,
                restart=options.restart,
                redo=redo,
            )
            for plan in plans
        ]
    except storage_errors() as error:
        raise UserError(f"--out {options.out} cannot be read ({first_line(error)}); check it and try again") from error
    try:
        for state in states:
            state.open()
    except storage_errors() as error:
        raise UserError(f"--out {options.out} cannot be written ({first_line(error)}); choose another place") from error
    return states, config


def _run_here(
    states: Sequence[Continuation],
    config: WorkerConfig,
    worker_class: type[GeneratorWorker],
    max_retries: int,
    report: Report,
) -> list[Outcome]:
    """One video after the other in this process. An error of storage is tried again; any other is the video's end."""
    if not states:
        return []

    def on_progress(at: Progress) -> None:
        report("step", video_id=at.video_id, segment=at.segment, step=at.step, num_steps=at.num_steps)

    worker = worker_class(config, on_progress)
    report("worker", **worker.setup(states[0].job.video_id))
    outcomes = []
    for state in sorted(states, key=lambda state: -state.num_left):
        outcome = Outcome(
            video_id=state.job.video_id, uri=state.store.uri, status="done", num_segments=state.job.num_segments
        )
        outcomes.append(outcome)
        failures = 0
        while outcome.status == "done":
            try:
                for index in range(len(state.store.commits(state.job.links)), state.job.num_segments):
                    commit = worker.make_segment(state.job, index)
                    outcome.made += 1
                    failures = 0
                    report(
                        "segment",
                        video_id=outcome.video_id,
                        segment=index,
                        num_segments=outcome.num_segments,
                        num_frames=commit.num_frames,
                        seconds=commit.seconds,
                        write_seconds=commit.write_seconds,
                        worker=commit.worker,
                    )
                worker.finish(state.job, state.manifest)
                break
            except (*storage_errors(), RuntimeError, ValueError) as error:
                failures += 1
                reason = f"{type(error).__name__}: {first_line(error)}"
                if isinstance(error, ValueError) or failures > max_retries:
                    outcome.status, outcome.error = "failed", reason
                    state.store.write_manifest({**state.manifest, "status": "failed", "error": reason})
                else:
                    report("retry", video_id=outcome.video_id, failures=failures, error=reason)
        report("video", video_id=outcome.video_id, status=outcome.status, error=outcome.error, uri=outcome.uri)
    return outcomes


def _unfinished(states: Sequence[Continuation]) -> list[Continuation]:
    return [state for state in states if not state.finished]


def _in_order(states: Sequence[Continuation], outcomes: Sequence[Outcome]) -> list[Outcome]:
    by_id = {outcome.video_id: outcome for outcome in outcomes}
    return [
        by_id.get(state.job.video_id)
        or Outcome(
            video_id=state.job.video_id, uri=state.store.uri, status="up to date", num_segments=state.job.num_segments
        )
        for state in states
    ]


def _tell(report: Report, states: Sequence[Continuation], placement: str) -> None:
    videos = [
        {"video_id": state.job.video_id, "num_segments": state.job.num_segments, "num_done": len(state.commits)}
        for state in states
    ]
    report("plan", videos=videos, placement=placement)


def _names(model: ModelChoice) -> dict[str, Any]:
    return {"model": model.model or "embedded", "control": model.control, "attention": model.attention}
