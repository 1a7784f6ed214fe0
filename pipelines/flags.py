"""Flags that several commands have, each said once."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[str | None, typer.Option(help="Join this Ray cluster (HOST:PORT or auto).")]
Attention = Annotated[str | None, typer.Option(help="Released dit.safetensors.")]
Control = Annotated[str | None, typer.Option(help="Released control.safetensors.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default by device.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second; default 16.")]
GpusPerWorker = Annotated[int | None, typer.Option(help="Default: 1 where there are GPUs, else 0.")]
LogFormat = Annotated[str, typer.Option(help="text (bars on a terminal) or json (a line an event).")]
Lpips = Annotated[bool, typer.Option("--lpips", help="LPIPS, too: needs AlexNet's weights from the net.")]
Prompt = Annotated[str | None, typer.Option(help="The prompt of every segment; default: 'a video'.")]
Report = Annotated[bool, typer.Option(help="Write report.html.")]
Resamples = Annotated[int, typer.Option(help="Of the bootstrap.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew, whatever exists.")]
SegmentLength = Annotated[int | None, typer.Option(help="Frames a segment; default 81.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; default 640x352.")]
ThreadsPerWorker = Annotated[int, typer.Option(help="CPU threads; they decide the last bits.")]
WaitForNodes = Annotated[float, typer.Option(help="Seconds a cluster may take to grow.")]
Workers = Annotated[int | None, typer.Option(help="Default: as many as fit; 0: this process, no Ray.")]
