"""Rendered scenes on disk, and the augmented crops training draws from them.

Scenes are rendered once, in shards; the pool of shards grows while training goes on, so that it can begin at once. A
batch is a pure function of (seed, step, shards in the pool): a resumed run sees what an uninterrupted one would have
seen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.training.depth_scenes import TRAIN_SEEDS, render_views

SHARD_SCENES = 64
NEAREST = 1e-2  # metres: nearer is taken as this
SAMPLE_STREAM = 0xDA7A  # keeps the draws of training apart from those of the scenes


@dataclass(frozen=True, kw_only=True)
class DepthWorld:
    """What is rendered: scenes from TRAIN_SEEDS on, a few views each, larger than what training crops from them."""

    num_views: int = 2
    height: int = 192
    width: int = 288


def render_shard(folder: Path, world: DepthWorld, shard: int) -> tuple[Path, Path]:
    """Render a shard unless it is there: files of frames (uint8) and disparity (1 / metres, 0 in the sky, float16)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"frames-{shard:04d}.npy", folder / f"disparity-{shard:04d}.npy"
    if not all(path.exists() for path in paths):
        seeds = TRAIN_SEEDS[shard * SHARD_SCENES : (shard + 1) * SHARD_SCENES]
        views = [render_views(seed, world.num_views, world.height, world.width) for seed in seeds]
        frames = np.stack([frames for frames, _ in views])
        disparity = np.stack([1 / np.maximum(depth, NEAREST) for _, depth in views]).astype(np.float16)
        for path, array in zip(paths, (frames, disparity), strict=True):
            partial = path.with_suffix(f".{os.getpid()}.partial")
            with partial.open("wb") as file:
                np.save(file, array)
            partial.replace(path)
    return paths


class DepthShards:
    """The pool of rendered scenes, memory-mapped."""

    def __init__(self, folder: Path, world: DepthWorld) -> None:
        self._folder, self._world = folder, world
        self._frames: list[ndarray] = []
        self._disparity: list[ndarray] = []
        self._num_shards = 0

    def resize(self, num_shards: int) -> None:
        """Make the pool the first `num_shards` shards, rendering what is missing."""
        while len(self._frames) < num_shards:
            frames, disparity = render_shard(self._folder, self._world, len(self._frames))
            self._frames.append(np.load(frames, mmap_mode="r"))
            self._disparity.append(np.load(disparity, mmap_mode="r"))
        self._num_shards = num_shards

    def __len__(self) -> int:
        return self._num_shards * SHARD_SCENES

    def __getitem__(self, scene: int) -> tuple[UInt8[ndarray, "v h w 3"], Float[ndarray, "v h w"]]:
        """The views of a scene and their disparity."""
        shard, index = divmod(scene, SHARD_SCENES)
        return self._frames[shard][index], self._disparity[shard][index]


def sample_batch(
    shards: DepthShards, sizes: tuple[tuple[int, int], ...], strength: float, num_clips: int, seed: int, step: int
) -> tuple[UInt8[ndarray, "b v h w 3"], Float[ndarray, "b v h/2 w/2"]]:
    """Augmented clips of one random size, and their disparity (float32, half the size)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, step, SAMPLE_STREAM]))
    height, width = sizes[rng.integers(len(sizes))]
    scenes = rng.integers(len(shards), size=num_clips)
    clips = [augment(*shards[int(scene)], height, width, strength, rng) for scene in scenes]
    frames, disparity = zip(*clips, strict=True)
    return np.stack(frames), np.stack(disparity)


def augment(
    frames: UInt8[ndarray, "v h w 3"], disparity: Float[ndarray, "v h w"], height: int, width: int,
    strength: float, rng: np.random.Generator,
) -> tuple[UInt8[ndarray, "v height width 3"], Float[ndarray, "v height/2 width/2"]]:  # fmt: skip
    """One crop and flip for all views, then one look and each view's own noise; disparity at half the size."""
    full_height, full_width = frames.shape[1:3]
    scale = min(full_height / height, full_width / width) * rng.uniform(0.6, 1)
    crop_height, crop_width = int(height * scale), int(width * scale)
    y, x = rng.integers(full_height - crop_height + 1), rng.integers(full_width - crop_width + 1)
    window = (slice(y, y + crop_height), slice(x, x + crop_width))
    mirrored = rng.random() < 0.5
    look = Look.draw(rng, strength)
    images, targets = [], []
    for frame, target in zip(frames, disparity, strict=True):
        image, near = np.ascontiguousarray(frame[window]), np.ascontiguousarray(target[window].astype(np.float32))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
        near = cv2.resize(near, (width // 2, height // 2), interpolation=cv2.INTER_NEAREST_EXACT)
        if mirrored:
            image, near = image[:, ::-1], near[:, ::-1]
        images.append(look.develop(image, rng))
        targets.append(near)
    return np.stack(images), np.stack(targets)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A camera's and a codec's way with colours: what a clip's frames share."""

    gain: float  # brightness
    contrast: float
    gamma: float
    mix: Float[ndarray, "3 3"]  # of channels: hue, saturation, white balance
    vignette: float  # darkening of the corners
    blur: float  # sigma in pixels
    noise: float  # sigma in 1/255
    quality: int | None  # JPEG

    @staticmethod
    def draw(rng: np.random.Generator, strength: float) -> Look:
        """A random look; `strength` from 0 to 1 scales brightness, contrast, blur, noise and compression."""
        mix = np.eye(3) + rng.normal(0, 0.07, (3, 3))
        grey = np.full((3, 3), 1 / 3)
        saturation = 0.0 if rng.random() < 0.12 else rng.uniform(0.3, 1.6)
        mix = (grey + (mix - grey) * saturation) * np.exp(rng.normal(0, 0.1, (3, 1)))
        if saturation == 0:
            mix = np.broadcast_to(rng.dirichlet([2, 4, 1]), (3, 3))  # some sensor's grey
        return Look(
            gain=float(np.exp(strength * rng.normal(0, 0.25))),
            contrast=float(np.exp(strength * rng.normal(0.1, 0.3))),
            gamma=float(np.exp(strength * rng.normal(0, 0.25))),
            mix=mix.astype(np.float32),
            vignette=float(rng.uniform(0, 0.5) * (rng.random() < 0.3)),
            blur=float(strength * rng.uniform(0.3, 1.6) * (rng.random() < 0.35)),
            noise=float(strength * rng.exponential(5) * (rng.random() < 0.5)),
            quality=round(100 - strength * (100 - rng.integers(15, 95))) if rng.random() < 0.4 else None,
        )

    def develop(self, image: UInt8[ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[ndarray, "h w 3"]:
        """Apply the look; noise, and a flicker of brightness of about 2 %, are the frame's own."""
        height, width = image.shape[:2]
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        pixels = cv2.transform(image.astype(np.float32) / 255, self.mix)
        pixels = np.clip((pixels - 0.5) * self.contrast + 0.5, 0, 1) ** np.float32(self.gamma)
        pixels *= self.gain * (1 + rng.normal(0, 0.02))
        if self.vignette:
            y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
            pixels *= (1 - self.vignette * (y * y + x * x) / 2)[..., None]
        if self.noise:
            pixels += rng.standard_normal((height, width, 3), np.float32) * (self.noise / 255)
        done = (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        if self.quality is not None:
            encoded = cv2.imencode(".jpg", done, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
            done = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        return done
