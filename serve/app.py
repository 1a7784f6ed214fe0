"""The server on Ray Serve: three deployments that share nothing but the store and the files.

`api` answers HTTP. `engine` holds the model, GPU-pinned, one job a replica; Serve replaces a replica that dies and
adds some while calls wait. `keeper` asks engines to work, once for each job there is, and tidies. Whichever dies,
the others do not notice: what was going on lies in the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve.janitor import tidy
from serve.places import Places
from serve.settings import ServeSettings
from serve.store import JobStore

_POLL_SECONDS = 0.2
_TIDY_SECONDS = 30.0
LOGGING = {"log_level": "WARNING", "enable_access_log": False}  # a line a request, written at once, costs too much
_API_CPUS = 0.1  # of a replica; it waits for the store most of the time
_ONGOING = 256  # requests an API replica takes at once; event streams stay open
_LOAD_SECONDS = 3600.0  # that a model may take to load before Serve looks at an engine's health
_GRACE_SECONDS = 3600.0  # that an engine may take to finish its segment on shutdown
logger = logging.getLogger(__name__)


class EngineReplica:
    """An engine as Ray Serve runs it."""

    def __init__(self, settings: ServeSettings) -> None:
        from serve.engine.engine import Engine  # torch: only here

        self._engine = Engine(settings)
        self._engine.start()

    async def work(self) -> str | None:
        """Make one job, if one waits; its id."""
        return await asyncio.to_thread(self._engine.work_one)

    async def pid(self) -> int:
        return os.getpid()


class Keeper:
    """Has as many calls under way to engines as there are jobs, up to one an engine that may be."""

    def __init__(self, settings: ServeSettings, engine: DeploymentHandle) -> None:
        self._settings = settings
        self._engine = engine
        self._store = JobStore(settings.database_url, settings.retention_seconds)
        self._places = Places(settings.home)
        self._calls: set[asyncio.Task[None]] = set()
        self._tasks = [asyncio.ensure_future(self._keep()), asyncio.ensure_future(self._tidy())]

    async def check_health(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()  # a loop that ended, ended with an error: Serve starts another keeper

    async def _keep(self) -> None:
        while True:
            wanted = min(await asyncio.to_thread(self._store.num_workable), self._settings.replicas[1])
            for _ in range(wanted - len(self._calls)):
                call = asyncio.ensure_future(self._call())
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            await asyncio.sleep(_POLL_SECONDS)

    async def _call(self) -> None:
        try:
            if await self._engine.work.remote() is None:
                await asyncio.sleep(_POLL_SECONDS)  # others are at all there is
        except (RayError, RayServeException) as error:
            # it died, or its job has a bug: the lease runs out, and another takes it over
            logger.warning("an engine's call ended: %s", type(error).__name__)
            await asyncio.sleep(_POLL_SECONDS)

    async def _tidy(self) -> None:
        while True:
            await asyncio.to_thread(tidy, self._store, self._places)
            await asyncio.sleep(_TIDY_SECONDS)


def build_app(settings: ServeSettings) -> serve.Application:
    """All three, bound to each other."""
    threads = str(settings.threads)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not settings.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray would show it every GPU
    low, high = settings.replicas
    engine = serve.deployment(
        name="engine",
        max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": low,
            "max_replicas": high,
            "initial_replicas": low,
            "target_ongoing_requests": 1,
        },
        ray_actor_options={
            "num_cpus": settings.threads,
            "num_gpus": settings.gpus,
            "runtime_env": {"env_vars": environment},
        },
        graceful_shutdown_timeout_s=_GRACE_SECONDS,
        health_check_period_s=2,
    )(EngineReplica).bind(settings)
    keeper = serve.deployment(
        name="keeper", num_replicas=1, ray_actor_options={"num_cpus": 0}, health_check_period_s=2
    )(Keeper).bind(settings, engine)

    def build_asgi() -> Any:
        from serve.api import build_api

        return build_api(settings)

    @serve.deployment(
        name="api",
        max_ongoing_requests=_ONGOING,
        logging_config=LOGGING,
        ray_actor_options={
            "num_cpus": _API_CPUS,
            "runtime_env": {"env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}},
        },
        health_check_period_s=2,
        graceful_shutdown_timeout_s=2,
    )
    @serve.ingress(build_asgi)
    class Api:
        def __init__(self, keeper: DeploymentHandle) -> None:
            self._keeper = keeper  # bound, so that it is deployed with the API

    return Api.bind(keeper)  # type: ignore[attr-defined]  # serve.ingress hides that it is a deployment
