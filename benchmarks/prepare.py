"""What preparation costs and holds: memory of its workers, Ray's object store, wall time against a plain pool.

    python benchmarks/prepare.py [--video FILE] [--depth builtin] [--size 640x352] [--short 20] [--long 1200]
        [--only memory|wall] [--repeat 1] [--json FILE]

Memory: the same piece of video, once and repeated, over one worker; the highest resident memory of the process at work
in each stage, and of the object store. Wall time: the same units by the same code, over Ray Data and over
multiprocessing.Pool, two workers each; from the first unit of a stage to be handed out to its last commit, and nothing
watches meanwhile. With --repeat they take turns, who begins changes, and the ratio is of the sums. Start-up of Ray is
not counted, as it is paid once; that of a stage's workers is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
from ray._private.internal_api import node_stats

import pipelines.preparation.prepare
from longvie.media import join_videos, resampled, write_video
from pipelines import cluster
from pipelines.preparation.estimators import needs_torch
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.passes import Here, Result
from pipelines.preparation.prepare import prepare
from pipelines.preparation.unit_worker import ROW, Job, UnitWorker, write_tasks
from pipelines.preparation.units import Unit

FPS, HEIGHT, WIDTH = 24, 360, 640  # of the made videos
STAGES = ("sources", "scan", "depth", "controls")
Report = Callable[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="what the measured videos are made of; default: moving waves")
    parser.add_argument("--depth", default="builtin")
    parser.add_argument("--short", type=int, default=20, help="seconds")
    parser.add_argument("--long", type=int, default=1200, help="seconds; a multiple of --short")
    parser.add_argument("--size", help="of what is prepared; the object store does not depend on it")
    parser.add_argument("--only", choices=["memory", "wall"])
    parser.add_argument("--repeat", type=int, default=1, help="turns of the wall time's two sides")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    numbers: dict[str, Any] = {"machine": f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start"}
    print(numbers["machine"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, long = make_videos(folder, arguments)
        with cluster.cluster():
            if arguments.only != "wall":
                numbers["memory"] = measure_memory(folder, short, long, arguments)
            if arguments.only != "memory":
                numbers["wall"] = measure_wall(folder, short, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


def make_videos(folder: Path, arguments: Any) -> tuple[Path, Path]:
    """One piece, and the same piece again and again, without encoding it again."""
    short, long = folder / "short.mp4", folder / "long.mp4"
    count = arguments.short * FPS
    if arguments.video:
        frames = resampled(arguments.video, fps=FPS, height=HEIGHT, width=WIDTH, start=0, stop=count)
    else:
        frames = waves(count)
    write_video(short, frames, FPS)
    join_videos([short] * (arguments.long // arguments.short), long)
    return short, long


def waves(count: int) -> Iterator[np.ndarray]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for start in range(0, count, 16):
        t = np.arange(start, min(start + 16, count))[:, None, None]
        wave = np.sin(x / 31 + t / 7) + np.sin(y / 17 - t / 11) + np.sin((x + y) / 53)
        yield np.repeat((127 + 40 * wave).astype(np.uint8)[..., None], 3, axis=-1)


def options_for(video: Path, out: Path, arguments: Any, workers: int) -> PrepareOptions:
    inputs, depth, size = (str(video),), arguments.depth, arguments.size
    return PrepareOptions(
        inputs=inputs, out=str(out), depth=depth, size=size, workers=workers, cuts=False, report=False
    )


def measure_memory(folder: Path, short: Path, long: Path, arguments: Any) -> dict[str, Any]:
    """The highest resident memory of workers by stage, and of the object store, from a short and a long video."""
    numbers: dict[str, Any] = {}
    for name, video in (("short", short), ("long", long)):
        with watching(arguments.depth) as watch:
            prepare(options_for(video, folder / name, arguments, workers=1), watch.report)
        numbers[name] = {
            "seconds_of_video": video.stat().st_size and _seconds(video),
            "worker_mb": {stage: round(watch.peaks.get(stage, 0.0), 1) for stage in STAGES},
            "object_store_kb": round(watch.store / 1024, 1),
            "spilled_bytes": watch.spilled,
            "rates": watch.rates,
        }
        print(
            f"{name} ({numbers[name]['seconds_of_video']:.0f} s of video): {numbers[name]['worker_mb']} MB a worker, "
        )
        print(f"  object store {numbers[name]['object_store_kb']} KB, spilled {watch.spilled} bytes, {watch.rates}")
    growth = {
        stage: numbers["long"]["worker_mb"][stage] / max(numbers["short"]["worker_mb"][stage], 1) - 1
        for stage in STAGES
    }
    numbers["growth"] = growth
    print("growth of a worker from short to long: " + ", ".join(f"{k} {v:+.1%}" for k, v in growth.items()))
    return numbers


def measure_wall(folder: Path, video: Path, arguments: Any) -> dict[str, Any]:
    """Seconds of each stage over Ray Data and over a pool, in turn, with two workers."""
    walls: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in ("pool", "ray")}
    for turn in range(arguments.repeat):
        for name in ("pool", "ray") if turn % 2 == 0 else ("ray", "pool"):
            watch = _Watch(arguments.depth)
            with pools() if name == "pool" else ray_data():
                prepare(options_for(video, folder / f"wall_{name}_{turn}", arguments, workers=2), watch.report)
            for stage in STAGES:
                walls[name][stage].append(round(watch.walls[stage], 2))
            print(f"{name}: {watch.walls_said()} s of wall time, a worker's rate {watch.rates}", flush=True)
    numbers: dict[str, Any] = dict(walls)
    for stages in (("depth",), ("controls",), ("depth", "controls")):  # whose units take a second and more
        ray_sum, pool_sum = (sum(sum(walls[name][stage]) for stage in stages) for name in ("ray", "pool"))
        said = " and ".join(stages)
        numbers[f"{said} ratio"] = ray_sum / pool_sum
        print(f"{said}: Ray Data takes {ray_sum / pool_sum:.3f} of the pool's time")
    return numbers


class _Pool(Here):
    """Passes over multiprocessing.Pool."""

    def run(self, units: Sequence[Unit], job: Job, seconds_a_cost: float) -> Iterator[Result]:
        if not units:
            return
        names = {unit.name: unit for unit in units}
        with multiprocessing.get_context("spawn").Pool(2, _start, (replace(job, hide_gpus=True),)) as pool:
            for row in pool.imap_unordered(_make, write_tasks(job.open_storage(job.out), job, units)):
                unit = names[row.pop("unit")]
                yield Result(unit=unit, **row)


_worker: UnitWorker | None = None


def _start(job: Job) -> None:
    global _worker
    os.environ["OMP_NUM_THREADS"] = "1"
    _worker = UnitWorker(job)


def _make(row: dict[str, int]) -> dict[str, Any]:
    assert _worker is not None
    return _worker(pa.Table.from_pylist([row], ROW)).to_pylist()[0]


@contextmanager
def pools() -> Iterator[None]:
    """Preparation goes over a pool."""

    @contextmanager
    def place(options: PrepareOptions) -> Iterator[_Pool]:
        yield _Pool()

    before, pipelines.preparation.prepare._place = pipelines.preparation.prepare._place, place
    try:
        yield
    finally:
        pipelines.preparation.prepare._place = before


@contextmanager
def ray_data() -> Iterator[None]:
    yield


class _Watch:
    """Peaks of memory while a run goes on, by stage."""

    def __init__(self, depth: str) -> None:
        self.loading = ("depth",) if needs_torch(depth) else ()
        self.stage = ""
        self.peaks: dict[str, float] = {}
        self.walls: dict[str, float] = {}
        self.rates: dict[str, str] = {}
        self.store = 0
        self.spilled = 0
        self._since = 0.0

    def report(self, kind: str, **fields: Any) -> None:
        if kind == "stage":
            self.stage, self._since = fields["stage"], time.perf_counter()
        if kind == "stage done":
            self.walls[fields["stage"]] = time.perf_counter() - self._since
            unit = 1e6 if fields["stage"] in ("sources", "scan") else 1
            if fields["seconds"]:
                said = "MB/s" if unit > 1 else "frames/s"
                self.rates[fields["stage"]] = f"{fields['cost'] / unit / fields['seconds']:.1f} {said}"
        if kind == "unit" and fields["error"]:
            print(f"  failed: {fields['said']}: {fields['error']}")

    def walls_said(self) -> dict[str, float]:
        return {stage: round(self.walls[stage], 2) for stage in STAGES}

    def look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                line, resident = " ".join(process.cmdline()), process.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue
            # actors of one stage may still be ending while tasks of the next begin
            ours = "MapWorker" in line if self.stage in self.loading else "make_units" in line
            if line.startswith("ray::") and ours:
                self.peaks[self.stage] = max(self.peaks.get(self.stage, 0.0), resident)

    @staticmethod
    def _node() -> tuple[str, int]:
        (node,) = [node for node in ray.nodes() if node["Alive"]]
        return node["NodeManagerAddress"], node["NodeManagerPort"]

    def look_at_store(self) -> None:
        stats = node_stats(*self._node()).store_stats
        self.store = max(self.store, stats.object_store_bytes_used)
        self.spilled = stats.spilled_bytes_total


@contextmanager
def watching(depth: str) -> Iterator[_Watch]:
    watch, ended = _Watch(depth), threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            watch.look()

    def look_at_store() -> None:
        while not ended.wait(0.3):
            watch.look_at_store()

    threads = [threading.Thread(target=target, daemon=True) for target in (look, look_at_store)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _seconds(video: Path) -> float:
    from longvie.media import probe_video

    return probe_video(video).duration


if __name__ == "__main__":
    main()
