"""`longvie bench` on the command line: its flags, and how its end is told."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from pipelines import flags


def bench(
    name: Annotated[str, typer.Argument(help="longvgenbench-mini or longvgenbench.", metavar="BENCHMARK")],
    out: Annotated[str, typer.Option(help="Folder for videos, runs, scores, summary.json and report.html.")],
    model: Annotated[str | None, typer.Option(help="As in generate; default: the embedded model.")] = None,
    control: flags.Control = None,
    attention: flags.Attention = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="An ablation, again for others: normalization, noise, controls, robustness, history, training."
        ),
    ] = None,
    videos: Annotated[int | None, typer.Option(help="At most so many videos; default: all.")] = None,
    segments: Annotated[int, typer.Option(help="Of each scene of the mini benchmark.")] = 12,
    seeds: Annotated[int, typer.Option(help="Noise seeds a video.")] = 3,
    film: Annotated[str | None, typer.Option(help="All of Big Buck Bunny, for the mini benchmark.")] = None,
    data: Annotated[str | None, typer.Option(help="Your copy of LongVGenBench.", metavar="FOLDER")] = None,
    protocol: Annotated[str | None, typer.Option(help="81@16fps or 49@8fps: refuse a model of other segments.")] = None,
    trained: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER, a model for a row of the training ablation.")
    ] = None,
    depth: Annotated[str, typer.Option(help="What estimates depth, as in prepare.")] = "builtin",
    tracker: Annotated[str, typer.Option(help="What follows points, as in prepare.")] = "lucas-kanade",
    lpips: flags.Lpips = False,
    vbench_python: Annotated[
        str | None, typer.Option(help="Python of an environment with VBench: run it.", metavar="PYTHON")
    ] = None,
    resamples: flags.Resamples = 10_000,
    workers: flags.Workers = None,
    gpus_per_worker: flags.GpusPerWorker = None,
    threads_per_worker: flags.ThreadsPerWorker = 1,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    log_format: flags.LogFormat = "text",
) -> None:
    """Run a benchmark and its ablations end to end, or go on with what is unfinished."""
    from pipelines.bench.options import BenchOptions
    from pipelines.generation.plan import ModelChoice

    options = BenchOptions(
        name=name,
        out=out,
        model=ModelChoice(model=model, control=control, attention=attention),
        only=tuple(only or ()),
        videos=videos,
        segments=segments,
        seeds=seeds,
        film=film,
        data=data,
        protocol=protocol,
        trained=tuple(trained or ()),
        depth=depth,
        tracker=tracker,
        lpips=lpips,
        vbench_python=vbench_python,
        resamples=resamples,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        threads_per_worker=threads_per_worker,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    raise typer.Exit(_run(options, log_format))


def _run(options: Any, log_format: str) -> int:
    """Run the benchmark with its progress and its table; the exit code."""
    from importlib.util import find_spec

    from rich.console import Console
    from rich.table import Table

    from longvie.metrics.catalogue import metric_of
    from pipelines.errors import UserError
    from pipelines.preparation.stage_progress import StageLines
    from pipelines.progress import reporting

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format}; choose text or json")
    if find_spec("torchmetrics") is None:
        raise UserError("longvie bench needs torchmetrics; install it with: pip install 'longvie[eval]'")
    from pipelines.bench.bench import bench as run

    started = time.monotonic()
    with reporting(log_format, lines_class=StageLines) as report:
        done = run(options, report)
        seconds = round(time.monotonic() - started, 3)
        if log_format == "json":
            report("end", seconds=seconds, num_incomplete=len(done.summary["incomplete"]))
    if log_format == "text":
        for ablation in done.summary["ablations"]:
            metric = metric_of(ablation["metrics"][0])
            table = Table("row", metric.title, "against the full method", "found", title=ablation["title"])
            for row in ablation["rows"]:
                said = done.summary["runs"][row["name"]].get(metric.name)
                table.add_row(
                    row["title"],
                    "" if said is None else f"{said['mean']:.3g}",
                    row["verdict"]["why"],
                    row["verdict"]["word"],
                )
            Console().print(table)
        for row in done.summary["missing"]:
            typer.echo(f"missing: {row['name']}: {row['why']}", err=True)
        typer.echo(f"{done.out}/report.html ({seconds:.1f} s)", err=True)
    return 0 if done.complete else 1
