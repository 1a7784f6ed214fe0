"""The `longvie` command: names and help for what the other rooms do, and how its errors end.

Exit code 0: all is made; 1: something failed on the way; 2: something only the user can mend, said in one line on
stderr. Imports are made where they are used, so that help appears at once.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from pipelines import flags
from pipelines.bench.cli import bench
from pipelines.encoding.cli import encode
from pipelines.evaluation.cli import evaluate
from pipelines.preparation.cli import prepare
from pipelines.rendering.cli import render
from pipelines.scenes.cli import scenes
from pipelines.training.cli import train

app = typer.Typer(
    name="longvie",
    help="Controllable ultra-long videos with LongVie, on Ray.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(help="Look at model weights.", rich_markup_mode=None)
app.add_typer(model_app, name="model")

# typer carries its own click in newer versions; the base of its errors is found where both have it
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

LogFormat = Annotated[str, typer.Option(help="text (bars on a terminal) or json (a line an event, on stdout).")]


@app.command()
def generate(
    source: Annotated[str, typer.Argument(help="cond.json, .jsonl, .parquet, or prepare's OUT.", metavar="INPUT")],
    out: Annotated[str, typer.Option(help="Folder or URI; each video goes to OUT/<video_id>/.")],
    first_frame: Annotated[str | None, typer.Option(help="First frame, with a cond.json.")] = None,
    video_id: Annotated[str | None, typer.Option(help="Name of a cond.json's video; one row of a manifest.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Diffusers folder or hub name; default: the embedded model.")
    ] = None,
    control: flags.Control = None,
    attention: flags.Attention = None,
    dtype: flags.Dtype = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default by what a worker is given.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; default: the model's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; default: the model's.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps a segment.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "--guidance", help="Classifier-free guidance.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance leads away from.")] = None,
    dense_scale: Annotated[float | None, typer.Option(help="Strength of the dense control, 0..10.")] = None,
    sparse_scale: Annotated[float | None, typer.Option(help="Strength of the sparse control, 0..10.")] = None,
    noise: Annotated[str | None, typer.Option(help="unified (default), fresh, or mix:ALPHA of both.")] = None,
    normalization: Annotated[str | None, typer.Option(help="video (default) or segment.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop (default), pad or stretch inputs of another shape.")] = None,
    history: Annotated[bool, typer.Option(help="See the frames before a segment, not its first alone.")] = True,
    num_frames: Annotated[int | None, typer.Option(help="Frames a video; default: all the controls have.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of videos that name none (0); the new one with --from-segment.")
    ] = None,
    restart: flags.Restart = False,
    from_segment: Annotated[int | None, typer.Option(help="Make segments K.. again.", metavar="K")] = None,
    prompt: Annotated[str | None, typer.Option(help="The new prompt, with --from-segment.")] = None,
    workers: flags.Workers = None,
    gpus_per_worker: flags.GpusPerWorker = None,
    threads_per_worker: flags.ThreadsPerWorker = 1,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    max_retries: Annotated[int, typer.Option(help="Failures in a row before a video is given up.")] = 3,
    log_format: LogFormat = "text",
) -> None:
    """Make long videos from controls, or go on with what is unfinished."""
    from pipelines.generation.generate import GenerateOptions
    from pipelines.generation.plan import ModelChoice

    options = GenerateOptions(
        source=source,
        out=out,
        first_frame=first_frame,
        video_id=video_id,
        model=ModelChoice(model=model, control=control, attention=attention),
        dtype=dtype,
        device=device,
        overrides={
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "dense_scale": dense_scale,
            "sparse_scale": sparse_scale,
            "noise": noise,
            "normalization": normalization,
            "fit": fit,
            "history": history,
        },
        num_frames=num_frames,
        seed=seed,
        restart=restart,
        from_segment=from_segment,
        prompt=prompt,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        threads_per_worker=threads_per_worker,
        address=address,
        wait_for_nodes=wait_for_nodes,
        max_retries=max_retries,
    )
    raise typer.Exit(_generate(options, log_format))


app.command()(prepare)
app.command()(evaluate)
app.command()(bench)
app.command()(render)
app.command()(encode)
app.command()(train)
app.command()(scenes)


@app.command()
def rewrite(
    source: Annotated[str, typer.Argument(help="prepare's OUT, .jsonl or .parquet.", metavar="INPUT")],
    video_id: Annotated[str, typer.Option(help="Which of its videos.")],
    first_frame: Annotated[str, typer.Option(help="The edited first frame.", metavar="IMAGE")],
    captioner: Annotated[str, typer.Option(help="OpenAI-compatible endpoint that rewrites prompts.", metavar="URL")],
    caption_model: Annotated[str, typer.Option(help="The captioner's model.", metavar="NAME")],
    out: Annotated[str, typer.Option(help="Manifest to be written.", metavar="FILE.jsonl")],
    new_id: Annotated[str | None, typer.Option("--as", help="Name of the edited video; default: ID-edited.")] = None,
) -> None:
    """Rewrite a video's prompts for an edited first frame; longvie generate takes what comes out."""
    from pipelines.captions.endpoint import CaptionEndpoint
    from pipelines.captions.rewrite import RewriteOptions
    from pipelines.captions.rewrite import rewrite as run

    options = RewriteOptions(source=source, video_id=video_id, first_frame=first_frame, out=out, new_id=new_id)
    endpoint = CaptionEndpoint.from_environment(captioner, caption_model)
    endpoint.check()
    for prompt in run(options, endpoint)["prompts"]:
        typer.echo(prompt if isinstance(prompt, str) else f"{prompt['start']}: {prompt['text']}")


