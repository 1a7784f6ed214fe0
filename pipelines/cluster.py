"""The edge to Ray: joining or starting a cluster, whether a plan fits it, and plain classes made remote.

It knows resources, not videos. A plan that can never be placed is refused at once; nothing here waits for ever.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.autoscaler.sdk import request_resources

from pipelines.errors import UserError, first_line

_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How many workers, and what each is given."""

    workers: int
    gpus_per_worker: float  # a part of one, for workers that share it
    threads_per_worker: float  # CPUs; less than one for workers that wait for something else

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_worker else "cpu"

    def __str__(self) -> str:
        each = f"{self.gpus_per_worker:g} GPU" if self.gpus_per_worker else "no GPU"
        threads = f"{self.threads_per_worker:g} CPU thread{'s' if self.threads_per_worker > 1 else ''}"
        return f"{self.workers} worker{'s' if self.workers > 1 else ''} with {each} and {threads} each"


@contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """Ray for the duration: the cluster at `address` (or RAY_ADDRESS, inside `ray job submit`), else one of our own.

    A Ray that this process is already connected to is used as it is and left running.
    """
    if ray.is_initialized():
        yield
        return
    joined = address or os.environ.get("RAY_ADDRESS")
    if joined:
        _check_address(joined)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray Data's own actor pools make Ray warn, an "error" on stderr each pass; what fails reaches us as exceptions
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=joined or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if joined else False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not joined:
            raise
        raise UserError(f"--address {joined}: no Ray cluster answers there ({first_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def place(
    workers: int | None,
    gpus_per_worker: int | None,
    threads_per_worker: int,
    num_videos: int,
    wait_seconds: float = 0.0,
) -> Placement:
    """The workers to start, or `UserError` if the cluster can never hold them.

    Args:
        workers: None for as many as fit and videos need.
        gpus_per_worker: None for 1 where the cluster has GPUs and 0 where it has none.
        wait_seconds: how long an autoscaling cluster may take to add what is missing.
    """
    if gpus_per_worker is None:
        gpus_per_worker = _usual_gpus()
    wanted = min(workers or 1, num_videos)
    fitting = _make_room(wanted, gpus_per_worker, threads_per_worker, wait_seconds)
    if fitting < wanted:
        raise UserError(
            f"{_no_room('worker(s)', wanted, gpus_per_worker, threads_per_worker, fitting)}; lower --workers, "
            "--gpus-per-worker or --threads-per-worker, or give --wait-for-nodes SECONDS where it can grow"
        )
    count = wanted if workers else min(fitting, num_videos)
    return Placement(workers=count, gpus_per_worker=gpus_per_worker, threads_per_worker=threads_per_worker)


def place_stage(
    stage: str,
    workers: int | None,
    gpus: float | None,
    threads: float,
    wait_seconds: float = 0.0,
    remedy: str = "--workers",
) -> Placement:
    """The workers of one stage of a job, or `UserError` if the cluster can never hold them.

    Args:
        workers: None for as many as fit.
        gpus: of each; a part of one is shared; None for 1 where the cluster has GPUs and 0 where it has none.
        remedy: the flags that lower what is asked for.
    """
    if gpus is None:
        gpus = _usual_gpus()
    fitting = _make_room(workers or 1, gpus, threads, wait_seconds)
    if fitting < (workers or 1):
        raise UserError(
            f"{_no_room(f'{stage} worker(s)', workers or 1, gpus, threads, fitting)}; lower {remedy}, or give "
            "--wait-for-nodes SECONDS where it can grow"
        )
    return Placement(workers=workers or fitting, gpus_per_worker=gpus, threads_per_worker=threads)


def _usual_gpus() -> int:
    return int(any(node.get("GPU", 0) >= 1 for node in _nodes()))


def _make_room(wanted: int, gpus: float, cpus: float, wait_seconds: float) -> int:
    """How many such workers the cluster holds, once it has grown if it can."""
    bundle = _bundle(gpus, cpus)
    fitting = capacity(_nodes(), bundle)
    if fitting < wanted and wait_seconds:
        request_resources(bundles=[bundle] * wanted)
        deadline = time.monotonic() + wait_seconds
        while (fitting := capacity(_nodes(), bundle)) < wanted and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    return fitting


def _no_room(what: str, wanted: int, gpus: float, cpus: float, fitting: int) -> str:
    has = ", ".join(f"{sum(n.get(key, 0) for n in _nodes()):g} {key}" for key in ("CPU", "GPU"))
    return (
        f"{wanted} {what} with {gpus:g} GPU and {cpus:g} CPU each do not fit: the cluster has {has} on "
        f"{len(_nodes())} node(s), room for {fitting}"
    )


def can_place(placement: Placement) -> bool:
    """Whether the cluster, as it is now, has a node for one such worker."""
    return capacity(_nodes(), _bundle(placement.gpus_per_worker, placement.threads_per_worker)) > 0


def capacity(nodes: Sequence[Mapping[str, float]], bundle: Mapping[str, float]) -> int:
    """How many bundles the nodes hold; one bundle never spans two nodes."""
    return sum(min(int(node.get(key, 0) // amount) for key, amount in bundle.items()) for node in nodes)


def remote_worker(worker_class: type, placement: Placement) -> Any:
    """The class as an actor class with its resources pinned; `progress` is answered beside the work.

    Ray shows a GPU worker its own GPUs only. It would show a worker without GPUs all of them, so that is said here.
    """
    threads = str(placement.threads_per_worker)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not placement.gpus_per_worker:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return cast(Any, ray.remote)(
        num_cpus=placement.threads_per_worker,
        num_gpus=placement.gpus_per_worker,
        max_restarts=0,  # a new worker is a new actor: the scheduler decides, and loads the last carry
        max_task_retries=0,
        concurrency_groups={"watch": 1},
        runtime_env={"env_vars": environment},
    )(worker_class)


def _check_address(address: str) -> None:
    """Ray itself would try an address where nothing answers for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(f"--address {address} is not HOST:PORT or auto; run inside the cluster, or use ray job submit")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error


def _bundle(gpus: float, cpus: float) -> dict[str, float]:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
