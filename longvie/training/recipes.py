"""Recipes: everything that decides a training run but its data and its length. Recipes are functions; read them.

Stages follow one another in one run (LongVie 2: control, degradation, history).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from longvie.config import wan2_1_i2v_14b as wan_config
from longvie.models.names import is_attention, is_control, is_lora
from longvie.training.degradation import (
    DATA_PROBABILITY,
    DEGRADE_FROM,
    FEATURE_PROBABILITY,
    FIRST_FRAME_PROBABILITY,
    MAX_RENOISE_SIGMA,
)
from longvie.training.loss import NoiseLevels, Weighting

Trained = Literal["control", "control and attention", "all"]
MODALITIES = ("both", "dense", "sparse", "none")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a sample is given, and how it is degraded; shares are probabilities in 0..1.

    Args:
        modalities: of both controls, dense only, sparse only, none, where a sample has both.
        history: of segments after the first that are given the frames before them; how many is drawn evenly.
        prompt_dropout: of prompts that are emptied.
        condition_noise: largest deviation of Gaussian noise on first-frame and history latents; each sample draws its
            own, u^2 times as much with u ~ U[0, 1].
        features: of dense branches scaled by U[.05, 1].
        data: of dense controls degraded in their pixels.
        degrade_from: part of the stage after which features and data are degraded.
        first_frame: of first frames degraded: some by trips through the VAE, most by the model's own memory of it.
        renoise: largest sigma of that memory.
        own: of samples (per_step: of steps) that begin with frames that the model itself has made, see `Rollouts`.
        own_noise: whether those come with the noise that made them, as generation has it, or with another.
        per_step: whether modality and history are drawn once a step and not for every sample: one forward pass a step.
    """

    modalities: tuple[float, float, float, float] = (0.85, 0.05, 0.05, 0.05)  # ours; the papers give no numbers
    history: float = 0.0
    prompt_dropout: float = 0.1
    condition_noise: float = 0.0
    features: float = FEATURE_PROBABILITY
    data: float = DATA_PROBABILITY
    degrade_from: float = DEGRADE_FROM
    first_frame: float = 0.0
    renoise: float = MAX_RENOISE_SIGMA
    own: float = 0.0
    own_noise: bool = False
    per_step: bool = False


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Videos of the training set that the averaged weights make from their controls, for stages with `Conditions.own`.

    First frames and histories then have the very mistakes that add up over a long video (ours; as Self-Forcing, arXiv
    2506.08009, trains on a model's own past).

    Args:
        num_segments: made beside first ones, of each dataset as many as its share of the samples; whole videos, drawn
            anew each time.
        every: steps after which they are made anew, by the weights as they are then.
        num_history_frames: handed on from segment to segment.
    """

    num_segments: int = 480
    every: int = 500
    num_history_frames: int = 8


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training.

    Args:
        rate: peak learning rate of AdamW.
        decay: its last part, over which the rate falls to zero.
        trained: which parameters learn: the control's, those and the base's self-attention, or all.
    """

    name: str
    num_steps: int
    rate: float
    trained: Trained = "control"
    decay: float = 0.0
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run.

    Args:
        batch: samples a step, over all workers.
        config: of the transformer, for a dry run and for weights that start anew.
        first_frame_terms: whether the loss has LongVie 2's terms on latent frame 0.
        muon: peak rate of Muon for the blocks' matrices; None: AdamW for all.
        warmup: steps over which a stage's rate rises.
        pixel_errors: whether errors in latents count by how far they show in pixels, where the autoencoder says so
            (`BlockVAE.latent_weights`).
        keeps_first_frame: of the pipeline that comes out, see `LongViePipeline`; frame 0 then counts for nothing in
            errors that are weighted by pixel_errors.
        average: decay of the moving average of the weights.
        dtype: of weights and activations; norms and sums stay float32 as diffusers keeps them.
        sharded: whether several workers hold a part of the weights each (FSDP2), or all of them.
        latents, max_text_tokens: sizes of the data it is made for, for a dry run; Wan: 81 frames of 640x352.
        recompute: whether activations are computed again in the backward pass.
        num_inference_steps: of validation videos.
    """

    name: str
    stages: tuple[Stage, ...]
    batch: int
    config: Mapping[str, Any]
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    weighting: Weighting = "bell"
    first_frame_terms: bool = True
    muon: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 100
    pixel_errors: bool = False
    keeps_first_frame: bool = False
    rollouts: Rollouts = field(default_factory=Rollouts)
    average: float = 0.9999
    dtype: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    sharded: bool = False
    latents: tuple[int, int, int, int] = (16, 21, 44, 80)
    max_text_tokens: int = 512
    num_inference_steps: int = 50

    @property
    def num_steps(self) -> int:
        return sum(stage.num_steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, and the step within it."""
        for stage in self.stages:
            if step < stage.num_steps:
                return stage, step
            step -= stage.num_steps
        raise IndexError(f"the recipe has {self.num_steps} steps")

    def rate_at(self, step: int) -> float:
        """The share of the peak rates at a step: a rise, a plateau, and a fall if there is any, in every stage."""
        stage, within = self.stage_at(step)
        rise = min(1.0, (within + 1) / max(1, min(self.warmup, stage.num_steps)))
        fall = (stage.num_steps - within) / (stage.decay * stage.num_steps) if stage.decay else 1.0
        return min(rise, fall, 1.0)

    def shortened(self, steps: Mapping[str, int]) -> Recipe:
        """With other numbers of steps for the named stages; a stage of 0 steps is left out.

        Raises:
            ValueError: there is no such stage, or no step is left.
        """
        names = [stage.name for stage in self.stages]
        unknown = sorted(set(steps) - set(names))
        if unknown:
            raise ValueError(f"{self.name} has no stage {unknown[0]}; it has {', '.join(names)}")
        stages = tuple(replace(stage, num_steps=steps.get(stage.name, stage.num_steps)) for stage in self.stages)
        kept = tuple(stage for stage in stages if stage.num_steps > 0)
        if not kept:
            raise ValueError(f"no stage of {self.name} is left; give one of {', '.join(names)} steps")
        return replace(self, stages=kept)


DEGRADATIONS = {"feature": "features", "data": "data", "first-frame": "first_frame"}  # a field of `Conditions` each


def degraded(recipe: Recipe, shares: Mapping[str, float]) -> Recipe:
    """A recipe with other shares of degraded samples, in all stages: LongVie's ablation (P1 Table 3) leaves one out.

    Raises:
        ValueError: there is no such degradation, or a share is no probability.
    """
    for name, share in shares.items():
        if name not in DEGRADATIONS:
            raise ValueError(f"{name} is no degradation; give one of {', '.join(DEGRADATIONS)}")
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; give a share of the samples, 0 to 1")
    fields = {DEGRADATIONS[name]: share for name, share in shares.items()}
    stages = tuple(replace(stage, conditions=replace(stage.conditions, **fields)) for stage in recipe.stages)
    return replace(recipe, stages=stages)


def learning_names(names: Iterable[str], trained: Trained, lora: bool = False) -> set[str]:
    """Which of a transformer's parameters learn in a stage; of one with LoRA layers, those alone."""
    if lora:
        return {name for name in names if is_lora(name)}
    if trained == "all":
        return set(names)
    attention = trained == "control and attention"
    return {name for name in names if is_control(name) or (attention and is_attention(name))}


def wan2_1_i2v_14b() -> Recipe:
    """LongVie 2 on Wan2.1-I2V-14B-480P: frozen base, control and fusion learn; at last the self-attention, too.

    Steps and rates: LongVie 2. Effective batch: LongVie.
    """
    degraded = Conditions(degrade_from=0.0, first_frame=FIRST_FRAME_PROBABILITY)
    return Recipe(
        name="wan2_1_i2v_14b",
        stages=(
            Stage(name="control", num_steps=5000, rate=1e-5),
            Stage(name="degradation", num_steps=1000, rate=1e-5, conditions=degraded),
            Stage(
                name="history",
                num_steps=2000,
                rate=5e-6,
                trained="control and attention",
                conditions=replace(degraded, history=0.9),
            ),
        ),
        batch=64,
        config=wan_config(),
        dtype="bfloat16",
        recompute=True,
        sharded=True,
    )


def wan2_1_i2v_1_3b() -> Recipe:
    """The same on an image-to-video model of 1.3B parameters (the size of Wan2.1-Fun-1.3B-InP), for small clusters.

    Control in the same part of the blocks, 9 of 30. The rate is LongVie's for its own smaller base model.
    """
    config = wan_config(num_control_layers=9) | {
        "num_attention_heads": 12,
        "ffn_dim": 8960,
        "num_layers": 30,
        "added_kv_proj_dim": 1536,
    }
    whole = wan2_1_i2v_14b()
    stages = tuple(replace(stage, rate=10 * stage.rate) for stage in whole.stages)
    return replace(whole, name="wan2_1_i2v_1_3b", config=config, stages=stages)


def tiny() -> Recipe:
    """The embedded model, all of its transformer, in hours on two cores. Every number is ours, measured on it.

    Sampling takes one step, so most noise levels are pure noise; Muon learns far faster than AdamW alone. First frames
    are degraded by the model itself: it makes whole videos, and learns to go on from them. The stage `history` is for a
    model whose decoder is refined (pipelines/training/refine.py): what is handed on then is what generation hands on.
    """
    conditions = Conditions(
        modalities=(0.76, 0.08, 0.08, 0.08), history=0.3, condition_noise=0.25, features=0.0, data=0.0, per_step=True
    )
    return Recipe(
        name="tiny",
        stages=(
            Stage(name="control", num_steps=800, rate=2e-3, trained="all", conditions=conditions),
            Stage(
                name="degradation",
                num_steps=10950,
                rate=2e-3,
                trained="all",
                decay=0.7,
                conditions=replace(conditions, own=0.5, own_noise=True),
            ),
            Stage(
                name="history",
                num_steps=7000,
                rate=1e-3,
                trained="all",
                decay=0.7,
                conditions=replace(conditions, own=0.5),
            ),
        ),
        batch=4,
        config={
            "patch_size": (1, 1, 1), "num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 100,
            "out_channels": 48, "text_dim": 64, "freq_dim": 128, "ffn_dim": 384, "num_layers": 6,
            "cross_attn_norm": True, "rope_max_seq_len": 256, "num_control_layers": 3,
        },
        levels=NoiseLevels(distribution="logit-normal", pure_noise=0.85),
        weighting="floor",
        first_frame_terms=False,
        muon=0.02,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        warmup=60,
        pixel_errors=True,
        keeps_first_frame=True,
        rollouts=Rollouts(every=900),
        average=0.998,
        latents=(48, 5, 8, 12),
        max_text_tokens=24,
        num_inference_steps=1,
    )  # fmt: skip


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (tiny, wan2_1_i2v_14b, wan2_1_i2v_1_3b)
}
