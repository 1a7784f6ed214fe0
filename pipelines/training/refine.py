"""The embedded model's decoder, taught by what its trained transformer makes: `python -m pipelines.training.refine`.

`longvie train` leaves the autoencoder as it was. A `BlockVAE` decodes with a linear map and a refiner for what that
misses; the refiner learns from segments that the transformer made of training videos, from true frames and in rollouts,
against their true frames. Weights are written in float16. Once is enough: a second time, on 480 segments, it came to
fit those, and rollouts lost .8 dB by segment 6.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from longvie.media import resampled
from longvie.models.block_vae import BlockVAE
from longvie.models.loading import load_pipeline
from longvie.training.encoded import EncodedDataset
from longvie.training.export import export_pipeline, forget_origin
from longvie.training.mixture import EncodedMixture
from longvie.training.recipes import tiny
from longvie.training.rollouts import draw_chains, roll_out
from longvie.training.vae import train_refiner
from longvie.types import Frames
from pipelines.encoding.prepared import PreparedSegment, read_prepared
from pipelines.storage import local_path_of

NUM_SEGMENTS = 200  # of each dataset, made twice
NUM_STEPS = 2200
BORDER_SMOOTHING = 0.24  # of .1, .15, .2 and .24, PSNR being the same to .02 dB: fewest jumps between latents


def refine(
    model: Path, data: Sequence[str], prepared: Sequence[str], out: Path, num_segments: int, num_steps: int, seed: int
) -> None:
    """Write to `out` the model with a refined decoder.

    Args:
        data: what `longvie encode` wrote of each folder of `prepared`, in the same order.
    """
    pipe = load_pipeline(model)
    vae, recipe = pipe.vae, tiny()
    if not isinstance(vae, BlockVAE):
        raise SystemExit(f"{model} has no BlockVAE; its autoencoder is not refined")
    mixture = EncodedMixture([EncodedDataset(uri) for uri in data])
    made, video = [], []
    for which, folder in enumerate(prepared):
        rows = mixture.rows(which)
        chains = [
            [rows[k] for k in chain]
            for chain in draw_chains([mixture.place(row) for row in rows], num_segments, seed, which)
        ]
        frames = _true_frames(mixture, folder, [row for chain in chains for row in chain])
        for starts in (chains, [[row] for chain in chains for row in chain]):
            for one in roll_out(
                pipe.transformer, vae, mixture, starts, num_steps=recipe.num_inference_steps, shift=recipe.levels.shift,
                seed=seed, num_history_frames=recipe.rollouts.num_history_frames, keep=1,
                keeps_first_frame=recipe.keeps_first_frame,
            ):  # fmt: skip
                made.append(one.latents)
                video.append(frames[one.index])
    vae.register_to_config(border_smoothing=BORDER_SMOOTHING)
    vae.requires_grad_(False)
    assert vae.refiner is not None
    vae.refiner.requires_grad_(True)
    steps = train_refiner(vae, torch.stack(video), torch.stack(made), num_steps, seed)
    for _, loss in track(steps, total=num_steps):
        last = loss
    print(f"loss {last:.4f}")
    partial = out.with_name(f".{out.name}.partial")
    # Encoders stay the files they were: saved anew, a tokenizer's settings differ, and with them the data's fingerprint
    export_pipeline(pipe.transformer.half(), model, partial, {"keeps_first_frame": recipe.keeps_first_frame})
    vae.half().save_pretrained(partial / "vae")
    forget_origin(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)


def _true_frames(mixture: EncodedMixture, folder: str, rows: Sequence[int]) -> dict[int, Frames]:
    """The frames that each sample was encoded from."""
    prepared = read_prepared(folder)
    known = {(one.video_id, one.segment): one for one in prepared.segments}
    places = [mixture.place(row) for row in rows]
    return {
        row: _frames(known[place["video_id"], place["segment"]], prepared.frames, prepared.segment_length)
        for row, place in zip(rows, places, strict=True)
    }


def _frames(segment: PreparedSegment, how: Mapping[str, Any], length: int) -> Frames:
    start = segment.source_start
    batches = resampled(local_path_of(segment.source), **how, start=start, stop=start + segment.num_valid)
    frames = np.concatenate(list(batches))
    return torch.from_numpy(np.concatenate([frames, np.repeat(frames[-1:], length - len(frames), axis=0)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--prepared", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--segments", type=int, default=NUM_SEGMENTS)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if len(given.data) != len(given.prepared):
        parser.error("give a --prepared for each --data")
    refine(given.model, given.data, given.prepared, given.out, given.segments, given.steps, given.seed)


if __name__ == "__main__":
    main()
