"""What `longvie evaluate` is asked: which runs, against what, by which metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from longvie.metrics.statistics import RESAMPLES
from pipelines.errors import UserError

FROZEN, VAE, TRUTH = "frozen", "vae", "truth"
BASELINES = (FROZEN, VAE, TRUTH)
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One folder of `longvie generate`. Folders of the same name are the same run with other noise seeds."""

    name: str
    uri: str
    take: int  # which of the folders of that name, from 0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """One job.

    Args:
        generated: NAME=URI each, or a URI alone, which is named "run".
        reference: what `longvie prepare` or `longvie render` wrote.
        against: the run that others are compared with; None: the first.
        vae: the model whose autoencoder gives the VAE ceiling; None: the embedded one; "none": no such row.
        depth, tracker: what measures depth and tracks again, as in prepare.
        vbench_json: NAME=FILE each, what VBench wrote about that run.
        vbench_python: Python of an environment with VBench, which is then run; None: it is not.
        workers: None for as many as fit, 0 for this process.
    """

    generated: tuple[str, ...]
    reference: str
    out: str
    against: str | None = None
    vae: str | None = None
    depth: str = "builtin"
    tracker: str = "lucas-kanade"
    lpips: bool = False
    vbench_json: tuple[str, ...] = ()
    vbench_python: str | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    report: bool = True
    restart: bool = False
    workers: int | None = None
    threads_per_worker: int = 1
    gpus_per_worker: float = 0.0
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        if not self.generated:
            raise UserError("--generated is missing; give NAME=URI, a folder of longvie generate")
        if self.resamples < 100:
            raise UserError(f"--resamples is {self.resamples}; an interval needs 100 or more")
        for name, value, least in (
            ("workers", self.workers or 0, 0),
            ("threads-per-worker", self.threads_per_worker, 1),
        ):
            if value < least:
                raise UserError(f"--{name} is {value}; give {least} or more")
        if self.against is not None and self.against not in self.names:
            raise UserError(f"--against {self.against} is no run; choose one of {', '.join(self.names)}")

    @property
    def runs(self) -> tuple[RunFolder, ...]:
        """The folders, in the order given."""
        found: list[RunFolder] = []
        for given in self.generated:
            name, uri = named(given, "run")
            if name in BASELINES:
                raise UserError(f"--generated {given}: {name} is the name of a baseline; choose another")
            if not _NAME.fullmatch(name):
                raise UserError(f"--generated {given}: name {name!r} is not letters, digits, '.', '_', '+' or '-'")
            found.append(RunFolder(name=name, uri=uri, take=sum(run.name == name for run in found)))
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.name for run in self.runs))

    @property
    def base(self) -> str:
        """The run that others are compared with."""
        return self.against or self.names[0]

    def placement(self) -> dict[str, Any]:
        return {"gpus": self.gpus_per_worker, "threads": self.threads_per_worker, "wait_seconds": self.wait_for_nodes}


def named(given: str, default: str) -> tuple[str, str]:
    """NAME and URI of `NAME=URI`; a path with a slash before its first `=` has no name."""
    name, equals, uri = given.partition("=")
    if equals and uri and "/" not in name:
        return name, uri
    return default, given
