"""The recipe of the embedded model, stage after stage: `python -m longvie.training.tiny --out DIR`.

autoencoder -> latents -> transformer -> refiner -> export. Each stage leaves files in DIR and is skipped when they are
there; the transformer and the refiner resume from their last checkpoint. The same seed gives the same weights on one
machine with one thread count.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from longvie.models.block_vae import BlockVAE
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline
from longvie.scenes import TRAIN_SEEDS
from longvie.training.film import HELD_OUT, Span, windows
from longvie.training.latents import World, clips, encode_scene, encode_scenes, fit_linear
from longvie.training.optimizer import Optimizers, rate_at
from longvie.training.rollouts import make_segments, roll_out
from longvie.training.step import Latents, OwnFrames, StepConfig, TinyModel, batch_loss, subset, update_average
from longvie.training.text import MAX_TOKENS, tiny_text_encoder, tokenize, train_tokenizer
from longvie.training.vae import train_refiner

EMA_DECAY = 0.998
CHECKPOINT_EVERY = 100
LOG_EVERY = 25
SHARD = 64  # scenes rendered and encoded at a time
FILM_SEGMENTS = 2  # of a window of a film


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """All numbers of a run; saved beside the model.

    Args:
        start: folder of an earlier tiny model whose weights this one starts from; None: from random numbers.
        peak: share of the optimisers' peak rates; less than 1 for a model that has learned before.
        prepared: folder of `longvie prepare` with a film to learn from beside the scenes; None: scenes alone.
        film_share: of the steps that see the film.
        held_out: seconds of the film that are not trained on.
        own_frames_from: the step from which the model also learns from frames that it made itself.
        own_frames_every: steps after which those are made anew, by the weights as they are then.
        num_rollouts: videos that are made each time; for the refiner, as many once.
        border_smoothing: the decoder's, see `BlockVAE`.
    """

    seed: int = 0
    start: str | None = None
    peak: float = 1.0
    world: World = field(default_factory=World)
    z_dim: int = 48
    num_fit_scenes: int = 40
    num_scenes: int = 1536
    num_steps: int = 10_000
    own_frames_from: int = 2500
    own_frames_every: int = 400
    num_rollouts: int = 40
    num_inference_steps: int = 1
    num_refiner_steps: int = 600
    border_smoothing: float = 0.24
    prepared: str | None = None
    film_share: float = 0.35
    held_out: tuple[Span, ...] = HELD_OUT
    step: StepConfig = field(default_factory=lambda: StepConfig(history=0.3, own_frames=0.5))

    @property
    def film_world(self) -> World:
        """Windows of a film are shorter than scenes: most shots are."""
        return replace(self.world, num_segments=FILM_SEGMENTS)


def tiny_transformer(z_dim: int, seed: int) -> LongVieTransformer3DModel:
    """Width 128, 6 blocks, control in the first 3.

    Noise enters and leaves through matching orthonormal directions: the velocity is mostly noise, and a narrow model
    would spend its training on learning to copy it.
    """
    torch.manual_seed(seed)
    model = LongVieTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=4, attention_head_dim=32, in_channels=2 * z_dim + 4,
        out_channels=z_dim, text_dim=64, freq_dim=128, ffn_dim=384, num_layers=6, cross_attn_norm=True,
        rope_max_seq_len=256, num_control_layers=3,
    )  # fmt: skip
    dim = model.proj_out.in_features
    directions = torch.linalg.qr(torch.randn(dim, dim))[0]
    with torch.no_grad():
        embedding = model.patch_embedding.weight.view(dim, -1)
        embedding.mul_(0.5)
        embedding[:, :z_dim] = directions[:, :z_dim]
        embedding[:, z_dim + 4 :] = directions[:, z_dim : 2 * z_dim]
        nn.init.zeros_(cast(Tensor, model.patch_embedding.bias))
        model.proj_out.weight.copy_(directions[:, :z_dim].T * (z_dim / dim) ** 0.5)
        model.proj_out.bias.zero_()
    return model


def autoencoder_stage(out: Path, recipe: TinyRecipe) -> BlockVAE:
    """Fit the linear autoencoder on a few scenes."""
    if not (out / "vae" / "config.json").exists() and recipe.start is not None:
        earlier = load_file(Path(recipe.start) / "vae" / "diffusion_pytorch_model.safetensors")
        vae = BlockVAE(z_dim=recipe.z_dim)  # the linear map stays; the refiner starts anew
        linear = {name: value.float() for name, value in earlier.items() if not name.startswith("refiner.")}
        refiner = {name: value for name, value in vae.state_dict().items() if name.startswith("refiner.")}
        vae.load_state_dict(linear | refiner)
        vae.save_pretrained(out / "vae")
    if not (out / "vae" / "config.json").exists():
        world, first = recipe.world, TRAIN_SEEDS.start
        torch.manual_seed(recipe.seed)
        vae = BlockVAE(z_dim=recipe.z_dim)
        scenes = [world.scene(seed) for seed in range(first, first + recipe.num_fit_scenes)]
        fit_linear(vae, clips(scenes, world), recipe.seed)
        vae.save_pretrained(out / "vae")
    return BlockVAE.from_pretrained(out / "vae")


def latents_stage(out: Path, recipe: TinyRecipe) -> tuple[dict[str, Tensor], list[str]]:
    """Render and encode the training scenes, a shard at a time."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    captions: list[str] = []
    for first in range(0, recipe.num_scenes, SHARD):
        shard = out / "latents" / f"{first:06d}"
        if not shard.with_suffix(".json").exists():
            shard.parent.mkdir(exist_ok=True)
            seeds = TRAIN_SEEDS[first : min(first + SHARD, recipe.num_scenes)]
            latents, names = encode_scenes(out / "vae", recipe.world, seeds)
            save_file({name: part.contiguous() for name, part in latents.items()}, shard.with_suffix(".safetensors"))
            shard.with_suffix(".json").write_text(json.dumps(names))
        for name, part in load_file(shard.with_suffix(".safetensors")).items():
            parts[name].append(part)
        captions += json.loads(shard.with_suffix(".json").read_text())
    return {name: torch.cat(rows) for name, rows in parts.items()}, captions


