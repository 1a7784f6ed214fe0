"""Reproduces the numbers of the embedded model's card: `python benchmarks/tiny.py`.

Held-out synthetic scenes, the pipeline's own defaults. Every figure is a mean over videos (each the mean of its noise
seeds) with a 95 % interval from 10,000 bootstrap resamples of videos; differences are paired. Results go to stdout and,
with --out, to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from longvie import conditioning, sampling
from longvie.config import GenerationConfig
from longvie.controls.builtin_depth import BuiltinDepth
from longvie.controls.render import uniform_grid
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.models.loading import TINY, load_pipeline
from longvie.pipeline import LongViePipeline
from longvie.scenes import TEST_SEEDS, render_scene
from longvie.training.data import GRID, SceneControls, scene_controls
from longvie.types import ControlMaps, Segment

NUM_SEGMENTS = 6
RESAMPLES = 10_000
NOISE_SEED = 0


class Without:
    """A scene's controls with some of them left out."""

    def __init__(self, scene: SceneControls, kept: frozenset[str]) -> None:
        self.scene, self.kept = scene, kept

    def at(self, segment: Segment) -> ControlMaps:
        maps = self.scene.at(segment)
        return ControlMaps(
            dense=maps.dense if "dense" in self.kept else None, sparse=maps.sparse if "sparse" in self.kept else None
        )


PATCH, SEARCH = 9, 6  # pixels: side of a patch, how far around it is looked for
TEXTURE = 4.0  # least deviation of a patch, of 255, that can be found again


BOTH, DENSE, SPARSE, NONE = (frozenset(kept) for kept in (("dense", "sparse"), ("dense",), ("sparse",), ()))
UNIFIED, FRESH, WITHOUT = "both, unified noise", "both, fresh noise", "none, unified noise"
RUNS = ((UNIFIED, BOTH, "unified"), (FRESH, BOTH, "fresh"), (WITHOUT, NONE, "unified"))


def psnr(made: Tensor, truth: Tensor) -> float:
    """Of uint8 frames, dB; infinite if equal."""
    return float(-10 * torch.log10((made.float() - truth.float()).square().mean() / 255**2))


