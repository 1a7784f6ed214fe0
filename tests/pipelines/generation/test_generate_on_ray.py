"""The job over Ray actors: however many workers there are and whoever is killed, the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.cluster import Placement
from pipelines.errors import UserError
from pipelines.generation.worker import GeneratorWorker
from tests.pipelines.helpers import (
    HELD_AT,
    NUM_SEGMENTS,
    Executioner,
    Inputs,
    Log,
    MeetingWorker,
    all_points,
    artifacts,
    commits_of,
    killed_worker,
    run,
)

ROOT = Path(__file__).resolve().parents[3]
VIDEOS = {"a": {"seed": 3}, "b": {"seed": 4, "num_frames": 10, "prompts": ["night", "ball"]}, "c": {"seed": 5}}
LENGTHS = {"a": 4, "b": 2, "c": 4}


@pytest.fixture(scope="module")
def source(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [inputs.row(video_id, **changes) for video_id, changes in VIDEOS.items()]
    return inputs.manifest(tmp_path_factory.mktemp("on_ray"), *rows)


@pytest.fixture(scope="module")
def whole(source: str, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What this process alone makes, one video after the other, uninterrupted."""
    out = tmp_path_factory.mktemp("whole")
    run(source, out, toy_folder)
    return {video_id: artifacts(out / video_id) for video_id in VIDEOS}


def same(out: Path, whole: dict[str, dict[str, bytes]]) -> bool:
    return {video_id: artifacts(out / video_id) for video_id in VIDEOS} == whole


@pytest.mark.usefixtures("ray_here")
class TestWorkers:
    def test_two_workers_with_declared_gpus(
        self, source: str, toy_folder: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
    ) -> None:
        """Longest first, each video on one worker, each worker on its own GPU; the bytes of one process alone."""
        log, out = Log(), tmp_path / "out"
        outcomes = run(
            source,
            out,
            toy_folder,
            workers=2,
            gpus_per_worker=1,
            device="cpu",
            report=log,
            worker_class=meeting(tmp_path),
        )
        assert [(o.video_id, o.status, o.made) for o in outcomes] == [(v, "done", n) for v, n in LENGTHS.items()]
        assert same(out, whole)
        first = [event["video_id"] for event in log.of("segment") if event["segment"] == 0]
        assert sorted(first[:2]) == ["a", "c"], "the longest videos begin"
        assert first[2] == "b"
        workers = {v: {e["worker"] for e in log.of("segment") if e["video_id"] == v} for v in VIDEOS}
        assert all(len(names) == 1 for names in workers.values()), "a video stays on its worker"
        assert {name.split()[-1] for names in workers.values() for name in names} == {"0", "1"}, "one GPU each"
        assert {event["segment"] for event in log.of("step")} <= set(range(NUM_SEGMENTS))
        again = run(source, out, toy_folder, workers=1, gpus_per_worker=0)
        assert {outcome.status for outcome in again} == {"up to date"}, "where it ran is not part of what it is"

    def test_killed_workers(
        self, source: str, toy_folder: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
    ) -> None:
        """Workers die at three points; their videos go on elsewhere, from the last carry."""
        self.kill(
            source, toy_folder, whole, tmp_path, ["a/carry/00001.safetensors:half", "step:2:1", "c/video.mp4:whole"]
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(4))
    def test_killed_workers_at_many_points(
        self, source: str, toy_folder: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path, seed: int
    ) -> None:
        points = [p for p in all_points("a") + all_points("c") if "manifest" not in p]
        self.kill(source, toy_folder, whole, tmp_path, random.Random(seed).sample(sorted(set(points)), 6))

    def kill(
        self, source: str, toy: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path, points: list[str]
    ) -> None:
        marks, log = tmp_path / "marks", Log()
        marks.mkdir()
        outcomes = run(
            source,
            tmp_path / "out",
            toy,
            workers=2,
            gpus_per_worker=0,
            worker_class=killed_worker(Executioner(marks, points)),
            report=log,
            max_retries=8,
        )
        died = len(list(marks.iterdir()))
        assert died == len(points), "every point was reached, and killed its worker"
        assert {outcome.status for outcome in outcomes} == {"done"}
        assert same(tmp_path / "out", whole)
        assert len(log.of("worker lost")) == died
        made = sum(outcome.made for outcome in outcomes)
        assert sum(LENGTHS.values()) - died <= made <= sum(LENGTHS.values()), "none was made and reported twice"
        reported = [(event["video_id"], event["segment"]) for event in log.of("segment")]
        assert len(reported) == len(set(reported))

    def test_retries_are_bounded_and_others_finish(self, source: str, toy_folder: Path, tmp_path: Path) -> None:
        """An error that stays fails its video, after as many tries as were asked for, with its message."""
        log = Log()
        outcomes = {
            outcome.video_id: outcome
            for outcome in run(
                source,
                tmp_path,
                toy_folder,
                workers=2,
                gpus_per_worker=0,
                worker_class=_FailingWorker,
                report=log,
                max_retries=1,
            )
        }
        assert {v: o.status for v, o in outcomes.items()} == {"a": "failed", "b": "done", "c": "failed"}
        assert outcomes["a"].error == "segment 1: OSError: the disk of a is full"
        assert outcomes["c"].error == "segment 2: ValueError: c is beyond repair"
        assert [event["video_id"] for event in log.of("retry")] == ["a"], "an error in the input is not tried again"
        manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
        assert (manifest["status"], manifest["error"]) == ("failed", outcomes["a"].error)
        assert len(commits_of(tmp_path / "a")) == 1
        healed = run(source, tmp_path, toy_folder)
        assert [(o.status, o.made) for o in healed] == [("done", 3), ("up to date", 0), ("done", 2)]

    def test_workers_that_cannot_start(self, source: str, toy_folder: Path, tmp_path: Path) -> None:
        outcomes = run(
            source,
            tmp_path,
            toy_folder,
            workers=1,
            gpus_per_worker=0,
            worker_class=_StillbornWorker,
            max_retries=1,
        )
        assert {outcome.status for outcome in outcomes} == {"failed"}
        assert outcomes[0].error == "no worker could start: no model here"

    def test_a_gpu_worker_without_a_gpu(self, source: str, toy_folder: Path, tmp_path: Path) -> None:
        """A node that claims a GPU it does not have is an error, never a quiet run on the CPU."""
        outcomes = run(source, tmp_path, toy_folder, workers=1, gpus_per_worker=1)
        assert {outcome.status for outcome in outcomes} == {"failed"}
        assert outcomes[0].error is not None
        assert "was given a GPU but torch sees none" in outcomes[0].error

    def test_a_cluster_that_lost_its_nodes(
        self, monkeypatch: pytest.MonkeyPatch, source: str, toy_folder: Path, tmp_path: Path
    ) -> None:
        """Workers that fitted when the plan was made, and fit nowhere now: an end with a reason, not a hang."""
        gone = Placement(workers=1, gpus_per_worker=3, threads_per_worker=1)
        monkeypatch.setattr("pipelines.cluster.place", lambda *_, **__: gone)
        monkeypatch.setattr("pipelines.generation.scheduling._STRANDED_SECONDS", 1.0)
        outcomes = run(source, tmp_path, toy_folder, workers=1, gpus_per_worker=3)
        assert {outcome.status for outcome in outcomes} == {"failed"}
        assert outcomes[0].error == "the cluster has no node left with a place for a worker"

    def test_plans_that_cannot_be_placed_write_nothing(self, source: str, toy_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="do not fit"):
            run(source, tmp_path / "out", toy_folder, workers=None, gpus_per_worker=3)
        with pytest.raises(UserError, match="--device cuda needs --gpus-per-worker"):
            run(source, tmp_path / "out", toy_folder, workers=1, gpus_per_worker=0, device="cuda")
        assert not (tmp_path / "out").exists()


