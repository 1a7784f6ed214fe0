"""The training set of the tiny model: segments of synthetic scenes, encoded once.

Kept per segment: latents of its frames, of both controls, of the history before it, and its caption. First-frame
latents are not kept: the autoencoder's latent frame 0 depends on frame 0 alone, so they are the video's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from longvie.conditioning import encode, history_states, to_pixels
from longvie.models.block_vae import BlockVAE
from longvie.segments import plan_segments
from longvie.training.data import SceneControls, scene_controls
from longvie.types import ControlMaps

NUM_HISTORY_FRAMES = 8  # released code


@dataclass(frozen=True, kw_only=True)
class World:
    """The size of the videos the model is trained on."""

    height: int = 64
    width: int = 96
    segment_length: int = 17
    num_segments: int = 6

    @property
    def num_frames(self) -> int:
        return self.num_segments * (self.segment_length - 1) + 1

    def scene(self, seed: int) -> SceneControls:
        return scene_controls(seed, self.num_frames, self.segment_length, self.height, self.width)


@torch.no_grad()
def encode_scene(vae: BlockVAE, scene: SceneControls, segment_length: int) -> dict[str, Tensor]:
    """Latents of all segments, (n, z, F, h, w) float16: "video", "dense", "sparse", and "history" (2 frames).

    Segment 0 has no history; zeros stand for it.
    """
    rows: dict[str, list[Tensor]] = {"video": [], "dense": [], "sparse": [], "history": []}
    video = ControlMaps(dense=scene.frames)
    for segment in plan_segments(len(scene.frames), segment_length):
        controls = scene.at(segment)
        assert controls.dense is not None
        assert controls.sparse is not None
        frames = video.at(segment).dense
        assert frames is not None
        for name, part in (("video", frames), ("dense", controls.dense), ("sparse", controls.sparse)):
            rows[name].append(encode(vae, to_pixels(part)))
        before = scene.frames[max(0, segment.start + 1 - NUM_HISTORY_FRAMES) : segment.start + 1]
        history = history_states(vae, before if segment.index else scene.frames[:0])
        rows["history"].append(torch.zeros_like(rows["video"][0][:, :, :2]) if history is None else history)
    return {name: torch.cat(parts).half() for name, parts in rows.items()}


def _encode_seed(vae_path: Path, world: World, seed: int) -> tuple[str, dict[str, Tensor]]:
    torch.set_num_threads(1)
    vae = BlockVAE.from_pretrained(vae_path)
    scene = world.scene(seed)
    return scene.caption, encode_scene(vae, scene, world.segment_length)


def encode_scenes(
    vae_path: Path, world: World, seeds: Iterable[int], processes: int = 2
) -> tuple[dict[str, Tensor], list[str]]:
    """Render and encode scenes; returns latents (n, ...) in the order of the seeds and one caption a segment."""
    captions: list[str] = []
    rows: dict[str, list[Tensor]] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for caption, latents in pool.map(partial(_encode_seed, vae_path, world), seeds, chunksize=8):
            captions += [caption] * len(latents["video"])
            for name, part in latents.items():
                rows.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in rows.items()}, captions


def clips(scenes: list[SceneControls], world: World) -> tuple[UInt8[Tensor, "n t h w 3"], ...]:
    """All segments of scenes as frames: of the video, of the dense, of the sparse control."""
    step = world.segment_length - 1
    starts = range(0, world.num_frames - 1, step)
    video = torch.stack([scene.frames[i : i + step + 1] for scene in scenes for i in starts])
    dense = torch.stack([scene.dense[i : i + step + 1] for scene in scenes for i in starts])
    sparse = torch.stack([part for scene in scenes for part in scene.sparse_by_segment])
    return video, dense, sparse


SOURCE_WEIGHTS = (0.6, 0.2, 0.2)  # of video, dense and sparse in the choice of components


@torch.no_grad()
def fit_linear(vae: BlockVAE, sources: tuple[UInt8[Tensor, "n t h w 3"], ...], seed: int, blocks: int = 60_000) -> None:
    """Choose the autoencoder's components on a weighted mixture of video and controls."""
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for source, weight in zip(sources, SOURCE_WEIGHTS, strict=True):
        pixels: Float[Tensor, "b 3 t h w"] = rearrange(source, "n t h w c -> n c t h w").float() / 127.5 - 1
        for part, cut in zip(parts, vae.blocks(pixels), strict=True):
            flat = cut.flatten(0, -2)
            part.append(flat[torch.randint(len(flat), (int(weight * blocks),), generator=generator)])
    vae.first.fit(torch.cat(parts[0]))
    vae.rest.fit(torch.cat(parts[1]))
