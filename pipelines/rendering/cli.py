"""`longvie render` on the command line: its flags, and how its end is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import flags

if TYPE_CHECKING:
    from pipelines.preparation.run import Summary
    from pipelines.progress import Report


def render(
    scene: Annotated[str, typer.Argument(help="Animated .glb or .gltf, with a camera.", metavar="SCENE")],
    out: Annotated[str, typer.Option(help="Folder or URI for the rendering and all that prepare makes of it.")],
    model: Annotated[
        str | None, typer.Option(help="Take size, fps and segment length from this model; tiny: the embedded one.")
    ] = None,
    fps: flags.Fps = None,
    size: flags.Size = None,
    segment_length: flags.SegmentLength = None,
    num_frames: Annotated[int | None, typer.Option(help="How long; default: to the animation's last key.")] = None,
    seconds: Annotated[float | None, typer.Option(help="The same in seconds.")] = None,
    camera: Annotated[str | None, typer.Option(help="Which camera, if there are several.", metavar="NAME")] = None,
    animation: Annotated[str | None, typer.Option(help="The only one to play; default: all.", metavar="NAME")] = None,
    grid: Annotated[str | None, typer.Option(help="Tracked points, ROWSxCOLUMNS; default 50x50, or what fits.")] = None,
    supersampling: Annotated[int, typer.Option(help="Rays a pixel's side where colours change.")] = 2,
    prompt: flags.Prompt = None,
    restart: flags.Restart = False,
    workers: flags.Workers = None,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    log_format: flags.LogFormat = "text",
) -> None:
    """Turn an animated 3-D scene into a video with exact depth and tracks, prepared as controls."""
    from pipelines.rendering.options import RenderOptions
    from pipelines.rendering.render import render as run

    options = RenderOptions(
        scene=scene,
        out=out,
        model=model,
        fps=fps,
        size=size,
        segment_length=segment_length,
        num_frames=num_frames,
        seconds=seconds,
        camera=camera,
        animation=animation,
        grid=grid,
        supersampling=supersampling,
        prompt=prompt,
        restart=restart,
        workers=workers,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    raise typer.Exit(finish(lambda report: run(options, report), log_format))


def finish(run: Callable[[Report], Summary], log_format: str) -> int:
    """Run a job with its progress and its table; the exit code."""
    from rich.console import Console

    from pipelines.errors import UserError
    from pipelines.preparation.stage_progress import StageBars, StageLines, stage_summary
    from pipelines.progress import reporting

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format}; choose text or json")
    started = time.monotonic()
    with reporting(log_format, StageBars, StageLines) as report:
        summary = run(report)
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
    return 1 if summary.failed(strict=True) else 0
