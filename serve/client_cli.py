"""`longvie client`: submit, watch, get and cancel on the command line."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.client import Client, Event

TOKEN_VARIABLE = "LONGVIE_TOKEN"
app = typer.Typer(help="Ask a running longvie serve for videos.", rich_markup_mode=None)

Url = Annotated[str, typer.Option(help="Of the server.", envvar="LONGVIE_URL")]
VideoId = Annotated[str, typer.Argument(metavar="VIDEO_ID")]
_URL = "http://127.0.0.1:8000"


@app.command()
def submit(
    prompt: Annotated[list[str], typer.Option(help="One text; or once for each segment.")],
    source: Annotated[str | None, typer.Option(help="Video to take controls from; sample: the server's.")] = None,
    first_frame: Annotated[str | None, typer.Option(help="Image that the video starts with.")] = None,
    dense: Annotated[str | None, typer.Option(help="Depth as a video.")] = None,
    sparse: Annotated[str | None, typer.Option(help="Tracks as a video.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length; default: all the controls have.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; default: the model's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps a segment.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first, up to what the token allows.")] = 0,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same again makes nothing new.")] = None,
    out: Annotated[str | None, typer.Option(help="Wait for the video, and write it here.", metavar="FILE")] = None,
    url: Url = _URL,
) -> None:
    """Ask for a video; prints its id."""
    given = {"first_frame": first_frame, "source": source, "dense": dense, "sparse": sparse}
    fields: dict[str, Any] = {
        "seconds": seconds,
        "size": size,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "priority": priority,
    }
    if len(prompt) == 1:
        fields["prompt"] = prompt[0]
    else:
        fields["segments"] = [{"prompt": text} for text in prompt]
    if source == "sample":
        given["source"] = None
        fields["controls"] = {"source": "sample"}
    with _client(url) as client:
        files = {name: path for name, path in given.items() if path is not None}
        video = client.submit(files, fields, key)
        typer.echo(video.id)
        if out is not None:
            _wait(client, video.id, out)


@app.command()
def watch(
    video_id: VideoId,
    out: Annotated[str | None, typer.Option(help="Write the video here when it is done.", metavar="FILE")] = None,
    url: Url = _URL,
) -> None:
    """Tell what happens to a video until it ends; exit code 1 if it fails."""
    with _client(url) as client:
        _wait(client, video_id, out)


@app.command()
def get(
    video_id: VideoId,
    out: Annotated[str | None, typer.Option(help="Write the finished video here.", metavar="FILE")] = None,
    url: Url = _URL,
) -> None:
    """Print a video's state as JSON, or write its file."""
    with _client(url) as client:
        if out is not None:
            typer.echo(f"{out}: {client.download(video_id, out)} bytes", err=True)
        else:
            typer.echo(client.get(video_id).model_dump_json(indent=2))


@app.command()
def cancel(video_id: VideoId, url: Url = _URL) -> None:
    """Stop a video within one denoising step."""
    with _client(url) as client:
        typer.echo(client.cancel(video_id).status)


def _wait(client: Client, video_id: str, out: str | None) -> None:
    for event in client.watch(video_id):
        typer.echo(_said(event), err=True)
    video = client.get(video_id)
    if video.status == "failed":
        raise typer.Exit(1)
    if out is not None:
        client.download(video_id, out)
        typer.echo(out, err=True)


def _said(event: Event) -> str:
    data = event.data
    if event.kind == "step":
        return f"segment {data['segment']}: step {data['step']} of {data['num_steps']}"
    if event.kind == "segment":
        return f"segment {data['segment']}: {data['num_frames']} frames in {data['seconds']:g} s"
    error = f": {data['error']['message']}" if "error" in data else ""
    return f"{data.get('stage') or data.get('status', event.kind)}{error}"


@contextmanager
def _client(url: str) -> Iterator[Client]:
    """A client; what the server refuses ends the command in one line."""
    from serve.client import Client, ServeError

    with Client(url, os.environ.get(TOKEN_VARIABLE)) as client:
        try:
            yield client
        except ServeError as error:
            typer.echo(f"longvie: {error}", err=True)
            raise typer.Exit(1) from error
