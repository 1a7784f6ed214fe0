"""`longvie scenes` on the command line: its flags, and how its end is told."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import flags


def scenes(
    out: Annotated[str, typer.Option(help="Folder or URI for the scenes and all that prepare makes of them.")],
    split: Annotated[str, typer.Option(help="train, validation or test: whose seeds; they do not overlap.")] = "train",
    start: Annotated[int, typer.Option(help="The first of the split's seeds.", metavar="I")] = 0,
    count: Annotated[int, typer.Option(help="How many videos, one a seed.", metavar="N")] = 1,
    num_frames: Annotated[int | None, typer.Option(help="How long each is; default 97.")] = None,
    seconds: Annotated[float | None, typer.Option(help="The same in seconds.")] = None,
    place: Annotated[str | None, typer.Option(help="indoor or outdoor; default: as seeds give it.")] = None,
    light: Annotated[str | None, typer.Option(help="day, night or changing; default: as seeds give it.")] = None,
    camera: Annotated[str | None, typer.Option(help="static or moving; default: as seeds give it.")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="All of place x day, night x camera in turn, for a benchmark.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Take size, fps and segment length from this model; default: the embedded one.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT.")] = None,
    segment_length: Annotated[int | None, typer.Option(help="Frames a segment.")] = None,
    keep_depth: Annotated[bool, typer.Option(help="Keep prepared depth files once the controls are made.")] = True,
    restart: flags.Restart = False,
    workers: flags.Workers = None,
    address: flags.Address = None,
    wait_for_nodes: flags.WaitForNodes = 0.0,
    log_format: flags.LogFormat = "text",
) -> None:
    """Make synthetic videos with exact depth, tracks and captions, prepared as controls."""
    from pipelines.rendering.cli import finish
    from pipelines.scenes.options import ScenesOptions
    from pipelines.scenes.scenes import make_scenes

    options = ScenesOptions(
        split=split,
        out=out,
        start=start,
        count=count,
        num_frames=num_frames,
        seconds=seconds,
        place=place,
        light=light,
        camera=camera,
        balanced=balanced,
        model=model,
        fps=fps,
        size=size,
        segment_length=segment_length,
        keep_depth=keep_depth,
        restart=restart,
        workers=workers,
        address=address,
        wait_for_nodes=wait_for_nodes,
    )
    raise typer.Exit(finish(lambda report: make_scenes(options, report), log_format))
