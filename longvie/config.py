"""Choices of one generation run, as frozen dataclasses and functions that return whole configs.

The model's own defaults (size, steps, guidance) travel in its `model_index.json`; a value given by the user wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

NoiseStrategy = str  # "unified", "fresh" or "mix:ALPHA"
Normalization = Literal["video", "segment"]
Fit = Literal["crop", "pad", "stretch"]

MAX_SEED = 2**63 - 1  # what torch.Generator takes
MAX_STEPS = 1000  # the schedule has 1000 training timesteps
MAX_SCALE = 10.0  # beyond it features overflow long before the picture improves
MAX_GUIDANCE = 30.0
MAX_SIDE = 8192  # pixels


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How every segment of a video is made. Out-of-range values raise `ValueError` naming the field and the remedy.

    Args:
        height, width: pixels, multiples of the model's `size_multiple`.
        num_inference_steps: denoising steps a segment, 1..1000.
        guidance_scale: classifier-free guidance; up to 1 it is off and a step costs one pass instead of two.
        dense_scale, sparse_scale: multiply a control's features before fusion, 0..10 (1: as trained).
        noise: `unified`, one noise for all segments (LongVie §2.2); for ablation `fresh`, another one a segment, or
            `mix:ALPHA`, that much of a fresh one in the shared one, 0..1 (LongVie, Table 7).
        normalization: `video`, dense control as it is, scaled over the whole video (LongVie §2.2), or `segment`,
            stretched again to the 5th..95th percentile of each segment (the fault the paper cures; for ablation).
        fit: how frames of another shape come to height x width.
        history: whether the frames before a segment are seen (LongVie 2); without, its first frame alone (ablation).
    """

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    dense_scale: float = 1.0
    sparse_scale: float = 1.0
    noise: NoiseStrategy = "unified"
    normalization: Normalization = "video"
    fit: Fit = "crop"
    history: bool = True

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            _require(1 <= getattr(self, name) <= MAX_SIDE, name, getattr(self, name), f"give 1..{MAX_SIDE} pixels")
        _require(1 <= self.num_inference_steps <= MAX_STEPS, "num_inference_steps", self.num_inference_steps,
                 f"give 1..{MAX_STEPS}")  # fmt: skip
        _require(_within(self.guidance_scale, MAX_GUIDANCE), "guidance_scale", self.guidance_scale,
                 f"give 0..{MAX_GUIDANCE:g}")  # fmt: skip
        for name in ("dense_scale", "sparse_scale"):
            _require(_within(getattr(self, name), MAX_SCALE), name, getattr(self, name), f"give 0..{MAX_SCALE:g}")
        mix_of(self.noise)
        for name, choices in (("normalization", Normalization), ("fit", Fit)):
            _require(getattr(self, name) in get_args(choices), name, getattr(self, name),
                     f"choose one of {', '.join(get_args(choices))}")  # fmt: skip

    @staticmethod
    def for_pipeline(defaults: Mapping[str, Any], **overrides: Any) -> GenerationConfig:
        """The model's defaults (`pipe.config` or its model_index.json) with the overrides that are not None."""
        names = ("height", "width", "num_inference_steps", "guidance_scale")
        chosen = {name: defaults[name] for name in names}
        chosen.update({name: value for name, value in overrides.items() if value is not None})
        return GenerationConfig(**chosen)


def mix_of(noise: NoiseStrategy) -> float:
    """How much of a segment's noise is its own: 0 unified, 1 fresh, ALPHA of `mix:ALPHA`; else `ValueError`."""
    known = {"unified": 0.0, "fresh": 1.0}
    if noise in known:
        return known[noise]
    kind, _, alpha = str(noise).partition(":")
    try:
        share = float(alpha) if kind == "mix" else math.nan
    except ValueError:
        share = math.nan
    _require(0 <= share <= 1, "noise", noise, "choose unified, fresh or mix:ALPHA with 0..1, as in mix:0.5")
    return share


def check_size(height: int, width: int, multiple: int) -> None:
    """Raise `ValueError` with the nearest sizes that fit if a side is not a multiple of the model's factor."""
    for name, side in (("height", height), ("width", width)):
        if side % multiple:
            down = side - side % multiple
            near = f"{down} or {down + multiple}" if down else f"{multiple}"
            raise ValueError(f"{name} is {side}; this model makes multiples of {multiple}: take {near}")


def check_seed(seed: int) -> int:
    """Return the seed, or raise `ValueError` if it is not in 0..2**63-1."""
    _require(isinstance(seed, int) and 0 <= seed <= MAX_SEED, "seed", seed, "give 0..9223372036854775807")
    return seed


def wan2_1_i2v_14b(num_control_layers: int = 12) -> dict[str, Any]:
    """The transformer of Wan2.1-I2V-14B-480P with LongVie 2's released control (METHOD: 12 of 40 blocks)."""
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "in_channels": 36,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 13824,
        "num_layers": 40,
        "cross_attn_norm": True,
        "eps": 1e-6,
        "image_dim": 1280,
        "added_kv_proj_dim": 5120,
        "num_control_layers": num_control_layers,
    }


def from_release_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A transformer config from the original Wan vocabulary (`dim`, `num_heads`, `control_layers`, `clip_dim`, ...)."""
    return {
        "patch_size": tuple(config.get("patch_size", (1, 2, 2))),
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "in_channels": config.get("in_dim", 36),
        "out_channels": config.get("out_dim", 16),
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "cross_attn_norm": True,
        "eps": config.get("eps", 1e-6),
        "image_dim": config.get("clip_dim"),
        "added_kv_proj_dim": config["dim"] if config.get("clip_dim") else None,
        "num_control_layers": config.get("control_layers", 0),
    }


def _within(value: float, high: float) -> bool:
    return math.isfinite(value) and 0 <= value <= high


def _require(condition: bool, name: str, value: Any, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; {remedy}")
