"""`longvie prepare` on the command line: its flags, and how its end is told."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from pipelines import flags


def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Videos, folders, globs, URIs; manifests: .jsonl, .csv, .parquet.", metavar="INPUT..."),
    ],
    out: Annotated[str, typer.Option(help="Folder or URI for controls, statistics and manifest.jsonl.")],
    model: Annotated[
        str | None, typer.Option(help="Take size, fps and segment length from this model; tiny: the embedded one.")
    ] = None,
    fps: flags.Fps = None,
    size: flags.Size = None,
    fit: Annotated[str, typer.Option(help="crop, pad or stretch frames of another shape.")] = "crop",
    segment_length: flags.SegmentLength = None,
    cuts: Annotated[bool, typer.Option(help="Cut sources into shots; --no-cuts: each is one shot.")] = True,
    cut_threshold: Annotated[float, typer.Option(help="A cut changes so many times as much as its neighbours.")] = 3.0,
    min_frames: Annotated[int | None, typer.Option(help="Shorter shots are left out; default: half a segment.")] = None,
    black: Annotated[float | None, typer.Option(help="Leave out shots with a mean luma below this, 0..255.")] = None,
    static: Annotated[float | None, typer.Option(help="Leave out shots that are still pictures, below this.")] = None,
    min_motion: Annotated[float | None, typer.Option(help="Leave out shots that change less a frame, 0..255.")] = None,
    max_motion: Annotated[float | None, typer.Option(help="Leave out shots that change more a frame, 0..255.")] = None,
    depth: Annotated[
        str, typer.Option(help="Depth estimator, or canny, lineart, softedge; see docs/prepare.md.")
    ] = "builtin",
    sparse: Annotated[
        str, typer.Option("--sparse", "--tracker", help="Point tracker, or openpose, dwpose.")
    ] = "lucas-kanade",
    scope: Annotated[str, typer.Option(help="Scale depth over each video, the dataset or each segment.")] = "video",
    prompt: flags.Prompt = None,
    sidecars: Annotated[bool, typer.Option("--sidecars", help="Prompts lie beside videos: NAME.txt or .json.")] = False,
    captioner: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint that writes prompts.", metavar="URL")
    ] = None,
    caption_model: Annotated[str | None, typer.Option(help="The captioner's model.", metavar="NAME")] = None,
    keep_depth: Annotated[bool, typer.Option(help="Keep depth files once the controls are made.")] = True,
    cond_json: Annotated[bool, typer.Option("--cond-json", help="Also write the authors' cond.json layout.")] = False,
    report: flags.Report = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything could not be prepared.")] = False,
    restart: flags.Restart = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was made of sources not named now.")] = False,
    dtype: Annotated[str, typer.Option(help="Of estimators: float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Frames an estimator is given at once.")] = 8,
    workers: Annotated[int | None, typer.Option(help="Of each stage; default: as many as fit; 0: no Ray.")] = None,
    threads_per_worker: Annotated[int, typer.Option(help="CPU threads of a depth worker; part of the result.")] = 1,
    depth_gpus: Annotated[float, typer.Option(help="GPUs of a depth worker, as in 0.5.")] = 0.0,
    sparse_gpus: Annotated[float, typer.Option(help="GPUs of a control worker, as in 0.25.")] = 0.0,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    log_format: flags.LogFormat = "text",
) -> None:
    """Turn videos into controls, exact statistics and segments, or go on with what is unfinished."""
    from pipelines.preparation.options import PrepareOptions

    options = PrepareOptions(
        inputs=tuple(inputs),
        out=out,
        model=model,
        fps=fps,
        size=size,
        fit=fit,
        segment_length=segment_length,
        cuts=cuts,
        cut_threshold=cut_threshold,
        min_frames=min_frames,
        black=black,
        static=static,
        min_motion=min_motion,
        max_motion=max_motion,
        depth=depth,
        sparse=sparse,
        scope=scope,
        prompt=prompt,
        sidecars=sidecars,
        captioner=_captioner(captioner, caption_model),
        keep_depth=keep_depth,
        cond_json=cond_json,
        report=report,
        strict=strict,
        restart=restart,
        prune=prune,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        threads_per_worker=threads_per_worker,
        depth_gpus=depth_gpus,
        sparse_gpus=sparse_gpus,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    raise typer.Exit(_run(options, log_format))


def _captioner(url: str | None, model: str | None) -> Any:
    """A captioner that answers, or None; `UserError` if it cannot be one."""
    from pipelines.captions.endpoint import CaptionEndpoint
    from pipelines.errors import UserError

    if url is None and model is None:
        return None
    if url is None or model is None:
        raise UserError("--captioner URL and --caption-model NAME go together; give both")
    captioner = CaptionEndpoint.from_environment(url, model)
    captioner.check()
    return captioner


def _run(options: Any, log_format: str) -> int:
    """Run the job with its progress and its table; the exit code."""
    from rich.console import Console
    from rich.text import Text

    from pipelines.errors import UserError
    from pipelines.preparation.prepare import prepare as run
    from pipelines.preparation.stage_progress import StageBars, StageLines, stage_summary
    from pipelines.progress import reporting

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format}; choose text or json")
    started = time.monotonic()
    with reporting(log_format, StageBars, StageLines) as report:
        summary = run(options, report)
        seconds = time.monotonic() - started
        if log_format == "json":
            report(
                "end",
                seconds=round(seconds, 3),
                num_videos=summary.num_videos,
                num_segments=summary.num_segments,
                num_errors=len(summary.errors),
                num_rejected=summary.num_rejected,
            )
    if log_format == "text":
        Console().print(stage_summary(summary, seconds))
        if not summary.num_videos:
            why = "nothing could be read" if summary.errors else "no shot was kept; see videos.parquet"
            Console(stderr=True).print(Text(f"no long video was prepared: {why}"), soft_wrap=True)
    return 1 if summary.failed(options.strict) else 0