@app.command()
def demo(
    source: Annotated[
        str | None, typer.Argument(help="A video; default: an excerpt of Big Buck Bunny.", metavar="[VIDEO]")
    ] = None,
    out: Annotated[str, typer.Option(help="Folder for the demo.")] = "out/demo",
    segments: Annotated[int, typer.Option(help="How long: segments of the model, 1 or more.")] = 6,
    scene: Annotated[int | None, typer.Option(help="A synthetic scene with this seed, in place of a video.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model; default: the embedded one.")] = None,
    restart: flags.Restart = False,
    workers: Annotated[int | None, typer.Option(help="As in generate.")] = None,
    log_format: LogFormat = "text",
) -> None:
    """Prepare a video and make it anew from its controls, with the embedded model."""
    from pipelines.demo import compare, demo_options, one_ray, write_inputs
    from pipelines.preparation.stage_progress import StageBars, StageLines
    from pipelines.progress import reporting

    options = demo_options(out, source, scene, segments, model, workers, restart)
    with one_ray(options):
        with reporting(_checked(log_format), StageBars, StageLines) as report:
            write_inputs(options, report)
        code = _generate(options.generate, log_format)
    if code == 0:
        for path in compare(options):
            typer.echo(path, err=True)
    raise typer.Exit(code)


@model_app.command("check")
def check_model(
    base: Annotated[str | None, typer.Argument(help="Folder, .safetensors or .index.json; default: embedded.")] = None,
    control: flags.Control = None,
    attention: flags.Attention = None,
    config: Annotated[str | None, typer.Option(help="config.json of the transformer, if not the 14B one.")] = None,
) -> None:
    """Account for every tensor of the weights you have; exit code 1 if they do not fit."""
    from longvie.models.checkpoints import account_files
    from longvie.models.loading import resolve_model

    if base is None and control is None and attention is None:
        base = str(resolve_model(None))
    accounts = account_files(base, control, attention, config)
    for account in accounts:
        typer.echo(f"{account}\n  {'fits' if account.fits else 'does NOT fit'}")
    raise typer.Exit(0 if all(account.fits for account in accounts) else 1)


def _generate(options: Any, log_format: str) -> int:
    """Run a generate job with its progress and its table; the exit code."""
    from rich.console import Console

    from pipelines.generation.generate import generate as run
    from pipelines.progress import reporting, summary

    started = time.monotonic()
    with reporting(_checked(log_format)) as report:
        outcomes = run(options, report)
    seconds = time.monotonic() - started
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if log_format == "json":
        report("end", seconds=round(seconds, 3), done=len(outcomes) - len(failed), failed=len(failed))
    else:
        Console().print(summary(outcomes, seconds))
    return 1 if failed else 0


def _checked(log_format: str) -> str:
    from pipelines.errors import UserError

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format}; choose text or json")
    return log_format


def main(arguments: list[str] | None = None) -> None:
    """Run the command; ends the process with 0, 1 or 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=arguments or ["--help"], prog_name="longvie", standalone_mode=False)
    except _ClickException as error:
        _end(f"{error.format_message().rstrip('.')}; see longvie --help")  # type: ignore[attr-defined]
    except typer.Abort:
        _end("interrupted; the same command goes on from the last segment", 1)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from the last segment", 1)
    except (ValueError, RuntimeError) as error:
        code = _exit_code(error)
        if code is None:
            raise
        _end(str(error), code)
    sys.exit(code or 0)


def _exit_code(error: Exception) -> int | None:
    """2 for what only the user can mend, 1 for a place that fails; None for a fault of ours."""
    from longvie.controls.depth import DepthError
    from longvie.controls.tracks import TrackError
    from longvie.media import VideoError
    from longvie.mesh import SceneError
    from longvie.models.checkpoints import CheckpointError
    from longvie.training.encoded_layout import EncodedError
    from pipelines.captions.captioners import CaptionError
    from pipelines.errors import UserError
    from pipelines.preparation.unit_worker import StorageError
    from pipelines.rendering.making import RenderError
    from pipelines.training.errors import TrainError

    if isinstance(error, (UserError, VideoError, CheckpointError, EncodedError, DepthError, TrackError, SceneError)):
        return 2
    return 1 if isinstance(error, (StorageError, CaptionError, RenderError, TrainError)) else None


def _end(message: str, code: int = 2) -> None:
    print("longvie: " + " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
