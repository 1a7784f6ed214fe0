"""Reproduces the numbers of the built-in depth estimator's card: `python benchmarks/depth.py [--castle FOLDER]`.

Held-out procedural scenes (test seeds) and, when its folder is given, the Castle-simu sequence of Debian's package
visp-images-data (`.../ViSP-images/mbt-depth/Castle-simu`; rendered, with true depth; seen in tests only). Beside the
estimator stand a constant depth and a vertical gradient. Scale and shift are fitted to the truth by least squares in
disparity, for every frame and, in the lines that say so, once for a whole sequence. Differences are paired; their 95 %
intervals come from 10,000 bootstrap resamples of scenes (frames of one sequence are not independent: Castle-simu, a
single sequence, has none).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy import ndarray

from longvie.controls.builtin_depth import WEIGHTS, BuiltinDepth
from longvie.training.depth_metrics import depth_errors, vertical_gradient
from longvie.training.depth_scenes import TEST_SEEDS, render_views

SIZE = (192, 320)
SCENE_CAP = 80.0  # metres; farther is not counted, as in KITTI's evaluation
CASTLE_CAP = 2.0  # metres; the far plane in the sequence's own configuration
CASTLE_UNIT = 0.000030518  # metres a count, as in ViSP's own tests of this sequence
RESAMPLES = 10_000
METRICS = ("absrel", "delta1", "si_rmse")


def scene_sequences(num_scenes: int) -> Iterator[tuple[ndarray, ndarray, ndarray]]:
    """Frames, depth and valid pixels of held-out scenes, four views each."""
    for seed in TEST_SEEDS[:num_scenes]:
        frames, depth = render_views(seed, 4, *SIZE)
        yield frames, depth, depth < SCENE_CAP


def castle_sequence(folder: Path) -> tuple[ndarray, ndarray, ndarray]:
    """Grey images as RGB, depth in metres, and where there is any: files of height, width (uint32), counts (uint16)."""
    frames, depths = [], []
    for image in sorted((folder / "Images").glob("Image_*.pgm")):
        data = (folder / "Depth" / f"Depth_{image.stem.removeprefix('Image_')}.bin").read_bytes()
        height, width = np.frombuffer(data, "<u4", 2)
        depths.append(np.frombuffer(data, "<u2", offset=8).reshape(height, width) * CASTLE_UNIT)
        frames.append(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB))
    if not frames:
        raise FileNotFoundError(f"{folder / 'Images'}: no Image_*.pgm; give the Castle-simu folder with --castle")
    depth = np.stack(depths).astype(np.float32)
    return np.stack(frames), depth, depth > 0


def evaluate(
    estimator: BuiltinDepth, sequences: Iterator[tuple[ndarray, ndarray, ndarray]], cap: float
) -> dict[str, list[dict[str, float]]]:
    """Errors a frame (a frame with under 100 valid pixels is left out) and a sequence, for all three predictors."""
    rows: dict[str, list[dict[str, float]]] = {}
    for index, (frames, depth, valid) in enumerate(sequences):
        gradient = np.broadcast_to(vertical_gradient(*depth.shape[1:]), depth.shape)
        predictions = {"built-in": estimator(frames), "constant": np.ones_like(depth), "vertical gradient": gradient}
        depth = np.where(valid, depth, cap)
        for name, predicted in predictions.items():
            for p, d, v in zip(predicted, depth, valid, strict=True):
                if v.sum() >= 100:
                    rows.setdefault(name, []).append(asdict(depth_errors(p, d, v, cap)) | {"sequence": index})
            if valid.sum() >= 100:
                whole = asdict(depth_errors(predicted, depth, valid, cap))
                rows.setdefault(f"{name}, one fit a sequence", []).append(whole)
    return rows


def interval(values: ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def report(title: str, rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    print(f"\n{title} ({len(rows['built-in'])} frames)")
    print(f"{'':36s}" + "".join(f"{metric:>10s}" for metric in METRICS))
    table = {name: {m: float(np.mean([e[m] for e in errors])) for m in METRICS} for name, errors in rows.items()}
    for name, means in sorted(table.items(), key=lambda item: ("one fit" in item[0], item[0])):
        print(f"{name:36s}" + "".join(f"{means[metric]:10.3f}" for metric in METRICS))
    for baseline in ("constant", "vertical gradient"):
        for metric in METRICS:
            ours, theirs = (np.array([e[metric] for e in rows[name]]) for name in ("built-in", baseline))
            sequence = np.array([e["sequence"] for e in rows["built-in"]])
            means = np.array([(ours - theirs)[sequence == index].mean() for index in np.unique(sequence)])
            mean, low, high = interval(means)
            bounds = f" [{low:+.3f}, {high:+.3f}]" if len(means) > 1 else ""
            print(f"  built-in - {baseline}, {metric}: {mean:+.4f}{bounds}")
    return table


def milliseconds_a_frame(estimator: BuiltinDepth, repeats: int = 20) -> float:
    """The fastest of a few runs on one 640x352 frame and one thread: other work on the machine left out."""
    frame = np.random.default_rng(0).integers(0, 256, (1, 352, 640, 3), np.uint8)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        estimator(frame)
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--castle", type=Path, help="Castle-simu's folder")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    estimator = BuiltinDepth(arguments.weights)
    results = {"milliseconds_a_frame": milliseconds_a_frame(estimator), "fingerprint": estimator.fingerprint}
    print(
        f"640x352, one thread: {results['milliseconds_a_frame']:.1f} ms a frame; weights {estimator.fingerprint[:12]}"
    )
    scenes = evaluate(estimator, scene_sequences(arguments.scenes), SCENE_CAP)
    results["scenes"] = report("held-out procedural scenes", scenes)
    if arguments.castle is not None:
        castle = evaluate(estimator, iter([castle_sequence(arguments.castle)]), CASTLE_CAP)
        results["castle"] = report("Castle-simu", castle)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
