"""From a job's recorded request to generation's plan: the same rows, checks and plan as `longvie generate` has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from longvie.models.loading import PipelineConfig
from pipelines.errors import UserError
from pipelines.generation.inputs import Row, read_rows
from pipelines.generation.plan import Beginning, VideoPlan, plan_videos
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
    if "before" in files:
        beginning = Beginning(
            video=places.input(job_id, files["before"]),
            carry=places.input(job_id, files["carry"]),
            carry_sha256=request["carry_sha256"],
        )
        plan = replace(plan, beginning=beginning)
    return plan


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
