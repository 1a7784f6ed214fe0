"""What serving costs: `python benchmarks/serve.py [--jobs N] [--held N] [--seconds S] [--only rates]`.

Everything is relative to something measured in the same run, on the embedded model:

- GET of a video and POST of one (a first frame, recorded durably), requests/s at 8 clients, against a bare Serve
  deployment with the same FastAPI that reads the same body and answers a constant. Aimed at: 90 % and 80 %.
- p99 of GET while an engine generates, against idle. Aimed at: at most 2.
- Time from POST to the first playable bytes of HLS, against the first segment's own denoising and decoding: of a
  segment of one step, which takes a fraction of a second, and of one that takes seconds, as real models' do.
- `--held` jobs queued at once and then drained (cancelled), none lost.
- Resident memory of the engine after the first quarter of `--jobs` videos, and after all.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # or `serve` would be this file, not the package

import psutil
import ray
from fastapi import FastAPI, Request
from ray import serve as ray_serve

from longvie.media import write_image
from longvie.scenes import render_scene
from pipelines import cluster
from serve.app import build_app
from serve.run import ServeOptions, free_port
from serve.settings import Limits
from serve.store import JobStore

CLIENTS = 8
ROUNDS = 24
BUSY_SECONDS = 6.0


def bare_app() -> Any:
    """A Serve deployment that does nothing."""
    app = FastAPI()

    @app.get("/video")
    async def get() -> dict[str, str]:
        return {"id": "video"}

    @app.post("/video")
    async def post(request: Request) -> dict[str, str]:
        form = await request.form()
        return {"id": str(len(form))}

    return ray_serve.deployment(name="bare", max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})(
        ray_serve.ingress(app)(type("Bare", (), {}))
    ).bind()


class Http:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def __call__(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> tuple[int, bytes]:
        self._connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def rate(port: int, seconds: float, ask: Callable[[Http], int]) -> tuple[float, list[float]]:
    """Requests a second of all clients together, and how long each took."""
    times: list[float] = []
    stop = time.monotonic() + seconds

    def client() -> None:
        connection = Http(port)
        while time.monotonic() < stop:
            started = time.perf_counter()
            status = ask(connection)
            times.append(time.perf_counter() - started)
            assert status == 200, status

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / seconds, times


def p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]


def multipart(**fields: bytes | str) -> tuple[bytes, str]:
    parts = []
    for name, value in fields.items():
        file = '; filename="f.png"' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        parts.append(f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n")
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def create(ask: Http, image: bytes, **fields: str) -> str:
    status, body = ask("POST", "/v1/videos", *multipart(first_frame=image, prompt="a video", **fields))
    assert status == 200, body
    return json.loads(body)["id"]


def wait(ask: Http, video_id: str) -> dict[str, Any]:
    while True:
        video = json.loads(ask("GET", f"/v1/videos/{video_id}")[1])
        if video["status"] in ("completed", "failed"):
            return video
        time.sleep(0.02)


def engine_memory() -> int:
    """Resident bytes of the engine's process."""
    found = [
        process.memory_info().rss
        for process in psutil.Process().children(recursive=True)
        if "longvie:engine" in " ".join(process.cmdline())
    ]
    return max(found)