def film_stage(out: Path, recipe: TinyRecipe, vae: BlockVAE) -> tuple[dict[str, Tensor], list[str]]:
    """Encode all windows of the prepared film."""
    path = out / "film.safetensors"
    if not path.with_suffix(".json").exists():
        assert recipe.prepared is not None
        parts: dict[str, list[Tensor]] = defaultdict(list)
        captions: list[str] = []
        for window in windows(Path(recipe.prepared), recipe.film_world, recipe.held_out):
            for name, part in encode_scene(vae, window, recipe.world.segment_length).items():
                parts[name].append(part)
            captions += [window.caption] * recipe.film_world.num_segments
        save_file({name: torch.cat(rows).contiguous() for name, rows in parts.items()}, path)
        path.with_suffix(".json").write_text(json.dumps(captions))
    return load_file(path), json.loads(path.with_suffix(".json").read_text())


def tokenizer_stage(recipe: TinyRecipe, captions: list[str]) -> PreTrainedTokenizerFast:
    """The words of the captions, or those an earlier model knows."""
    if recipe.start is None:
        return train_tokenizer(captions)
    return PreTrainedTokenizerFast.from_pretrained(Path(recipe.start) / "tokenizer")


def dataset(
    latents: dict[str, Tensor],
    captions: list[str],
    tokenizer: PreTrainedTokenizerFast,
    vae: BlockVAE,
    num_segments: int,
) -> Latents:
    """Latents and captions as training takes them."""
    ids, mask = tokenize(tokenizer, captions)
    empty_ids, empty_mask = tokenize(tokenizer, [""])
    grey = torch.zeros(1, 3, 5, 8, 8)
    zero = vae.encode(grey).latent_dist.mode()[0, :, 1, 0, 0].detach()
    empty = (empty_ids[0], empty_mask[0])
    weights = torch.stack([part.scale.detach() / part.scale.detach().mean() for part in (vae.first, vae.rest)])
    return Latents(
        **latents, ids=ids, mask=mask, empty=empty, zero=zero, weights=weights.float(), num_segments=num_segments
    )


def new_model(recipe: TinyRecipe, vocabulary: int) -> TinyModel:
    """The model before its first step."""
    torch.manual_seed(recipe.seed)
    model = TinyModel(tiny_transformer(recipe.z_dim, recipe.seed), tiny_text_encoder(vocabulary))
    if recipe.start is not None:
        earlier = Path(recipe.start)
        transformer = LongVieTransformer3DModel.from_pretrained(earlier / "transformer", dtype=torch.float32)
        model.transformer.load_state_dict(transformer.state_dict())
        text_encoder = UMT5EncoderModel.from_pretrained(earlier / "text_encoder", dtype=torch.float32)
        model.text_encoder.load_state_dict(text_encoder.state_dict())
    return model


