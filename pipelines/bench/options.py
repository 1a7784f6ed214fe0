"""What `longvie bench` is asked for, checked at the door."""

from __future__ import annotations

from dataclasses import dataclass, field

from longvie.metrics.statistics import RESAMPLES
from longvie.models.loading import PipelineConfig, read_pipeline_config
from pipelines.errors import UserError
from pipelines.generation.plan import ModelChoice

MINI, LONG = "longvgenbench-mini", "longvgenbench"
PROTOCOLS = {"81@16fps": (81, 16.0), "49@8fps": (49, 8.0)}  # frames a segment with one shared, frames a second


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """One run. Out-of-range values raise `UserError` naming the flag.

    Args:
        name: of the benchmark.
        only: ablations; empty for all that can be made.
        videos: at most so many (of the mini one, scenes); None for all.
        segments: of each scene of the mini benchmark.
        seeds: noise seeds, from 0.
        film: the whole of Big Buck Bunny, for the mini benchmark.
        data: the user's copy of LongVGenBench.
        protocol: one of LongVGenBench's, which the model must make; None for the model's own segments.
        trained: NAME=FOLDER each, models of the training ablation.
        workers: None for as many as fit, 0 for this process.
    """

    name: str
    out: str
    model: ModelChoice = field(default_factory=ModelChoice)
    only: tuple[str, ...] = ()
    videos: int | None = None
    segments: int = 12
    seeds: int = 3
    film: str | None = None
    data: str | None = None
    protocol: str | None = None
    trained: tuple[str, ...] = ()
    depth: str = "builtin"
    tracker: str = "lucas-kanade"
    lpips: bool = False
    vbench_python: str | None = None
    resamples: int = RESAMPLES
    workers: int | None = None
    gpus_per_worker: int | None = None
    threads_per_worker: int = 1
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in (MINI, LONG):
            raise UserError(f"{self.name} is no benchmark; choose {MINI} or {LONG}")
        for flag, value, least in (
            ("--videos", self.videos, 1),
            ("--segments", self.segments, 1),
            ("--seeds", self.seeds, 1),
            ("--workers", self.workers, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{flag} is {value}; give {least} or more")
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise UserError(f"--protocol {self.protocol}: choose one of {', '.join(PROTOCOLS)}")
        if self.name == LONG and self.data is None:
            raise UserError(f"{LONG} needs --data FOLDER, your copy of its videos; {MINI} needs nothing")
        if self.name == MINI and self.data is not None:
            raise UserError(f"--data goes with {LONG}; {MINI} makes its own videos")
        if self.name == LONG and self.film is not None:
            raise UserError(f"--film goes with {MINI}")
        if self.name == MINI and self.protocol is not None:
            raise UserError(f"--protocol goes with {LONG}; {MINI} has the model's own segments")
        if self.workers == 0 and (self.address or self.gpus_per_worker):
            raise UserError("--workers 0 works in this process, without Ray: leave out --address and --gpus-per-worker")

    def read_model(self) -> PipelineConfig:
        """What must be known of the model, which has to make the protocol's segments."""
        model = read_pipeline_config(self.model.model)
        if self.protocol is not None and PROTOCOLS[self.protocol] != (model.segment_length, float(model.fps)):
            raise UserError(
                f"--protocol {self.protocol}: the model makes {model.segment_length} frames a segment at {model.fps} a "
                "second; give the protocol's model, or leave it out"
            )
        return model
