"""`longvie evaluate` on the command line: its flags, and how its end is told."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from pipelines import flags


def evaluate(
    generated: Annotated[
        list[str],
        typer.Option(help="NAME=URI of longvie generate; again for other runs, or for other seeds of one NAME."),
    ],
    reference: Annotated[str, typer.Option(help="Folder of longvie prepare that the runs were made from.")],
    out: Annotated[str, typer.Option(help="Folder or URI for scores.parquet, summary.json and report.html.")],
    against: Annotated[str | None, typer.Option(help="Compare the others with this run; default: the first.")] = None,
    vae: Annotated[
        str | None, typer.Option(help="Model of the VAE ceiling; default: the embedded one; none: without.")
    ] = None,
    depth: Annotated[str, typer.Option(help="What estimates depth again, as in prepare.")] = "builtin",
    tracker: Annotated[str, typer.Option(help="What follows points again, as in prepare.")] = "lucas-kanade",
    lpips: flags.Lpips = False,
    vbench_json: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE, an ..._eval_results.json that VBench wrote.")
    ] = None,
    vbench_python: Annotated[
        str | None, typer.Option(help="Python of an environment with VBench: run it.", metavar="PYTHON")
    ] = None,
    resamples: flags.Resamples = 10_000,
    seed: flags.Resamples = 0,
    report: flags.Report = True,
    restart: flags.Restart = False,
    workers: flags.Workers = None,
    threads_per_worker: flags.ThreadsPerWorker = 1,
    gpus_per_worker: Annotated[float, typer.Option(help="For depth and the VAE, as in 0.5.")] = 0.0,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    log_format: flags.LogFormat = "text",
) -> None:
    """Score generated long videos against the prepared ones, or go on with what is unfinished."""
    from pipelines.evaluation.options import EvaluateOptions

    options = EvaluateOptions(
        generated=tuple(generated),
        reference=reference,
        out=out,
        against=against,
        vae=vae,
        depth=depth,
        tracker=tracker,
        lpips=lpips,
        vbench_json=tuple(vbench_json or ()),
        vbench_python=vbench_python,
        resamples=resamples,
        seed=seed,
        report=report,
        restart=restart,
        workers=workers,
        threads_per_worker=threads_per_worker,
        gpus_per_worker=gpus_per_worker,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    raise typer.Exit(_run(options, log_format))


def _run(options: Any, log_format: str) -> int:
    """Run the job with its progress and its table; the exit code."""
    from importlib.util import find_spec

    from rich.console import Console
    from rich.table import Table

    from longvie.metrics.catalogue import DRIFT, metric_of
    from pipelines.errors import UserError
    from pipelines.preparation.stage_progress import StageBars, StageLines
    from pipelines.progress import reporting

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format}; choose text or json")
    if find_spec("torchmetrics") is None:
        raise UserError("longvie evaluate needs torchmetrics; install it with: pip install 'longvie[eval]'")
    from pipelines.evaluation.evaluate import evaluate as run

    started = time.monotonic()
    with reporting(log_format, StageBars, StageLines) as report:
        done = run(options, report)
        seconds = round(time.monotonic() - started, 3)
        if log_format == "json":
            report("end", seconds=seconds, num_errors=len(done.errors), num_incomplete=len(done.summary["incomplete"]))
    if log_format == "text":
        table = Table(title=f"{done.out}/report.html ({seconds:.1f} s)")
        table.add_column("mean over videos", no_wrap=True)
        for said in done.summary["runs"]:
            table.add_column(said["name"], no_wrap=True)
        for name in dict.fromkeys(name for said in done.summary["runs"] for name in said["metrics"]):
            if name.endswith(DRIFT):
                continue  # in the report
            cells = [said["metrics"].get(name) for said in done.summary["runs"]]
            table.add_row(metric_of(name).title, *("" if said is None else f"{said['mean']:.3g}" for said in cells))
        Console().print(table)
        for row in done.summary["incomplete"]:
            typer.echo(f"incomplete: {row['run']} {row['video']}: {row['why']}", err=True)
    return 0 if done.complete else 1