def own_frames(
    path: Path, recipe: TinyRecipe, average: TinyModel, vae: BlockVAE, data: Latents, step: int
) -> OwnFrames:
    """First frames and histories from rollouts of the averaged model, of videos drawn from the step; made once.

    As many segments as `num_rollouts` scenes have.
    """
    if not path.exists():
        count = len(data.video) // data.num_segments
        wanted = min(recipe.num_rollouts * recipe.world.num_segments // data.num_segments, count)
        generator = torch.Generator().manual_seed(recipe.seed * 3_000_017 + step)
        chosen, rows = subset(data, torch.randperm(count, generator=generator)[:wanted].tolist())
        _, own = roll_out(average, vae, chosen, wanted, recipe.num_inference_steps, recipe.seed + step)
        save_file({"first": own.first, "history": own.history, "rows": rows}, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    return OwnFrames(**load_file(path))


def transformer_stage(
    out: Path, recipe: TinyRecipe, worlds: Mapping[str, Latents], vae: BlockVAE, vocabulary: int
) -> TinyModel:
    """Train from the last checkpoint on, each step on one of the worlds; returns the averaged model.

    Args:
        worlds: "scenes", and "film" if there is one.
    """
    model = new_model(recipe, vocabulary)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = Optimizers(model)
    first = _load_checkpoint(out / "checkpoint.safetensors", model, average, optimizers)
    losses: dict[str, list[float]] = defaultdict(list)
    started = time.time()
    own: dict[str, OwnFrames] = {}
    for step in range(first, recipe.num_steps):
        made = (step - recipe.own_frames_from) // recipe.own_frames_every
        if made >= 0 and (not own or step == recipe.own_frames_from + made * recipe.own_frames_every):
            for name, data in worlds.items():
                own[name] = own_frames(out / f"own_{name}_{made:03d}.safetensors", recipe, average, vae, data, made)
        world = world_at(step, recipe, list(worlds))
        loss, modality = batch_loss(model, worlds[world], recipe.step, recipe.seed, step, own.get(world))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; the checkpoint before it is kept")
        loss.backward()
        optimizers.step(recipe.peak * rate_at(step, recipe.num_steps))
        update_average(average, model, min(EMA_DECAY, (step + 1) / (step + 10)))
        losses[f"{world} {modality}"].append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            means = {name: round(sum(values) / len(values), 4) for name, values in sorted(losses.items())}
            rate = (time.time() - started) / (step + 1 - first)
            _log(out, {"step": step + 1, "seconds_a_step": round(rate, 3), "loss": means})
            losses.clear()
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.num_steps:
            _save_checkpoint(out / "checkpoint.safetensors", model, average, optimizers, step + 1)
    return average


def world_at(step: int, recipe: TinyRecipe, worlds: Sequence[str]) -> str:
    """Which world a step sees: a function of the seed and the step alone."""
    if "film" not in worlds:
        return "scenes"
    generator = torch.Generator().manual_seed(recipe.seed * 2_000_003 + step)
    return "film" if float(torch.rand((), generator=generator)) < recipe.film_share else "scenes"


def export(
    out: Path, average: TinyModel, tokenizer: PreTrainedTokenizerFast, vae: BlockVAE, recipe: TinyRecipe
) -> LongViePipeline:
    """Save the whole pipeline in diffusers layout, weights in float16, and the recipe beside it."""
    text_encoder: UMT5EncoderModel = average.text_encoder
    pipe = LongViePipeline(
        tokenizer=tokenizer,
        text_encoder=copy.deepcopy(text_encoder).half(),
        vae=copy.deepcopy(vae).half(),
        transformer=copy.deepcopy(average.transformer).half(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        segment_length=recipe.world.segment_length, num_history_frames=8, fps=8, height=recipe.world.height,
        width=recipe.world.width, num_inference_steps=recipe.num_inference_steps, guidance_scale=1.0,
        max_sequence_length=MAX_TOKENS,
    )  # fmt: skip
    pipe.save_pretrained(out)
    for path in out.glob("*/config.json"):  # where parts were loaded from means nothing elsewhere
        kept = {name: value for name, value in json.loads(path.read_text()).items() if name != "_name_or_path"}
        path.write_text(json.dumps(kept, indent=2) + "\n")
    told = {
        name: None if value is None else Path(value).name
        for name, value in (("start", recipe.start), ("prepared", recipe.prepared))
    }
    (out / "recipe.json").write_text(json.dumps(asdict(recipe) | told, indent=1) + "\n")
    return pipe


def refiner_stage(
    out: Path, recipe: TinyRecipe, average: TinyModel, vae: BlockVAE, worlds: Mapping[str, Latents]
) -> BlockVAE:
    """Train the decoder's refiner on what the model makes of training videos; latents stay what they were."""
    if not (out / "vae-refined" / "config.json").exists():
        path, world = out / "made.safetensors", recipe.world
        segments = recipe.num_rollouts * world.num_segments
        if not path.exists():
            forced, rolled = [], []
            for data in worlds.values():
                how = (min(segments, len(data.video)) // data.num_segments, recipe.num_inference_steps, recipe.seed)
                forced.append(make_segments(average, data, *how))
                rolled.append(roll_out(average, vae, data, *how)[0])
            save_file({"made": torch.cat(forced + rolled)}, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        video, _, _ = clips([world.scene(seed) for seed in TRAIN_SEEDS[: recipe.num_rollouts]], world)
        if recipe.prepared is not None:
            film = windows(Path(recipe.prepared), recipe.film_world, recipe.held_out)
            first = list(itertools.islice(film, segments // FILM_SEGMENTS))
            video = torch.cat([video, clips(first, recipe.film_world)[0]])
        video = torch.cat([video, video])  # made from the true frames before, and from the model's own
        vae.register_to_config(border_smoothing=recipe.border_smoothing)
        for step, loss in train_refiner(vae, video, load_file(path)["made"], recipe.num_refiner_steps, recipe.seed):
            if (step + 1) % LOG_EVERY == 0:
                _log(out, {"refiner_step": step + 1, "loss": loss})
        vae.save_pretrained(out / "vae-refined")
    return BlockVAE.from_pretrained(out / "vae-refined")


def _log(out: Path, record: dict[str, Any]) -> None:
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(record) + "\n")


def _save_checkpoint(path: Path, model: nn.Module, average: nn.Module, optimizers: Optimizers, step: int) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizers.tensors().items()}
    # tied weights (a text encoder's embedding has two names) share memory, which safetensors refuses: copy
    copies = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    temporary = path.with_suffix(".partial")
    save_file(copies, temporary, metadata={"step": str(step)})
    temporary.replace(path)


def _load_checkpoint(path: Path, model: nn.Module, average: nn.Module, optimizers: Optimizers) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    average.load_state_dict(part("average."))
    optimizers.load(part("optimizer."))
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=TinyRecipe.num_steps)
    parser.add_argument("--scenes", type=int, default=TinyRecipe.num_scenes)
    parser.add_argument("--start", help="folder of an earlier tiny model to go on from")
    parser.add_argument("--peak", type=float, default=TinyRecipe.peak, help="share of the peak learning rates")
    parser.add_argument("--prepared", help="folder of longvie prepare with a film to learn from, too")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = TinyRecipe(
        num_steps=arguments.steps,
        num_scenes=arguments.scenes,
        start=arguments.start,
        peak=arguments.peak,
        prepared=arguments.prepared,
    )
    run(recipe, arguments.out)


def run(recipe: TinyRecipe, out: Path) -> None:
    """All stages, each skipped where its files are there."""
    out.mkdir(parents=True, exist_ok=True)
    vae = autoencoder_stage(out, recipe)
    latents, captions = latents_stage(out, recipe)
    tokenizer = tokenizer_stage(recipe, captions)
    worlds = {"scenes": dataset(latents, captions, tokenizer, vae, recipe.world.num_segments)}
    if recipe.prepared is not None:
        film, prompts = film_stage(out, recipe, vae)
        worlds["film"] = dataset(film, prompts, tokenizer, vae, FILM_SEGMENTS)
    average = transformer_stage(out, recipe, worlds, vae, len(tokenizer))
    vae = refiner_stage(out, recipe, average, vae, worlds)
    export(out / "model", average, tokenizer, vae, recipe)


if __name__ == "__main__":
    main()
