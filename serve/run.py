"""`longvie serve`: starts the server, stays, and on SIGTERM or Ctrl-C lets engines finish their segment.

Killed in any other way, the same command again goes on from what the store and the files hold.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray
from ray import serve

from pipelines import cluster
from pipelines.errors import UserError
from pipelines.generation.plan import DTYPES, ModelChoice
from pipelines.storage import LocalStorage, check_writable, open_storage
from serve.app import LOGGING, build_app
from serve.settings import Limits, ModelCard, Owner, ServeSettings
from serve.store import JobStore

APP = "longvie"
_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What the command line says; `settings` makes it whole."""

    home: str
    model: ModelChoice = field(default_factory=ModelChoice)
    database: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: str = "1:1"
    gpus: float | None = None
    threads: int = 1
    dtype: str | None = None
    owners: tuple[Owner, ...] = ()
    limits: Limits = field(default_factory=Limits)
    url_prefixes: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    lease_seconds: float = 15.0
    retention_days: float = 7.0
    address: str | None = None

    def settings(self, gpus: float) -> ServeSettings:
        """Checked and complete; reads the model's files, so that a wrong one is told before anything starts."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UserError(f"--dtype is {self.dtype}; choose one of {', '.join(DTYPES)}")
        low, _, high = self.replicas.partition(":")
        if not (low.isdigit() and (high or low).isdigit()):
            raise UserError(f"--replicas {self.replicas}: give a number, or MIN:MAX")
        if self.retention_days < 0:
            raise UserError(f"--retention-days is {self.retention_days}; give 0 or more (0: for ever)")
        model = self.model.absolute()
        config = model.check()
        storage = open_storage(self.home)
        check_writable(self.home)
        if isinstance(storage, LocalStorage):
            storage.root.mkdir(parents=True, exist_ok=True)
        return ServeSettings(
            home=storage.uri,
            card=ModelCard(
                name="longvie-tiny" if model.model is None else Path(model.model).name,
                fingerprint=model.fingerprint(),
                segment_length=config.segment_length,
                fps=config.fps,
                height=config.height,
                width=config.width,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                size_multiple=config.size_multiple,
            ),
            model=model.model,
            control=model.control,
            attention=model.attention,
            database=self.database,
            dtype=self.dtype or ("bfloat16" if gpus else "float32"),
            device="cuda" if gpus else "cpu",
            threads=self.threads,
            host=self.host,
            port=self.port or free_port(self.host),
            replicas=(int(low), int(high or low)),
            gpus=gpus,
            owners=self.owners,
            limits=self.limits,
            url_prefixes=self.url_prefixes,
            origins=self.origins,
            lease_seconds=self.lease_seconds,
            retention_seconds=self.retention_days * 86400 or None,
            boot=secrets.token_hex(8),
        )


def run(options: ServeOptions) -> None:
    """Serve until told to stop. Raises `UserError` for what only the user can mend."""
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))  # so that Ray's workers import the same
    early = options.settings(options.gpus or 0.0)
    if not options.owners and options.host not in ("127.0.0.1", "localhost", "::1"):
        logging.getLogger(__name__).warning("no --tokens: everyone who reaches %s is let in", options.host)
    _check_port(early.host, early.port)
    store = JobStore(early.database_url)
    stop = threading.Event()
    with cluster.cluster(options.address):
        gpus = options.gpus
        if gpus is None:
            gpus = float(ray.cluster_resources().get("GPU", 0) >= 1)
        settings = replace(options.settings(gpus), port=early.port, boot=early.boot)
        cluster.place_stage("engine", settings.replicas[0], settings.gpus, settings.threads, remedy="--replicas")
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.host, "port": settings.port},
            logging_config=LOGGING,
        )
        serve.run(build_app(settings), name=APP, route_prefix="/")
        for number in (signal.SIGTERM, signal.SIGINT):  # only now: Ray sets handlers of its own while it starts
            signal.signal(number, lambda *_: stop.set())
        print(f"longvie serves {settings.card.name} on http://{settings.host}:{settings.port}", flush=True)
        stop.wait()
        print("finishing the segments at hand; the same command goes on with the rest", flush=True)
        store.set_draining(settings.boot, draining=True)
        stop.clear()  # a second signal does not wait
        hurried = False
        while store.num_at_work() and not hurried:
            hurried = stop.wait(_POLL_SECONDS)
        if options.address is not None:
            serve.delete(APP)  # a cluster may serve other applications, too
        elif not hurried:
            serve.shutdown()


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: cannot be listened at ({error.strerror})") from error


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