def control_plane(port: int, image: bytes, seconds: float, store: JobStore) -> dict[str, Any]:
    """Ratios to the bare deployment, medians over rounds with their quartiles. The queue is full of POSTs' jobs at the
    end.

    A shared machine changes its speed within seconds: what is compared is measured in turns, for `seconds` each, and in
    the other order in every second round.
    """
    video_id = create(Http(port), image, seconds="1")
    wait(Http(port), video_id)
    body, kind = multipart(first_frame=image, prompt="a video", seconds="1")
    store.set_draining("bench", draining=True)  # POSTs are measured without the engine that they would start
    time.sleep(2)
    asks: dict[str, Callable[[Http], int]] = {
        "bare_get": lambda ask: ask("GET", "/bare/video")[0],
        "get": lambda ask: ask("GET", f"/v1/videos/{video_id}")[0],
        "bare_post": lambda ask: ask("POST", "/bare/video", body, kind)[0],
        "post": lambda ask: ask("POST", "/v1/videos", body, kind)[0],
    }
    rates: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(ROUNDS):
        for name in reversed(asks) if number % 2 else asks:
            rates[name].append(rate(port, seconds, asks[name])[0])
    said: dict[str, Any] = {name: round(statistics.median(rates[name]), 1) for name in ("bare_get", "bare_post")}
    for name in ("get", "post"):
        ratios = [ours / bare for ours, bare in zip(rates[name], rates[f"bare_{name}"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        said |= {name: round(middle, 3), f"{name}_quartiles": [round(low, 3), round(high, 3)]}
    return said


def drain(port: int) -> int:
    """Cancel whatever waits; how many."""
    ask, count = Http(port), 0
    while True:
        listed = json.loads(ask("GET", "/v1/videos?limit=100")[1])["data"]
        if not listed:
            return count
        for video in listed:
            ask("DELETE", f"/v1/videos/{video['id']}")
        count += len(listed)


def watch(ask: Http, port: int, image: bytes, store: JobStore, options: Any) -> None:
    """First playable bytes, GET beside an engine at work, and the engine's memory."""
    for steps in ("1", "40"):
        firsts = []
        for _ in range(3):
            started = time.perf_counter()
            video_id = create(ask, image, seconds="4", steps=steps)
            while ask("GET", f"/v1/videos/{video_id}/hls/00000.m4s")[0] != 200:
                time.sleep(0.01)
            first = time.perf_counter() - started
            wait(ask, video_id)
            firsts.append((first, store.segments(video_id)[0][1]))
        first, made = min(firsts)
        print(json.dumps({"steps": int(steps), "first_bytes_seconds": round(first, 3),
                          "first_segment_seconds": round(made, 3), "ratio": round(first / made, 3)}))  # fmt: skip

    get = lambda ask: ask("GET", f"/v1/videos/{video_id}")[0]  # noqa: E731
    _, idle = rate(port, BUSY_SECONDS, get)
    busy_id = create(ask, image, seconds="600")
    time.sleep(2)
    _, busy = rate(port, BUSY_SECONDS, get)
    ask("POST", f"/v1/videos/{busy_id}/cancel")
    wait(ask, busy_id)
    print(json.dumps({"get_p99_idle_ms": round(1e3 * p99(idle), 1), "busy_ms": round(1e3 * p99(busy), 1),
                      "ratio": round(p99(busy) / p99(idle), 2)}))  # fmt: skip

    memory = []
    for k in range(options.jobs):
        assert wait(ask, create(ask, image, seconds="1"))["status"] == "completed"
        if k + 1 in (max(1, options.jobs // 4), options.jobs):
            memory.append(engine_memory())
    print(json.dumps({"jobs": options.jobs, "engine_bytes": memory, "ratio": round(memory[-1] / memory[0], 3)}))


def hold(ask: Http, port: int, image: bytes, store: JobStore, held_jobs: int) -> None:
    """So many jobs queued at once, then taken back."""
    for _ in range(held_jobs):
        create(ask, image, seconds="1")
    held = store.counts()["queued"]
    assert held == held_jobs, held
    print(json.dumps({"held": held, "drained": drain(port), "left": sum(store.counts().values())}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--held", type=int, default=1000)
    parser.add_argument("--only", choices=["rates"], help="requests a second alone")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement of a rate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, cluster.cluster():
        write_image(Path(home) / "first.png", render_scene(0, 1, 64, 96).frames[0])
        image = (Path(home) / "first.png").read_bytes()
        port = free_port("127.0.0.1")
        limits = Limits(queued=1_000_000)
        settings = ServeOptions(home=home, port=port, limits=limits).settings(0.0)
        settings = replace(settings, boot="bench")
        store = JobStore(settings.database_url)
        ray_serve.start(
            http_options={"host": "127.0.0.1", "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        ray_serve.run(build_app(settings), name="longvie", route_prefix="/")
        ray_serve.run(bare_app(), name="bare", route_prefix="/bare")
        ask = Http(port)
        print(f"{psutil.cpu_count()} CPUs, load {psutil.getloadavg()[0]:.1f}, ray {ray.__version__}")

        if options.only is None:
            watch(ask, port, image, store, options)
        print(json.dumps(control_plane(port, image, options.seconds, store)))
        drain(port)
        if options.only is None:
            hold(ask, port, image, store, options.held)
        ray_serve.shutdown()


if __name__ == "__main__":
    main()
