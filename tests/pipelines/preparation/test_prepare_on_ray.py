"""Preparation over Ray Data: however many workers, whoever is killed, the same tree; nothing hangs; no GPU is seen."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipelines.cluster import Placement
from pipelines.errors import UserError
from pipelines.preparation.cli import prepare as command
from pipelines.preparation.passes import OnRay, Result
from pipelines.preparation.unit_worker import MAX_DEATHS, Job
from pipelines.preparation.units import Unit
from pipelines.storage import Storage, open_storage
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import (
    FPS,
    SEGMENT_LENGTH,
    SIZE,
    all_points,
    commits,
    killing,
    made,
    run,
    tree,
)
from tests.pipelines.preparation.prepare_helpers import write_clips as write_inputs

ROOT = Path(__file__).resolve().parents[3]
DEATHS = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_inputs(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What this process alone leaves, uninterrupted."""
    out = tmp_path_factory.mktemp("whole")
    run(source, out)
    return tree(out)


class EnvironmentStage:
    """Says what its process sees; or does what its task says."""

    name: ClassVar[str] = "scan"

    def __init__(self, storage: Storage) -> None:
        pass

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        match task["do"]:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                raise KeyError("a bug")
            case "sleep":
                time.sleep(0.05)
        return {
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "pid": os.getpid(),
        }


def units(*do: str) -> list[Unit]:
    return [
        Unit(
            stage="scan", name=f"{i:03d}", task={"do": what}, decides=[i, what], cost=1, uris=(f"file{i}",), said="file"
        )
        for i, what in enumerate(do)
    ]


def place(gpus: float = 0.0, workers: int = 2, *, loads: bool = False) -> OnRay:
    placement = Placement(workers=workers, gpus_per_worker=gpus, threads_per_worker=1)
    return OnRay(placements={"scan": placement}, loading=frozenset(["scan"] if loads else []))


def go(out: Path, place: OnRay, units: list[Unit]) -> tuple[list[Result], list[dict[str, Any]]]:
    """The results of a pass, and of each commit its own."""
    job = Job(out=str(out), run=f"run-{out.name}", name="scan", stage=EnvironmentStage, open_storage=open_storage)
    results = list(place.run(units, job, seconds_a_cost=0.5))
    paths = sorted((out / "commits" / "scan").glob("*.json"))
    return results, [json.loads(path.read_text())["result"] for path in paths]