def interval(values: list[float]) -> dict[str, float]:
    """The mean and its 95 % bootstrap interval."""
    data, rng = np.array(values), np.random.default_rng(0)
    means = data[rng.integers(0, len(data), (RESAMPLES, len(data)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": round(float(data.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def paired(table: dict[str, list[float]], names: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    return {f"{a} - {b}": interval([x - y for x, y in zip(table[a], table[b], strict=True)]) for a, b in names}


def track_error(made: Tensor, truth: Tensor, tracks: np.ndarray, visible: np.ndarray) -> float:
    """How many pixels off what a track shows is, on average: of points with texture in the last frame of a segment.

    The true patch around a point is looked for around the same place in what was made; the best match says how far.
    """
    reach = PATCH // 2 + SEARCH
    grey, true = (
        F.pad(v[-1].float().mean(-1)[None, None], (reach,) * 4, mode="replicate")[0, 0] for v in (made, truth)
    )
    errors = []
    for x, y in np.rint(tracks[-1][visible[-1]]).astype(int):
        window, patch = (
            grey[y : y + 2 * reach + 1, x : x + 2 * reach + 1],
            true[y : y + 2 * reach + 1, x : x + 2 * reach + 1],
        )
        patch = patch[SEARCH:-SEARCH, SEARCH:-SEARCH]
        if window.shape != (2 * reach + 1,) * 2 or patch.std() < TEXTURE:
            continue
        places = window.unfold(0, PATCH, 1).unfold(1, PATCH, 1)
        distance = (places - patch).square().sum(dim=(2, 3))
        row, column = divmod(int(distance.argmin()), distance.shape[1])
        errors.append(float(np.hypot(row - SEARCH, column - SEARCH)))
    return float(np.mean(errors)) if errors else float("nan")


def depth_correlation(frame: Tensor, dense: Tensor, estimator: BuiltinDepth) -> float:
    """Of depth estimated in a frame (disparity, large where near) with its dense control (grey, large where far)."""
    estimated = estimator(frame[None].numpy())[0]
    return float(-np.corrcoef(estimated.ravel(), dense.float().mean(-1).numpy().ravel())[0, 1])


def first_segments(pipe: LongViePipeline, scenes: list[SceneControls], noises: int) -> dict[str, dict[str, float]]:
    """PSNR of segment 1 with each set of controls, track error, depth estimated again, and how far the residual is the
    noise it came from."""
    length, estimator = pipe.segment_length, BuiltinDepth()
    segment = Segment(index=0, start=0, num_frames=length, num_valid=length)
    rows: list[dict[str, list[float]]] = []
    for index, scene in enumerate(scenes):
        truth, other = scene.frames[:length], scenes[(index + 1) % len(scenes)]
        video = render_scene(TEST_SEEDS[index], length, *truth.shape[1:3])
        tracks, visible, _ = video.tracks(0, length, uniform_grid(*truth.shape[1:3], *GRID))
        sources = {
            "both": Without(scene, BOTH), "dense": Without(scene, DENSE), "sparse": Without(scene, SPARSE),
            "none": Without(scene, NONE), "shuffled": Without(other, BOTH),
        }  # fmt: skip
        depth = scene.at(segment).dense[-1]
        row: dict[str, list[float]] = {"depth correlation, truth": [depth_correlation(truth[-1], depth, estimator)]}
        rows.append(row)
        for number in range(noises):
            seed = NOISE_SEED + 1000 * number + index
            noise = sampling.unified_noise(pipe.noise_shape(length, *truth.shape[1:3]), seed)
            for name, source in sources.items():
                maps = source.at(segment)
                latents = pipe(
                    truth[0], scene.caption, dense=maps.dense, sparse=maps.sparse, latents=noise, num_frames=length,
                    output_type="latent",
                ).frames  # fmt: skip
                assert isinstance(latents, Tensor)
                made = conditioning.to_frames(conditioning.decode(pipe.vae, latents))
                row.setdefault(name, []).append(psnr(made, truth))
                row.setdefault(f"track error, {name}", []).append(track_error(made, truth, tracks, visible))
                row.setdefault(f"depth correlation, {name}", []).append(depth_correlation(made[-1], depth, estimator))
                if name == "both":
                    residual = latents - conditioning.encode(pipe.vae, conditioning.to_pixels(truth))
                    correlation = np.corrcoef(residual.flatten().numpy(), noise.flatten().numpy())[0, 1]
                    row.setdefault("residual-noise correlation", []).append(float(correlation))
        frozen = truth[:1].expand_as(truth)
        row["frozen first frame"] = [psnr(frozen, truth)]
        row["track error, frozen first frame"] = [track_error(frozen, truth, tracks, visible)]
        ceiling = conditioning.decode(pipe.vae, conditioning.encode(pipe.vae, conditioning.to_pixels(truth)))
        row["autoencoder alone"] = [psnr(conditioning.to_frames(ceiling), truth)]
    table = over_noises(rows)
    others = ["none", "dense", "sparse", "shuffled", "frozen first frame"]
    pairs = [("both", other) for other in others]
    pairs += [(f"track error, {other}", "track error, both") for other in others]
    return {name: interval(values) for name, values in table.items()} | paired(table, pairs)


def rollouts(
    pipe: LongViePipeline, scenes: list[SceneControls], noises: int
) -> tuple[dict[str, dict[str, float]], list[float]]:
    """PSNR of segment 6 of autoregressive videos, rhythm inside segments and jumps at seams; and each video's PSNR."""
    step = pipe.segment_length - 1
    rows: list[dict[str, list[float]]] = []
    for index, scene in enumerate(scenes):
        last, row = scene.frames[-step:], {}
        rows.append(row)
        for name, kept, noise in RUNS:
            config = GenerationConfig.for_pipeline(
                pipe.config, height=scene.frames.shape[1], width=scene.frames.shape[2], noise=noise
            )
            for number in range(noises):
                request = LongVideoRequest(
                    first_frame=scene.frames[0], controls=Without(scene, kept), prompts=(scene.caption,),
                    num_frames=len(scene.frames), seed=NOISE_SEED + 1000 * number + index, config=config,
                )  # fmt: skip
                made = torch.cat([result.frames for result in generate_long_video(pipe, request)])
                row.setdefault(name, []).append(psnr(made[-step:], last))
                if name == UNIFIED:
                    for key, value in jumps(made, step).items():
                        row.setdefault(f"{key}, made", []).append(value)
        row |= {f"{key}, truth": [value] for key, value in jumps(scene.frames, step).items()}
        row["first frame of the video, frozen"] = [psnr(scene.frames[:1].expand_as(last), last)]
        row["true first frame of segment 6, frozen"] = [psnr(scene.frames[-step - 1 : -step].expand_as(last), last)]
    table = over_noises(rows)
    pairs = [(UNIFIED, other) for other in (FRESH, WITHOUT, "true first frame of segment 6, frozen")]
    return {name: interval(values) for name, values in table.items()} | paired(table, pairs), table[UNIFIED]


def over_noises(rows: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """One number a video: the mean over its noise seeds. Videos without a number for every name are left out of it."""
    table = {name: [float(np.mean(row[name])) for row in rows] for name in rows[0]}
    return {name: [value for value in values if np.isfinite(value)] for name, values in table.items()}


def jumps(frames: Tensor, step: int, temporal: int = 4) -> dict[str, float]:
    """Mean change between frames at latent borders and at seams, over that elsewhere inside segments."""
    change = frames.float().diff(dim=0).abs().mean(dim=(1, 2, 3)).numpy()
    position = np.arange(len(change))
    seam, border = position % step == 0, (position % temporal == 0) & (position % step != 0)
    inside = change[~seam & ~border].mean() + 1e-6
    return {
        "rhythm": float(change[border].mean() / inside),
        "seam jump": float(change[seam & (position > 0)].mean() / inside),
    }


def strips(pipe: LongViePipeline, scenes: list[SceneControls], scores: list[float], folder: Path) -> None:
    """Pictures of six-segment videos: best, median and worst by `scores`, one column a segment's last frame.

    Rows: truth, dense control, sparse control, made with both, made without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = pipe.segment_length - 1
    config = GenerationConfig.for_pipeline(pipe.config)
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    for name, index in (("best", order[-1]), ("median", order[len(order) // 2]), ("worst", order[0])):
        scene = scenes[index]
        sparse = torch.stack([scene.sparse_by_segment[max(0, i - 1)][-1 if i else 0] for i in range(NUM_SEGMENTS + 1)])
        rows = [scene.frames[::step], scene.dense[::step], sparse]
        for kept in (BOTH, NONE):
            request = LongVideoRequest(
                first_frame=scene.frames[0], controls=Without(scene, kept), prompts=(scene.caption,),
                num_frames=len(scene.frames), seed=NOISE_SEED + index, config=config,
            )  # fmt: skip
            rows.append(torch.cat([result.frames for result in generate_long_video(pipe, request)])[::step])
        sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows])
        picture = Image.fromarray(sheet.numpy())
        picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--videos", type=int, default=30)
    parser.add_argument("--rollouts", type=int, default=30)
    parser.add_argument("--noises", type=int, default=3, help="noise seeds a video in segment 1")
    parser.add_argument("--rollout-noises", type=int, default=1, help="noise seeds a video in rollouts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--strips", type=Path, help="folder for pictures of the best, median and worst rollout")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipe = load_pipeline(arguments.model)
    height, width, length = pipe.config.height, pipe.config.width, pipe.segment_length
    num_frames = NUM_SEGMENTS * (length - 1) + 1
    seeds = TEST_SEEDS[: max(arguments.videos, arguments.rollouts)]
    scenes = [scene_controls(seed, num_frames, length, height, width) for seed in seeds]
    started = time.perf_counter()
    results: dict[str, Any] = {
        "videos": arguments.videos,
        "rollouts": arguments.rollouts,
        "noise seeds": [arguments.noises, arguments.rollout_noises],
        "test seeds": [seeds[0], seeds[-1]],
    }
    if arguments.videos:
        results["segment 1"] = first_segments(pipe, scenes[: arguments.videos], arguments.noises)
    if arguments.rollouts:
        results["segment 6"], scores = rollouts(pipe, scenes[: arguments.rollouts], arguments.rollout_noises)
        if arguments.strips:
            strips(pipe, scenes, scores, arguments.strips)
    results["seconds"] = round(time.perf_counter() - started, 1)
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
