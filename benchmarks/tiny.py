"""Reproduces the numbers of the embedded model's card: `python benchmarks/tiny.py [--videos 24] [--rollouts 12]`.

Held-out synthetic scenes, the pipeline's own defaults. Every figure is a mean over videos with a 95 % interval from
10,000 bootstrap resamples of videos; differences are paired. Results go to stdout and, with --out, to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longvie import conditioning, sampling
from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.models.loading import TINY, load_pipeline
from longvie.pipeline import LongViePipeline
from longvie.scenes import TEST_SEEDS
from longvie.training.data import SceneControls, scene_controls
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


BOTH, DENSE, SPARSE, NONE = (frozenset(kept) for kept in (("dense", "sparse"), ("dense",), ("sparse",), ()))


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


def first_segments(pipe: LongViePipeline, scenes: list[SceneControls]) -> dict[str, dict[str, float]]:
    """PSNR of segment 1 with each set of controls, and how its residual correlates with the noise it came from."""
    length = pipe.segment_length
    segment = Segment(index=0, start=0, num_frames=length, num_valid=length)
    table: dict[str, list[float]] = {}
    correlation = []
    for index, scene in enumerate(scenes):
        truth, other = scene.frames[:length], scenes[(index + 1) % len(scenes)]
        noise = sampling.unified_noise(pipe.noise_shape(length, *truth.shape[1:3]), NOISE_SEED + index)
        sources = {
            "both": Without(scene, BOTH), "dense": Without(scene, DENSE), "sparse": Without(scene, SPARSE),
            "none": Without(scene, NONE), "shuffled": Without(other, BOTH),
        }  # fmt: skip
        for name, source in sources.items():
            maps = source.at(segment)
            latents = pipe(
                truth[0], scene.caption, dense=maps.dense, sparse=maps.sparse, latents=noise, num_frames=length,
                output_type="latent",
            ).frames  # fmt: skip
            assert isinstance(latents, Tensor)
            made = conditioning.to_frames(conditioning.decode(pipe.vae, latents))
            table.setdefault(name, []).append(psnr(made, truth))
            if name == "both":
                residual = latents - conditioning.encode(pipe.vae, conditioning.to_pixels(truth))
                correlation.append(float(np.corrcoef(residual.flatten().numpy(), noise.flatten().numpy())[0, 1]))
        table.setdefault("frozen first frame", []).append(psnr(truth[:1].expand_as(truth), truth))
        ceiling = conditioning.decode(pipe.vae, conditioning.encode(pipe.vae, conditioning.to_pixels(truth)))
        table.setdefault("autoencoder alone", []).append(psnr(conditioning.to_frames(ceiling), truth))
    result = {name: interval(values) for name, values in table.items()}
    others = ["none", "dense", "sparse", "shuffled", "frozen first frame"]
    result |= paired(table, [("both", other) for other in others])
    result["residual-noise correlation"] = interval(correlation)
    return result


def rollouts(pipe: LongViePipeline, scenes: list[SceneControls]) -> dict[str, dict[str, float]]:
    """PSNR of segment 6 of autoregressive videos, rhythm inside segments and jumps at seams."""
    length = pipe.segment_length
    step = length - 1
    table: dict[str, list[float]] = {}
    for index, scene in enumerate(scenes):
        last = scene.frames[-step:]
        for name, kept, noise in (("both, unified noise", BOTH, "unified"), ("both, fresh noise", BOTH, "fresh"),
                                  ("none, unified noise", NONE, "unified")):  # fmt: skip
            config = GenerationConfig.for_pipeline(
                pipe.config, height=scene.frames.shape[1], width=scene.frames.shape[2], noise=noise
            )
            request = LongVideoRequest(
                first_frame=scene.frames[0], controls=Without(scene, kept), prompts=(scene.caption,),
                num_frames=len(scene.frames), seed=NOISE_SEED + index, config=config,
            )  # fmt: skip
            made = torch.cat([result.frames for result in generate_long_video(pipe, request)])
            table.setdefault(name, []).append(psnr(made[-step:], last))
            if name == "both, unified noise":
                for key, value in jumps(made, step).items():
                    table.setdefault(f"{key}, made", []).append(value)
        for key, value in jumps(scene.frames, step).items():
            table.setdefault(f"{key}, truth", []).append(value)
        table.setdefault("first frame of the video, frozen", []).append(psnr(scene.frames[:1].expand_as(last), last))
        table.setdefault("true first frame of segment 6, frozen", []).append(
            psnr(scene.frames[-step - 1 : -step].expand_as(last), last)
        )
    pairs = [("both, unified noise", other) for other in (
        "both, fresh noise", "none, unified noise", "true first frame of segment 6, frozen")]  # fmt: skip
    return {name: interval(values) for name, values in table.items()} | paired(table, pairs)


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


def strips(pipe: LongViePipeline, scenes: list[SceneControls], folder: Path) -> None:
    """Pictures of six-segment videos: the median and the worst by PSNR, one column a segment's last frame.

    Rows: truth, dense control, sparse control, made with both, made without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = pipe.segment_length - 1
    made: list[dict[str, Tensor]] = []
    for index, scene in enumerate(scenes):
        config = GenerationConfig.for_pipeline(pipe.config)
        videos = {}
        for name, kept in (("both", BOTH), ("none", NONE)):
            request = LongVideoRequest(
                first_frame=scene.frames[0],
                controls=Without(scene, kept),
                prompts=(scene.caption,),
                num_frames=len(scene.frames),
                seed=NOISE_SEED + index,
                config=config,
            )
            videos[name] = torch.cat([result.frames for result in generate_long_video(pipe, request)])
        made.append(videos)
    order = sorted(range(len(scenes)), key=lambda i: psnr(made[i]["both"], scenes[i].frames))
    for name, index in (("best", order[-1]), ("median", order[len(order) // 2]), ("worst", order[0])):
        scene = scenes[index]
        sparse = torch.stack([scene.sparse_by_segment[max(0, i - 1)][-1 if i else 0] for i in range(NUM_SEGMENTS + 1)])
        rows = [video[::step] for video in (scene.frames, scene.dense)]
        rows += [sparse, made[index]["both"][::step], made[index]["none"][::step]]
        sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows])
        picture = Image.fromarray(sheet.numpy())
        picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--rollouts", type=int, default=12)
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
    results = {
        "videos": arguments.videos,
        "rollouts": arguments.rollouts,
        "test seeds": [seeds[0], seeds[-1]],
        "segment 1": first_segments(pipe, scenes[: arguments.videos]),
        "segment 6": rollouts(pipe, scenes[: arguments.rollouts]),
    }
    results["seconds"] = round(time.perf_counter() - started, 1)
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.strips:
        strips(pipe, scenes[: arguments.rollouts], arguments.strips)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
