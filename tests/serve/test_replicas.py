"""Several engines on one cluster: they share the work, and one that is killed is not missed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tests.pipelines.helpers import Inputs, artifacts, run
from tests.serve.test_server import FRAMES, ROOT, Server, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray with more CPUs than the machine may have: engines wait for each other, but they are there."""
    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(address="local", num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def engines() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "ServeReplica:longvie:engine" in " ".join(process.cmdline())
    ]


def test_one_of_two_engines_is_killed(
    address: str, inputs: Inputs, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("replicas")
    server = Server(home, toy_folder, "--address", address, "--replicas", "2")
    try:
        videos = [server.post(inputs, num_frames=FRAMES) for _ in range(3)]
        until(lambda: sum(server.get(one)["segments_done"] > 0 for one in videos) == 2, 240)
        assert len(engines()) == 2, "two are at work at once"
        engines()[0].kill()
        states = [server.get(one)["status"] for one in videos]
        assert states.count("failed") == 0, "the API does not notice"
        ends = [server.wait(one) for one in videos]
        assert [one["status"] for one in ends] == ["completed"] * 3, ends
        row = {"video_id": "a", "first_frame": inputs / "first.png", "prompt": "a red ball", "num_frames": FRAMES}
        run(inputs.manifest(home, row), home / "whole", toy_folder)
        whole = artifacts(home / "whole" / "a")
        for one in videos:
            assert artifacts(home / "videos" / one) == whole
            told = [data["segment"] for _, kind, data in server.store.events(one) if kind == "segment"]
            assert told == list(range(15)), "nothing is made twice"
        assert server.store.totals()["jobs_taken_over"] == 1
    finally:
        server.kill()


def test_gpus_that_are_not_there_are_refused_in_one_line(toy_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serve", "serve", "--home", str(tmp_path), "--model", str(toy_folder)]
    done = subprocess.run(
        [*command, "--port", "0", "--gpus", "0.5"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("longvie:")]
    assert "0.5 GPU" in line
    assert "--replicas" in line
