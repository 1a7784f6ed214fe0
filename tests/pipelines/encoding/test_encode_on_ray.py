"""Encoding over Ray Data: however many workers, whoever is killed, the same tree; plans that never fit are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from tests.pipelines.encoding.encode_helpers import (
    NUM_UNITS,
    SHARD,
    all_points,
    made,
    run,
    shards,
)
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import killing, tree

ROOT = Path(__file__).resolve().parents[3]
DEATHS = 2


@pytest.mark.usefixtures("ray_here")
class TestOnRay:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_any_number_of_workers(
        self, prepared: Path, toy_folder: Path, whole: dict[str, str], tmp_path: Path, workers: int
    ) -> None:
        log = Log()
        run(prepared, tmp_path, toy_folder, workers=workers, report=log)
        assert tree(tmp_path) == whole
        assert len(made(log)) == len({*made(log)}) == NUM_UNITS
        log = Log()
        run(prepared, tmp_path, toy_folder, workers=3 - workers, report=log)
        assert not log.of("unit")

    @pytest.mark.slow
    def test_killed_workers(self, prepared: Path, toy_folder: Path, whole: dict[str, str], tmp_path: Path) -> None:
        """Workers die within writes; their blocks go on elsewhere, and what is committed stays."""
        points = [
            point
            for point in all_points(prepared, tmp_path / "points", toy_folder)
            if point.startswith(("shards/", "commits/encode/"))
        ]
        chosen = [points[round((i + 0.5) * len(points) / DEATHS)] for i in range(DEATHS)]
        log = Log()
        opened = killing(tmp_path / "marks", chosen)
        run(prepared, tmp_path / "out", toy_folder, workers=2, report=log, open_storage=opened)
        assert len(list((tmp_path / "marks").iterdir())) == DEATHS, "every point was reached, and killed its worker"
        assert tree(tmp_path / "out") == whole
        assert len(made(log)) == len({*made(log)}), "none was made and reported twice"

    @pytest.mark.slow
    def test_killed_driver(self, prepared: Path, toy_folder: Path, whole: dict[str, str], tmp_path: Path) -> None:
        """kill -9 of `longvie encode` in the midst of it, then the same command."""
        out = tmp_path / "out"
        line = [sys.executable, "-m", "pipelines.cli", "encode", str(prepared), "--out", str(out), "--workers", "1"]
        line += ["--model", str(toy_folder), "--segments-per-shard", str(SHARD), "--log-format", "json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        driver = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
        assert driver.stdout is not None
        for event in map(json.loads, driver.stdout):
            if event["event"] == "unit" and event["stage"] == "encode":
                break
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        time.sleep(2)  # its workers notice; what they still commit is as good as any
        before = shards(out)
        again = subprocess.run(line, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        events = [json.loads(text) for text in again.stdout.splitlines()]
        names = {f"commits/encode/{e['unit']}.json" for e in events if e["event"] == "unit" and e["stage"] == "encode"}
        assert not names & before
        assert len(names | before) == NUM_UNITS
        assert tree(out) == whole

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 3}, r"3 sources worker\(s\) with 0 GPU and 1 CPU each do not fit: the cluster has 2 CPU"),
            ({"threads_per_worker": 3}, r"1 encode worker\(s\) with 0 GPU and 3 CPU .* lower .*--threads-per-worker"),
            ({"gpus_per_worker": 3}, r"1 encode worker\(s\) with 3 GPU .* lower --workers, --gpus-per-worker"),
        ],
    )
    def test_plans_that_never_fit(
        self, prepared: Path, toy_folder: Path, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            run(prepared, tmp_path / "out", toy_folder, **{"workers": None, **options})
        assert not (tmp_path / "out").exists()

    def test_a_gpu_that_torch_does_not_see_is_said(self, prepared: Path, toy_folder: Path, tmp_path: Path) -> None:
        """This cluster declares GPUs that do not exist; no worker falls back to the CPU."""
        summary = run(prepared, tmp_path, toy_folder, workers=1, gpus_per_worker=None)
        assert summary.num_segments == 0
        assert all("the worker was given a GPU but torch sees none" in row["error"] for row in summary.errors)
