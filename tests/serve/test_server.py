"""`longvie serve` as a process of its own, over its own Ray: killed, restarted, drained; and by OpenAI's client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from serve.store import JobStore
from tests.pipelines.helpers import Inputs, artifacts, commits_of, run

pytestmark = pytest.mark.timeout(900)  # a busy machine starts Ray slowly
ROOT = Path(__file__).resolve().parents[2]
FRAMES = 121  # sixteen segments: time enough to be killed in


class Server:
    """A server over one home; it may be started again. Of the flags given, the last of a name holds."""

    def __init__(self, home: Path, model: Path, *flags: str) -> None:
        self.home, self.model, self.flags = home, model, flags
        self.store = JobStore(f"sqlite:///{home}/jobs.sqlite")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "serve", "serve", "--home", str(self.home), "--model", str(self.model)]
        self.log = self.home / f"log{time.monotonic_ns()}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", "0", "--lease-seconds", "2", "--gpus", "0", *self.flags],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        try:
            found = until(lambda: re.search(r"on (http://\S+)", self.log.read_text()), 600, self._died)
        except TimeoutError:
            self.kill()
            raise
        self.url = found[1]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def post(self, inputs: Inputs, **fields: Any) -> str:
        image = {"first_frame": ("f.png", Path(inputs / "first.png").read_bytes())}
        answer = self.client.post("/v1/videos", data={"prompt": "a red ball", **fields}, files=image)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def get(self, video_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/videos/{video_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, video_id: str) -> dict[str, Any]:
        until(lambda: self.get(video_id)["status"] in ("completed", "failed"), 240)
        return self.get(video_id)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment below this server."""
        return [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if f"ServeReplica:longvie:{deployment}" in " ".join(process.cmdline())
        ]

    def kill(self) -> None:
        """kill -9 of the server, as a machine's OOM killer would."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(below, timeout=60)  # Ray's processes end with their driver

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def _died(self) -> None:
        assert self.process.poll() is None, self.log.read_text()


def until(found: Callable[[], Any], seconds: float, check: Callable[[], None] = lambda: None) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check()
        if value := found():
            return value
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), toy_folder)
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")  # of OpenAI's own servers
def test_the_official_client_makes_lists_loads_and_deletes(server: Server, inputs: Inputs) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="not needed")
    with Path(inputs / "first.png").open("rb") as image:
        video = client.videos.create(prompt="a red ball", seconds="4", size="48x32", input_reference=image)  # type: ignore[arg-type]
    assert (video.status, video.seconds, video.size) == ("queued", "4", "48x32")
    video = client.videos.poll(video.id, poll_interval_ms=100)
    assert (video.status, video.progress) == ("completed", 100)
    assert next(iter(client.videos.list(limit=1))).id == video.id
    content = client.videos.download_content(video.id).read()
    assert content[4:8] == b"ftyp"
    assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"
    longer = client.videos.extend(prompt="night", seconds="4", video=("own.mp4", content))
    assert longer.to_dict()["extends"] == video.id, "what was downloaded from here is known here"
    assert client.videos.poll(longer.id, poll_interval_ms=100).seconds == "8"
    uploaded = client.videos.extend(prompt="night", seconds="4", video=Path(inputs / "dense.mp4"))
    assert client.videos.poll(uploaded.id, poll_interval_ms=100).seconds == "7.25"
    remixed = client.videos.remix(video.id, prompt="night")
    assert remixed.remixed_from_video_id == video.id
    assert client.videos.poll(remixed.id, poll_interval_ms=100).status == "completed"
    for made in (video, longer, uploaded, remixed):
        assert client.videos.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(made.id)


def test_segments_are_watched_while_the_next_are_made(server: Server, inputs: Inputs) -> None:
    video_id = server.post(inputs, num_frames=FRAMES)
    seen: list[int] = []
    with server.client.stream("GET", f"/v1/videos/{video_id}/events", timeout=240) as answer:
        for line in answer.iter_lines():
            if line == "event: segment":
                text = server.client.get(f"/v1/videos/{video_id}/hls/playlist.m3u8").text
                seen.append(text.count("#EXTINF"))
                if len(seen) == 1:
                    assert "#EXT-X-ENDLIST" not in text
                    assert server.client.get(f"/v1/videos/{video_id}/hls/00000.m4s").status_code == 200
    assert len(seen) == 15
    assert seen == sorted(seen)
    assert all(count >= told for told, count in enumerate(seen, start=1)), "what is told is in the playlist"
    assert server.get(video_id)["status"] == "completed"


@pytest.fixture(scope="module")
def whole(inputs: Inputs, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    row = {"video_id": "a", "first_frame": inputs / "first.png", "prompt": "a red ball", "num_frames": FRAMES}
    run(inputs.manifest(folder, row), folder / "out", toy_folder)
    return artifacts(folder / "out" / "a")


def check(server: Server, video_id: str, whole: dict[str, bytes]) -> None:
    video = server.wait(video_id)
    assert (video["status"], video["segments_done"]) == ("completed", 15), video
    assert artifacts(server.home / "videos" / video_id) == whole
    told = [data["segment"] for _, kind, data in server.store.events(video_id) if kind == "segment"]
    assert told == list(range(15))


def after(server: Server, video_id: str, segments: int) -> dict[str, bytes]:
    until(lambda: server.get(video_id)["segments_done"] >= segments, 120)
    return commits_of(server.home / "videos" / video_id)


@pytest.mark.slow
def test_an_engine_and_the_api_are_killed_and_replaced(server: Server, inputs: Inputs, whole: dict[str, bytes]) -> None:
    video_id = server.post(inputs, num_frames=FRAMES)
    before = after(server, video_id, 2)
    for process in server.replicas("engine"):
        process.kill()
    assert server.get(video_id)["status"] == "in_progress", "the API does not notice"
    after(server, video_id, len(before) + 1)
    for process in server.replicas("api"):
        process.kill()
    until(lambda: _answers(server), 120)
    check(server, video_id, whole)
    assert before.items() <= commits_of(server.home / "videos" / video_id).items(), "nothing is made twice"


@pytest.mark.slow
def test_the_whole_server_is_killed_and_started_again(server: Server, inputs: Inputs, whole: dict[str, bytes]) -> None:
    working = server.post(inputs, num_frames=FRAMES)
    waiting = server.post(inputs, num_frames=FRAMES)
    before = after(server, working, 2)
    server.kill()
    server.start()
    for video_id in (working, waiting):
        check(server, video_id, whole)
    assert before.items() <= commits_of(server.home / "videos" / working).items()


@pytest.mark.slow
def test_drained_and_started_again(server: Server, inputs: Inputs, whole: dict[str, bytes]) -> None:
    video_id = server.post(inputs, num_frames=FRAMES)
    after(server, video_id, 1)
    assert server.stop() == 0
    job = server.store.get(video_id)
    assert job is not None
    assert (job.status, job.failures) == ("queued", 0)
    server.start()
    check(server, video_id, whole)


def _answers(server: Server) -> bool:
    try:
        return server.client.get("/healthz").status_code == 200
    except httpx.HTTPError:
        return False
