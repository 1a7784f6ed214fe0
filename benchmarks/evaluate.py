"""What scoring costs: wall time against a plain loop over the same calls, and frames a second of each metric.

    python benchmarks/evaluate.py [--videos 4] [--runs 3] [--segments 6] [--workers 2] [--json FILE]

The plain loop is what one writes by hand: for each run and video, read both videos, and for each frame call the same
functions of torchmetrics, OpenCV and the estimators, in one process, with torch's own threads. Ours is `longvie
evaluate` over two workers with one thread each. Both from the first frame read to the last score written; Ray's start
and that of estimators are told apart. Scenes are prepared and generated first, with the embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longvie.controls.loading import load_depth_estimator, load_point_tracker
from longvie.controls.tracks import Tracks
from longvie.media import Video, local_path, resampled
from longvie.metrics import adherence, temporal
from longvie.metrics.fidelity import fidelity
from pipelines import cluster
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.folders import Reference, read_generated, read_reference
from pipelines.evaluation.options import EvaluateOptions, RunFolder
from pipelines.generation.generate import GenerateOptions, generate
from pipelines.scenes.options import ScenesOptions
from pipelines.scenes.scenes import make_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--segments", type=int, default=6)
    parser.add_argument("--size", help="WIDTHxHEIGHT; default: the embedded model's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as name, cluster.cluster():
        folder = Path(name)
        runs = make(folder, arguments)
        numbers = measure(folder, runs, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


def make(folder: Path, arguments: Any) -> list[str]:
    frames = arguments.segments * 16 + 1
    size = {"size": arguments.size} if arguments.size else {}
    make_scenes(
        ScenesOptions(
            split="test", out=str(folder / "prepared"), count=arguments.videos, num_frames=frames, model="tiny", **size
        ),
        quiet,
    )
    overrides = {}
    if arguments.size:
        width, _, height = arguments.size.partition("x")
        overrides = {"width": int(width), "height": int(height)}
    for seed in range(arguments.runs):
        generate(
            GenerateOptions(
                source=str(folder / "prepared"), out=str(folder / f"run{seed}"), seed=seed, overrides=overrides
            ),
            quiet,
        )
    return [f"run{seed}={folder / f'run{seed}'}" for seed in range(arguments.runs)]


def measure(folder: Path, runs: list[str], arguments: Any) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    marks: list[float] = []

    def report(kind: str, **fields: Any) -> None:
        if kind == "unit" and not marks:
            marks.append(time.perf_counter())  # the first is done: workers are up and hold their estimators
        if kind == "stage done":
            seconds["stage"] = fields["seconds"]
            marks.append(time.perf_counter())

    started = time.perf_counter()
    options = EvaluateOptions(
        generated=tuple(runs), reference=str(folder / "prepared"), out=str(folder / "scores"), vae="none",
        workers=arguments.workers, report=False, resamples=100,
    )  # fmt: skip
    evaluate(options, report)
    whole = time.perf_counter() - started
    reference = read_reference(str(folder / "prepared"))
    num_runs = arguments.runs
    num_units = (num_runs + 2) * sum(len(video.dense) for video in reference.videos)  # frozen and truth, too
    ours = (marks[-1] - marks[0]) * num_units / (num_units - 1)
    plain, by_metric, frames = plain_loop(reference, runs)
    # the plain loop scores the runs alone; ours made two baselines beside them
    ours_of_runs = ours * num_runs / (num_runs + 2)
    ratio, ratio_with_baselines = ours_of_runs / plain, ours / plain
    print(f"longvie evaluate: {ours:.1f} s for {num_runs} runs and 2 baselines (start of workers {whole - ours:.1f} s)")
    threads = torch.get_num_threads()
    print(f"plain loop, {threads} threads: {plain:.1f} s for {num_runs} runs, {frames / plain:.1f} frames/s")
    print(
        f"the runs' share of ours: {ratio:.2f} of the plain loop's wall time; with baselines {ratio_with_baselines:.2f}"
    )
    for metric, took in sorted(by_metric.items(), key=lambda item: -item[1]):
        print(f"  {metric}: {frames / took:.0f} frames/s, {took / plain:.0%} of the plain loop")
    return {
        "ratio": ratio,
        "ratio with baselines": ratio_with_baselines,
        "plain seconds": plain,
        "ours seconds": ours,
        "frames/s": {metric: frames / took for metric, took in by_metric.items()},
    }


def plain_loop(reference: Reference, runs: list[str]) -> tuple[float, dict[str, float], int]:
    """Seconds in all and by metric, and how many frames were scored."""
    took: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took[name] += time.perf_counter() - began

    depth, tracker, flow = load_depth_estimator("builtin"), load_point_tracker(), temporal.DisFlow()
    frames = 0
    last = np.empty((0, 0, 0, 3), np.uint8)
    started = time.perf_counter()
    for number, run in enumerate(runs):
        name, _, uri = run.partition("=")
        for video, generated in zip(
            reference.videos, read_generated(RunFolder(name=name, uri=uri, take=number), reference), strict=True
        ):
            for segment, (file, _) in zip(generated.segments, generated.files, strict=True):
                with timed("reading"):
                    start = video.source_start + segment.start
                    true = np.concatenate(
                        list(
                            resampled(
                                local_path(video.source),
                                **reference.frames,
                                start=start,
                                stop=start + segment.num_valid,
                            )
                        )
                    )
                    made = Video(local_path(file))
                    shown = made.read(range(made.info.num_frames))
                    if segment.index:
                        shown = np.concatenate([last, shown])
                    last = shown[-1:]
                for at in range(1 if segment.index else 0, len(shown)):
                    with timed("PSNR, SSIM, VIF"), torch.inference_mode():
                        fidelity(torch.from_numpy(shown[at : at + 1]), torch.from_numpy(true[at : at + 1]))
                    frames += 1
                for at in range(len(shown) - 1):
                    with timed("flow: warping error, motion"):
                        there, back = flow(true[at], true[at + 1]), flow(true[at + 1], true[at])
                        seen = temporal.visible(there, back)
                        temporal.warping_error(shown[at], shown[at + 1], there, seen)
                        temporal.largest_motion(flow(shown[at], shown[at + 1]))
                with timed("flickering, seams"):
                    temporal.boundary_ratio(temporal.jumps(shown), segment)
                with timed("depth again"):
                    grey = Video(local_path(video.dense[segment.index])).read(range(len(shown)))[..., 0]
                    low, high = video.ranges[segment.index] or (0.0, 1.0)
                    adherence.depth_adherence(depth(shown), depth.polarity, grey, low, high, video.polarity or "depth")  # type: ignore[arg-type]
                with timed("tracks again"):
                    tracks = Tracks.load(local_path(video.tracks[segment.index] or ""))
                    truth = Tracks(points=tracks.points[: len(shown)], visibility=tracks.visibility[: len(shown)])
                    again = tracker(shown, truth.points[0])
                    adherence.track_adherence(again, truth, *shown.shape[1:3])
                    adherence.track_colour(shown, truth)
    return time.perf_counter() - started, dict(took), frames


def quiet(kind: str, **fields: Any) -> None:
    pass


if __name__ == "__main__":
    main()
