"""From a job's recorded request to generation's plan: the same rows, checks and plan as `longvie generate` has."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from longvie.media import local_path, resampled, write_image, write_video
from longvie.models.loading import PipelineConfig
from longvie.types import Carry
from pipelines.errors import UserError
from pipelines.generation.commits import carry_bytes
from pipelines.generation.inputs import Row, read_rows
from pipelines.generation.plan import Beginning, VideoPlan, plan_videos
from pipelines.hashes import sha256
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.prepare import prepare
from pipelines.progress import Report
from serve.places import Places

Stage = Callable[[str], None]


def plan_job(
    job_id: str,
    request: Mapping[str, Any],
    places: Places,
    model: PipelineConfig,
    model_name: str | None,
    stage: Stage,
    report: Report,
) -> VideoPlan:
    """The plan of a job.

    Args:
        stage: told when preparing begins and ends.
        report: told of preparation's progress; may raise to stop it.

    Raises:
        UserError, VideoError: the inputs cannot be used.
    """
    files: Mapping[str, str] = request["files"]
    prompts = tuple((None, text) for text in request["prompts"])
    if "source" in files:
        stage("preparing")
        made = _prepare(job_id, request, places, model_name, report)
        stage("generating")
        row = replace(made, where="the request", prompts=prompts)
    elif "clip" in files:
        stage("preparing")
        _bring_clip(job_id, request, places, model)
        stage("generating")
        first = f"{places.storage.uri}/{places.clip(job_id, 'first_frame.png')}"
        row = Row(where="the request", video_id=job_id, first_frame=first, prompts=prompts)
    else:
        row = Row(
            where="the request",
            video_id=job_id,
            first_frame=places.input(job_id, files["first_frame"]),
            dense=tuple(places.input(job_id, files[name]) for name in ("dense",) if name in files),
            sparse=tuple(places.input(job_id, files[name]) for name in ("sparse",) if name in files),
            prompts=prompts,
        )
    if "first_frame" in files:
        row = replace(row, first_frame=places.input(job_id, files["first_frame"]))
    row = replace(row, video_id=job_id, seed=request["seed"], num_frames=request["num_frames"])
    plan = plan_videos([row], model, request["config"])[0]
    if "clip" in files:
        plan = replace(plan, beginning=_clip(job_id, places))
    if "before" in files:
        beginning = Beginning(
            video=places.input(job_id, files["before"]),
            carry=places.input(job_id, files["carry"]),
            carry_sha256=request["carry_sha256"],
        )
        plan = replace(plan, beginning=beginning)
    return plan


def _bring_clip(job_id: str, request: Mapping[str, Any], places: Places, model: PipelineConfig) -> None:
    """An uploaded video at the model's rate and size, its last frame, and what a segment after it starts from.

    Equal uploads give equal bytes, so that it may be done again; the carry is written last.
    """
    if places.storage.size(places.clip(job_id, "carry.safetensors")) is not None:
        return
    config, fps = request["config"], request["fps"]
    kept: deque[ndarray] = deque(maxlen=model.num_history_frames)

    def watched(batches: Iterator[ndarray]) -> Iterator[ndarray]:
        for batch in batches:
            kept.extend(batch)
            yield batch

    with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
        source = local_path(places.input(job_id, request["files"]["clip"]))
        frames = resampled(source, fps=fps, height=config["height"], width=config["width"], fit="crop")
        write_video(Path(folder) / "before.mp4", watched(frames), fps)
        write_image(Path(folder) / "first_frame.png", kept[-1])
        for name in ("before.mp4", "first_frame.png"):
            places.storage.put(places.clip(job_id, name), Path(folder) / name)
    history = torch.from_numpy(np.stack(kept))
    carry = Carry(next_index=0, first_frame=history[-1].clone(), history=history, seed=request["seed"])
    places.storage.write(places.clip(job_id, "carry.safetensors"), carry_bytes(carry))


def _clip(job_id: str, places: Places) -> Beginning:
    names = ("before.mp4", "carry.safetensors")
    video, carry = (f"{places.storage.uri}/{places.clip(job_id, name)}" for name in names)
    content = places.storage.read(places.clip(job_id, "carry.safetensors"))
    return Beginning(video=video, carry=carry, carry_sha256=sha256(content))


def _prepare(job_id: str, request: Mapping[str, Any], places: Places, model_name: str | None, report: Report) -> Row:
    """Controls of an uploaded source, made by `longvie prepare`'s own code; done again, it goes on where it was."""
    config = request["config"]
    options = PrepareOptions(
        inputs=(places.input(job_id, request["files"]["source"]),),
        out=places.prepared(job_id),
        model=model_name or "tiny",
        size=f"{config['width']}x{config['height']}",
        fit=config.get("fit") or "crop",
        cuts=False,  # what was uploaded is one video, as long as it is
        min_frames=1,
        keep_depth=False,
        report=False,
        workers=0,
    )
    summary = prepare(options, report)
    if not summary.num_videos:
        reason = f" ({summary.errors[0]['error']})" if summary.errors else ""
        raise UserError(f"source: nothing could be prepared from it{reason}")
    return read_rows(places.prepared(job_id))[0]
