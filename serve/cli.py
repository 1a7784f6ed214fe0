"""The whole `longvie` command: what `pipelines` has, `longvie serve`, and `longvie client`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import flags
from pipelines.cli import app
from pipelines.cli import main as run_command
from serve.client_cli import app as client_app

app.add_typer(client_app, name="client")


@app.command()
def serve(
    home: Annotated[str, typer.Option(help="Folder or URI of jobs and videos; kept over restarts.")] = "out/serve",
    model: Annotated[
        str | None, typer.Option(help="Diffusers folder or hub name; default: the embedded model.")
    ] = None,
    control: flags.Control = None,
    attention: flags.Attention = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any free one.")] = 8000,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of the jobs; default: SQLite in a local home.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="File of bearer tokens; or $LONGVIE_SERVE_TOKENS.", metavar="FILE")
    ] = None,
    replicas: Annotated[str, typer.Option(help="Engines: a number, or MIN:MAX.")] = "1",
    gpus: Annotated[float | None, typer.Option(help="GPUs of an engine; default: 1 where there are any.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of an engine; they decide the last bits.")] = 1,
    dtype: flags.Dtype = None,
    max_queue: Annotated[int, typer.Option(help="Jobs that may wait.")] = 1000,
    max_seconds: Annotated[float, typer.Option(help="Of a video.")] = 600.0,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = 1 << 30,
    max_pixels: Annotated[int, typer.Option(help="Of a frame that is made.")] = 1280 * 720,
    allow_url: Annotated[
        list[str] | None, typer.Option(help="Beginning of URLs that clients may name as inputs.", metavar="PREFIX")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin that may call from browsers (CORS).", metavar="ORIGIN")
    ] = None,
    lease_seconds: Annotated[float, typer.Option(help="After which a silent engine's job goes to another.")] = 15.0,
    retention_days: Annotated[float, typer.Option(help="That a video is kept once it ended; 0: for ever.")] = 7.0,
    address: flags.Address = None,
) -> None:
    """Serve the model over HTTP; videos are watched while they are made."""
    from pipelines.generation.plan import ModelChoice
    from serve.run import ServeOptions, run
    from serve.settings import Limits, read_owners

    limits = Limits(queued=max_queue, seconds=max_seconds, body_bytes=max_body, pixels=max_pixels)
    run(
        ServeOptions(
            home=home,
            model=ModelChoice(model=model, control=control, attention=attention),
            database=database,
            host=host,
            port=port,
            replicas=replicas,
            gpus=gpus,
            threads=threads,
            dtype=dtype,
            owners=read_owners(tokens),
            limits=limits,
            url_prefixes=tuple(allow_url or ()),
            origins=tuple(allow_origin or ()),
            lease_seconds=lease_seconds,
            retention_days=retention_days,
            address=address,
        )
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command; ends the process with 0, 1 or 2."""
    run_command(arguments)


if __name__ == "__main__":
    main()
