"""What the job costs over the bare loop, what a kill costs, and whether memory stays flat. CPU, embedded model.

    python benchmarks/generate.py [--segments 12] [--long 200] [--model FOLDER] [--json FILE]

Bare loop: `generate_long_video` in one process, controls in memory, nothing written. Job: `longvie generate` over one
Ray worker, controls read from files, each segment encoded, hashed, synced and committed. Both with one thread, after a
first segment that is not counted, the two taking turns so that a busy machine is as busy for both. Start-up is shown
apart: it is paid once a run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.models.loading import load_pipeline
from longvie.training.data import scene_controls
from pipelines import cluster
from pipelines.demo import DemoOptions, demo_options, write_inputs
from pipelines.generation.generate import generate

SCENE = 2_000_900  # held out, as all from 2,000,000 on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=12, help="of a run whose time is measured")
    parser.add_argument("--rounds", type=int, default=3, help="of bare loop and job in turn")
    parser.add_argument("--long", type=int, default=200, help="segments of the run whose memory is measured")
    parser.add_argument("--model", help="default: the embedded model")
    parser.add_argument("--steps", type=int, help="more steps make segments longer, as on a large model")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        numbers = {
            "machine": f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start",
            "overhead": measure_overhead(Path(folder), arguments),
            "kill": measure_kill(Path(folder), arguments),
            "memory": measure_memory(Path(folder), arguments),
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


def options_for(folder: Path, name: str, segments: int, arguments: Any) -> DemoOptions:
    options = demo_options(str(folder / name), SCENE, segments, arguments.model, workers=1)
    changes = {"num_inference_steps": arguments.steps}
    return replace(options, generate=replace(options.generate, overrides=changes, gpus_per_worker=0))


def measure_overhead(folder: Path, arguments: Any) -> dict[str, Any]:
    """Seconds a segment: wall time from one commit to the next in the job, against the bare loop's."""
    options = options_for(folder, "overhead", arguments.segments, arguments)
    write_inputs(options)
    model = options.model
    controls = scene_controls(SCENE, options.num_frames, model.segment_length, model.height, model.width)
    pipe = load_pipeline(arguments.model)
    request = LongVideoRequest(
        first_frame=controls.frames[0],
        controls=controls,
        prompts=(controls.caption,),
        num_frames=options.num_frames,
        seed=0,
        config=GenerationConfig.for_pipeline(model.defaults(), num_inference_steps=arguments.steps),
    )
    bare: list[float] = []
    job: list[float] = []
    with cluster.cluster():
        for round_ in range(arguments.rounds):
            ends = [time.perf_counter() for _ in generate_long_video(pipe, request)]
            bare += [b - a for a, b in itertools.pairwise(ends)]
            out = folder / f"round_{round_}"
            times: list[float] = []

            def report(kind: str, times: list[float] = times, **_: Any) -> None:
                if kind == "segment":
                    times.append(time.perf_counter())

            (outcome,) = generate(replace(options.generate, out=str(out)), report)
            assert outcome.status == "done", outcome.error
            job += [b - a for a, b in itertools.pairwise(times)]
    manifest = json.loads((folder / "round_0" / "overhead" / "manifest.json").read_text())
    written = statistics.median(segment["write_seconds"] for segment in manifest["segments"])
    a, b = statistics.median(bare), statistics.median(job)
    print(f"bare loop {a:.4f} s a segment, job {b:.4f} s: overhead {b / a - 1:+.1%} (median of {len(job)})")
    print(f"  of it encoding, hashing and writing {written:.4f} s; the rest: the actor call and Ray's own processes")
    return {"bare_seconds": a, "job_seconds": b, "overhead": b / a - 1, "write_seconds": written, "count": len(job)}


def measure_kill(folder: Path, arguments: Any) -> dict[str, Any]:
    """kill -9 of the driver in the middle of a segment, then the same command: what is made twice."""
    options = options_for(folder, "kill", arguments.segments, arguments)
    write_inputs(options)
    command = [sys.executable, "-m", "pipelines.cli", "generate", options.generate.source, "--log-format", "json"]
    command += ["--out", options.generate.out, "--workers", "1", "--gpus-per-worker", "0"]
    command += ["--model", arguments.model] if arguments.model else []
    command += ["--steps", str(arguments.steps)] if arguments.steps else []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    half = arguments.segments // 2
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert running.stdout is not None
    for line in running.stdout:
        event = json.loads(line)
        if event["event"] == "segment" and event["segment"] == half:
            break
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(3)  # its worker ends
    existed = len(list((options.folder / "commits").glob("*.json")))
    started = time.perf_counter()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    events = [json.loads(line) for line in again.stdout.splitlines()]
    made = sum(event["event"] == "segment" for event in events)
    ready = next(event["seconds"] for event in events if event["event"] == "worker")
    seconds = time.perf_counter() - started
    print(
        f"driver killed after segment {half}: {existed} of {arguments.segments} existed, {made} were made afterwards, "
        f"{existed + made - arguments.segments} made twice; {seconds:.1f} s to the end, of it {ready:.1f} s to load"
    )
    return {"existed": existed, "made": made, "twice": existed + made - arguments.segments, "seconds": seconds}


def measure_memory(folder: Path, arguments: Any) -> dict[str, Any]:
    """Resident memory of driver and worker after 10 segments and at the end."""
    options = options_for(folder, "memory", arguments.long, arguments)
    write_inputs(options)
    kept: dict[int, dict[str, float]] = {}
    with cluster.cluster(), _peaks() as peaks:

        def report(kind: str, **fields: Any) -> None:
            if kind != "segment":
                return
            worker = int(fields["worker"].split(":")[1].split()[0])
            peaks.watch = {"driver": os.getpid(), "worker": worker}
            done = fields["segment"] + 1
            if done % 10 == 0:
                kept[done] = peaks.take()

        (outcome,) = generate(options.generate, report)
        assert outcome.status == "done", outcome.error
    first, last = 20, max(kept)  # segments 11..20 against the last ten
    result: dict[str, Any] = {}
    for who in ("driver", "worker"):
        a, b = kept[first][who], kept[last][who]
        slope = (b - a) / (last - first) * 1024
        print(
            f"{who}: {a:.0f} MB by segment {first}, {b:.0f} MB by {last}: {b / a - 1:+.1%}, {slope:+.1f} kB a segment"
        )
        result[who] = {"early_mb": a, "late_mb": b, "change": b / a - 1, "kb_per_segment": slope}
    return result


class _Peaks:
    """The highest resident memory of some processes since it was last asked for."""

    def __init__(self) -> None:
        self.watch: dict[str, int] = {}
        self._highest: dict[str, float] = {}

    def look(self) -> None:
        for who, pid in self.watch.items():
            resident = psutil.Process(pid).memory_info().rss / 2**20
            self._highest[who] = max(resident, self._highest.get(who, 0.0))

    def take(self) -> dict[str, float]:
        self.look()
        highest, self._highest = self._highest, {}
        return highest


@contextmanager
def _peaks() -> Iterator[_Peaks]:
    peaks, ended = _Peaks(), threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            peaks.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