class _FailingWorker(GeneratorWorker):
    def make_segment(self, job: Any, index: int) -> Any:
        if (job.video_id, index) == ("a", 1):
            raise OSError("the disk of a is full")
        if (job.video_id, index) == ("c", 2):
            raise ValueError("c is beyond repair")
        return super().make_segment(job, index)


class _StillbornWorker(GeneratorWorker):
    def setup(self, video_id: str) -> dict[str, Any]:
        raise RuntimeError("no model here")


def meeting(folder: Path) -> type[GeneratorWorker]:
    """A worker class of which two must be ready before either begins, however slowly processes start here."""
    marks = folder / "meeting"
    marks.mkdir()

    class Meeting(MeetingWorker):
        def setup(self, video_id: str) -> dict[str, Any]:
            os.environ["MEETING"] = f"2:{marks}"
            return super().setup(video_id)

    return Meeting


def test_the_driver_is_killed(
    source: str, toy_folder: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """`longvie generate` dies with its Ray; the same command goes on, and makes none of the committed again."""
    arguments = ["generate", source, "--out", str(tmp_path / "out"), "--model", str(toy_folder), "--workers", "2"]
    arguments += ["--log-format", "json"]
    held = (  # the command itself, its workers held in the midst of the two long videos
        "import functools, sys, pipelines.generation.generate as g; from tests.pipelines.helpers import HeldWorker\n"
        "g.generate = functools.partial(g.generate, worker_class=HeldWorker)\n"
        "from pipelines.cli import main; main(sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen(
        [sys.executable, "-c", held, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    workers, made = [], 0
    for line in driver.stdout:
        event = json.loads(line)
        if event["event"] == "worker":
            workers.append(int(event["worker"].split(":")[1].split()[0]))
        made += event["event"] == "segment"
        if made == 2 * HELD_AT:
            break
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    for pid in workers:
        wait_for_the_end_of(pid)
    committed = {video_id: commits_of(tmp_path / "out" / video_id) for video_id in VIDEOS}
    assert {video_id: len(commits) for video_id, commits in committed.items()} == {"a": HELD_AT, "b": 0, "c": HELD_AT}
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    again = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert sum(event["event"] == "segment" for event in events) == sum(LENGTHS.values()) - 2 * HELD_AT
    assert same(tmp_path / "out", whole)
    for video_id, commits in committed.items():
        assert commits.items() <= commits_of(tmp_path / "out" / video_id).items()


def wait_for_the_end_of(pid: int) -> None:
    """A worker whose driver is gone ends by itself, without anyone's help."""
    deadline = time.monotonic() + 120
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"worker {pid} outlives its driver"
        time.sleep(0.2)
