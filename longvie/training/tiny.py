"""The embedded model before its first step: `python -m longvie.training.tiny --out DIR`.

A pipeline folder that `longvie encode` and `longvie train` take: an autoencoder whose linear map fits synthetic scenes,
a tokenizer of their words, a text encoder that stays as it was drawn (a frozen random one tells words apart, and the
transformer learns what they mean), and a transformer with random weights. The same seed gives the same files on one
machine.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import UInt8
from torch import Tensor

from longvie.models.block_vae import BlockVAE
from longvie.pipeline import LongViePipeline
from longvie.scenes import TRAIN_SEEDS
from longvie.training.data import SceneControls, captions, scene_controls
from longvie.training.recipes import tiny
from longvie.training.start import random_transformer
from longvie.training.text import MAX_TOKENS, tiny_text_encoder, train_tokenizer
from longvie.training.vae import fit_linear

HEIGHT, WIDTH, FPS = 64, 96, 8
SEGMENT_LENGTH, NUM_HISTORY_FRAMES = 17, 8  # released code: 8 frames of history
Z_DIM = 48
FIT_SCENES, FIT_SEGMENTS = 40, 6  # what the linear map is fitted to
CAPTIONS = 2000  # scenes whose words the tokenizer knows: all there are


def clips(scenes: Sequence[SceneControls], segment_length: int) -> tuple[UInt8[Tensor, "n t h w 3"], ...]:
    """All segments of scenes as frames: of the video, of the dense, of the sparse control."""
    step = segment_length - 1
    video, dense = (
        torch.stack([part[i : i + segment_length] for part in parts for i in range(0, len(part) - 1, step)])
        for parts in ([scene.frames for scene in scenes], [scene.dense for scene in scenes])
    )
    return video, dense, torch.stack([part for scene in scenes for part in scene.sparse_by_segment])


def fitted_vae(seed: int) -> BlockVAE:
    """A `BlockVAE` whose linear map fits training scenes; its refiner adds nothing yet."""
    num_frames = FIT_SEGMENTS * (SEGMENT_LENGTH - 1) + 1
    scenes = [scene_controls(n, num_frames, SEGMENT_LENGTH, HEIGHT, WIDTH) for n in TRAIN_SEEDS[:FIT_SCENES]]
    torch.manual_seed(seed)
    vae = BlockVAE(z_dim=Z_DIM)
    fit_linear(vae, clips(scenes, SEGMENT_LENGTH), seed)
    return vae


def tiny_pipeline(seed: int) -> LongViePipeline:
    """The model before its first step."""
    recipe = tiny()
    tokenizer = train_tokenizer(captions(TRAIN_SEEDS[:CAPTIONS]))
    vae = fitted_vae(seed)
    torch.manual_seed(seed)
    return LongViePipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text_encoder(len(tokenizer)).half(),
        vae=vae.half(),
        transformer=random_transformer(recipe, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.levels.shift),
        segment_length=SEGMENT_LENGTH, num_history_frames=NUM_HISTORY_FRAMES, fps=FPS, height=HEIGHT, width=WIDTH,
        num_inference_steps=recipe.num_inference_steps, guidance_scale=1.0, max_sequence_length=MAX_TOKENS,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.out / "model_index.json").exists():
        partial = arguments.out.with_name(f".{arguments.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        tiny_pipeline(arguments.seed).save_pretrained(partial)
        partial.replace(arguments.out)


if __name__ == "__main__":
    main()
