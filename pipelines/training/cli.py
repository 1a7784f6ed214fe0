"""`longvie train` on the command line: its flags, and how its end is told."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import flags


def train(
    data: Annotated[
        list[str] | None, typer.Option(help="What longvie encode wrote; may be given more than once.", metavar="URI")
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="For each --data, how often its samples are seen; default: by their number."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder or URI for checkpoints, logs and the model.", metavar="URI")
    ] = None,
    recipe: Annotated[str, typer.Option(help="tiny, wan2_1_i2v_14b or wan2_1_i2v_1_3b.")] = "tiny",
    model: Annotated[
        str | None, typer.Option(help="Pipeline to begin with; it encoded the data. Default: the embedded one.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with random weights of the recipe's size.")] = False,
    steps: Annotated[
        list[str] | None, typer.Option(help="STAGE=N: other numbers of steps; 0 leaves a stage out.")
    ] = None,
    degrade: Annotated[
        list[str] | None,
        typer.Option(help="feature=P, data=P or first-frame=P: another share of degraded samples; 0: none."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Samples a step, over all workers.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate of the first stage; the others follow.")] = None,
    lora: Annotated[int | None, typer.Option(help="Train a LoRA of this rank instead.", metavar="RANK")] = None,
    seed: Annotated[int, typer.Option(help="Decides the order of data and all that is drawn.")] = 0,
    log_every: Annotated[int, typer.Option(help="Steps between records of log.jsonl and TensorBoard.")] = 10,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    sample_every: Annotated[int, typer.Option(help="Steps between validation videos; 0: none.")] = 500,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell this one of the loss, too: wandb, mlflow, ...; may be given more than once.", metavar="NAME"
        ),
    ] = None,
    keep: Annotated[int, typer.Option(help="How many of the last checkpoints stay.")] = 3,
    restart: flags.Restart = False,
    workers: Annotated[int, typer.Option(help="Processes that share each batch; 0: no Ray.")] = 1,
    gpus_per_worker: Annotated[int | None, typer.Option(help="0 or 1; default: 1 where there are GPUs.")] = None,
    threads_per_worker: Annotated[int, typer.Option(help="CPU threads of a worker; part of the result.")] = 1,
    retries: Annotated[int, typer.Option(help="How often lost workers are replaced.")] = 3,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the recipe takes on --workers GPUs, and end; needs no data.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="text (a bar on a terminal) or json (a line an event).")] = "text",
) -> None:
    """Train a model on encoded data, or go on from the last checkpoint."""
    from pipelines.errors import UserError
    from pipelines.progress import reporting
    from pipelines.training.options import TrainOptions
    from pipelines.training.progress import TrainBars, TrainLines
    from pipelines.training.train import run_dry
    from pipelines.training.train import train as run

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format}; choose text or json")
    if not dry_run and (not data or out is None):
        raise UserError("longvie train needs --data and --out; only --dry-run does without")
    options = TrainOptions(
        recipe=recipe,
        data=tuple(data or ()),
        shares=tuple(share or ()),
        out=out or "",
        model=model,
        fresh=fresh,
        steps=tuple(_stage_steps(text) for text in steps or ()),
        degrade=tuple(_share(text) for text in degrade or ()),
        batch=batch,
        rate=rate,
        lora=lora,
        seed=seed,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        sample_every=sample_every,
        keep=keep,
        trackers=tuple(tracker or ()),
        restart=restart,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        threads_per_worker=threads_per_worker,
        retries=retries,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    if dry_run:
        for line in run_dry(options):
            typer.echo(line)
        return
    with reporting(log_format, TrainBars, TrainLines) as report:
        run(options, report)


def _stage_steps(text: str) -> tuple[str, int]:
    from pipelines.errors import UserError

    stage, separator, count = text.partition("=")
    if not separator or not count.isdigit():
        raise UserError(f"--steps {text}: give STAGE=N, as in control=2000")
    return stage, int(count)


def _share(text: str) -> tuple[str, float]:
    from pipelines.errors import UserError

    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError as error:
        raise UserError(f"--degrade {text}: give NAME=SHARE, as in feature=0.15") from error
