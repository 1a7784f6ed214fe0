"""`longvie encode` on the command line: its flags, and how its end is told."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from pipelines import flags


def encode(
    prepared: Annotated[str, typer.Argument(help="Folder or URI that longvie prepare finished.", metavar="PREPARED")],
    out: Annotated[str, typer.Option(help="Folder or URI for what training reads.")],
    model: Annotated[
        str | None, typer.Option(help="Diffusers folder or hub name; default, or tiny: the embedded model.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of stored tensors; default: bfloat16 for Wan's sizes, else float16.")
    ] = None,
    encoder_dtype: Annotated[
        str | None, typer.Option(help="Of text and image encoder; default: float32 on CPU, bfloat16 on GPU.")
    ] = None,
    history_frames: Annotated[
        str | None, typer.Option(help="Numbers of frames before a segment; default: 1,5,8,9,13,16; or none.")
    ] = None,
    degraded_variants: Annotated[int, typer.Option(help="Dense controls with less detail a segment, 0..16.")] = 1,
    seed: Annotated[int, typer.Option(help="That degradation is drawn from.")] = 0,
    segments_per_shard: Annotated[int, typer.Option(help="Segments of one file at most.")] = 8,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything could not be encoded.")] = False,
    restart: flags.Restart = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was made of videos PREPARED lacks now.")] = False,
    workers: flags.Workers = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="As in 0.5; default: 1 where there are GPUs, else 0.")
    ] = None,
    threads_per_worker: flags.ThreadsPerWorker = 1,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    log_format: flags.LogFormat = "text",
) -> None:
    """Turn prepared videos into what training reads, or go on with what is unfinished."""
    from pipelines.encoding.options import EncodeOptions, parse_history

    options = EncodeOptions(
        prepared=prepared,
        out=out,
        model=model,
        dtype=dtype,
        encoder_dtype=encoder_dtype,
        history_frames=parse_history(history_frames),
        degraded_variants=degraded_variants,
        seed=seed,
        segments_per_shard=segments_per_shard,
        strict=strict,
        restart=restart,
        prune=prune,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        threads_per_worker=threads_per_worker,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    raise typer.Exit(_run(options, log_format))


def _run(options: Any, log_format: str) -> int:
    """Run the job with its progress and its table; the exit code."""
    from rich.console import Console
    from rich.text import Text

    from pipelines.encoding.encode import encode as run
    from pipelines.errors import UserError
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
            )
    if log_format == "text":
        Console().print(stage_summary(summary, seconds))
        if not summary.num_segments:
            Console(stderr=True).print(Text("nothing was encoded; see errors.parquet"), soft_wrap=True)
    return 1 if summary.failed(options.strict) else 0