@pytest.mark.usefixtures("ray_here")
class TestOnRay:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_any_number_of_workers(self, source: str, whole: dict[str, str], tmp_path: Path, workers: int) -> None:
        log = Log()
        run(source, tmp_path, workers=workers, report=log)
        assert tree(tmp_path) == whole
        assert len(made(log)) == len({*made(log)}) == 2 + 2 + 2 + 6
        log = Log()
        run(source, tmp_path, workers=3 - workers, report=log)
        assert not log.of("unit")

    def test_killed_workers(self, source: str, whole: dict[str, str], tmp_path: Path) -> None:
        """Workers die within writes of every stage; their blocks go on elsewhere, and what is committed stays."""
        points = [
            point
            for point in all_points(source, tmp_path / "points")
            if point.split("/")[0] in ("attempts", "depth", "controls", "commits") and "outputs" not in point
        ]
        chosen = [points[round((i + 0.5) * len(points) / DEATHS)] for i in range(DEATHS)]
        log = Log()
        run(source, tmp_path / "out", workers=2, report=log, open_storage=killing(tmp_path / "marks", chosen))
        died = len(list((tmp_path / "marks").iterdir()))
        assert died == DEATHS, "every point was reached, and killed its worker"
        assert tree(tmp_path / "out") == whole
        again = made(log)
        assert len(again) == len(set(again)), "none was made and reported twice"
        assert len(again) >= 12 - died

    def test_killed_driver(self, source: str, whole: dict[str, str], tmp_path: Path) -> None:
        """kill -9 of `longvie prepare` in the midst of it, then the same command."""
        out = tmp_path / "out"
        line = [sys.executable, "-m", "pipelines.cli", "prepare", source, "--out", str(out), "--workers", "2"]
        line += ["--size", SIZE, "--fps", str(FPS), "--segment-length", str(SEGMENT_LENGTH), "--depth", "supplied"]
        line += ["--min-frames", "2", "--no-cuts", "--log-format", "json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        driver = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
        assert driver.stdout is not None
        for event in map(json.loads, driver.stdout):
            if event["event"] == "unit" and event["stage"] == "controls":
                break
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        time.sleep(2)  # its workers notice; what they still commit is as good as any
        before = commits(out)
        again = subprocess.run(line, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        events = [json.loads(text) for text in again.stdout.splitlines()]
        names = [f"commits/{e['stage']}/{e['unit']}.json" for e in events if e["event"] == "unit" and e["made"]]
        assert not set(names) & set(before)
        assert tree(out) == whole
        assert before.items() <= commits(out).items()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 3}, r"3 scan worker\(s\) with 0 GPU and 1 CPU each do not fit: the cluster has 2 CPU"),
            (
                {"threads_per_worker": 3},
                r"1 depth worker\(s\) with 0 GPU and 3 CPU each .* lower .*--threads-per-worker",
            ),
            ({"depth_gpus": 3}, r"1 depth worker\(s\) with 3 GPU .*room for 0; lower --workers, --depth-gpus"),
            ({"sparse_gpus": 3, "workers": 1}, r"controls worker\(s\) with 3 GPU .* lower --workers or --sparse-gpus"),
        ],
    )
    def test_plans_that_never_fit(self, source: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        started = time.monotonic()
        with pytest.raises(UserError, match=message):
            run(source, tmp_path / "out", **{"workers": None, **options})
        assert time.monotonic() - started < 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("loads", [False, True])
    def test_cpu_stages_see_no_gpu(self, tmp_path: Path, loads: bool) -> None:
        _, said = go(tmp_path, place(loads=loads), units("", "", ""))
        assert [one["cuda"] for one in said] == [""] * 3

    def test_gpu_stages_see_their_own(self, tmp_path: Path) -> None:
        """Two workers share one GPU at half of it each."""
        _, said = go(tmp_path, place(gpus=0.5, loads=True), units(*["sleep"] * 8))
        assert {one["cuda"] for one in said} <= {"0", "1"}

    @pytest.mark.parametrize("loads", [False, True])
    def test_a_unit_that_kills_whoever_makes_it(self, tmp_path: Path, loads: bool) -> None:
        """It is left out after three deaths, with a row; the others are made."""
        results, said = go(tmp_path, place(loads=loads), units("", "die", "", ""))
        errors = {result.unit.name: result for result in results if result.error}
        assert list(errors) == ["001"]
        assert errors["001"].attempts == MAX_DEATHS
        assert errors["001"].error == "3 workers died over it, out of memory or in a decoder; the unit is left out"
        assert len(said) == 3
        assert not list(tmp_path.rglob("attempts/**/*.json"))

    def test_a_bug_is_a_crash(self, tmp_path: Path) -> None:
        with pytest.raises(Exception, match="a bug"):
            go(tmp_path, place(), units("", "fail"))

    def test_small_units_share_tasks(self, tmp_path: Path) -> None:
        """Many small units over two workers: one process each, kept for the whole pass."""
        results, said = go(tmp_path, place(), units(*["sleep"] * 40))
        assert len(results) == 40
        assert len({one["pid"] for one in said}) <= 2


def test_workers_are_free_of_torch() -> None:
    """It alone takes more memory than a worker may: 510 MB."""
    code = (
        "import sys, ray.data;"
        "from pipelines.preparation import unit_worker, stages, depth_stage, control_stage, caption_stage;"
        "from longvie.controls.loading import load_point_tracker; load_point_tracker('lucas-kanade');"
        "from longvie.controls.edges import load_dense_detector; load_dense_detector('canny');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_has_the_options_of_the_job() -> None:
    """No flag is forgotten between the command line and the job."""
    import inspect

    from pipelines.preparation.options import PrepareOptions

    flags = set(inspect.signature(command).parameters) - {"caption_model", "log_format"}
    assert flags == set(inspect.signature(functools.partial(PrepareOptions)).parameters)
