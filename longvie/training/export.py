"""A trained transformer as files others load: a pipeline in diffusers layout, and the release's layout.

What training left alone (VAE, encoders, tokenizer, scheduler) is copied from the model it began with. It knows local
folders; putting them elsewhere is the caller's business.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from longvie.models.checkpoints import export_release
from longvie.models.loading import LOADED, read_json, resolve_model
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline
from longvie.training.sharding import whole

__all__ = ["export_pipeline", "export_release", "forget_origin", "gather_weights", "transformer_of"]

MAX_SHARD = "5GB"  # as the Wan repositories


@torch.no_grad()
def gather_weights(
    model: nn.Module, averaged: Mapping[str, Tensor], dtype: torch.dtype | None = None, keep: bool = True
) -> dict[str, Tensor]:
    """All weights on the CPU, averaged ones where there are; of a sharded model all workers must call this.

    Args:
        averaged: weights in place of the model's own, by name.
        dtype: of the result; None: each weight's own. What diffusers keeps in float32 stays as it is.
        keep: False for workers that only help to gather: they return nothing.
    """
    fixed = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    gathered = {}
    for name, value in model.state_dict().items():
        full = whole(averaged.get(name, value))
        if keep:
            wanted = value.dtype if dtype is None or fixed & set(name.split(".")) else dtype
            gathered[name] = full.detach().to("cpu", wanted).clone()
    return gathered


def transformer_of(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LongVieTransformer3DModel:
    """A transformer with just these weights; `RuntimeError` names every one that is missing or too many."""
    allowed = inspect.signature(LongVieTransformer3DModel.__init__).parameters
    with init_empty_weights():
        model = LongVieTransformer3DModel(**{name: value for name, value in config.items() if name in allowed})
    model.load_state_dict(dict(weights), strict=True, assign=True)
    return model.eval()


def export_pipeline(
    transformer: LongVieTransformer3DModel, start: str | Path | None, folder: Path, defaults: Mapping[str, Any]
) -> Path:
    """Write a pipeline that `load_pipeline` and `longvie generate --model` take.

    Args:
        start: the model training began with: a folder, a hub name, None for the embedded one.
        folder: is replaced; half of it is never seen under its name.
        defaults: of the pipeline, such as segment_length, fps, height, width, num_inference_steps, guidance_scale.
    """
    origin = resolve_model(start)
    index = _pipeline_index(read_json(origin / "model_index.json"), defaults)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    transformer.save_pretrained(partial / "transformer", max_shard_size=MAX_SHARD)
    for name, named in index.items():
        if name != "transformer" and isinstance(named, list) and None not in named:
            _copy_component(origin / name, partial / name)
    (partial / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    forget_origin(partial)
    if folder.exists():
        shutil.rmtree(folder)
    return partial.replace(folder)


def forget_origin(folder: Path) -> None:
    """Take from a pipeline's index and configs where they were loaded from: it means nothing elsewhere."""
    for path in (*folder.glob("*/config.json"), folder / "model_index.json"):
        kept = {name: value for name, value in json.loads(path.read_text()).items() if name != "_name_or_path"}
        path.write_text(json.dumps(kept, indent=2) + "\n")


def _pipeline_index(start: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """model_index.json of a `LongViePipeline` made of the start's components, Wan's own pipeline among them."""
    known = inspect.signature(LongViePipeline.__init__).parameters.keys() - {"self"}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is not an argument of LongViePipeline")
    index = {name: value for name, value in start.items() if name in known or name.startswith("_")}
    for optional in LongViePipeline._optional_components:
        index.setdefault(optional, [None, None])
    model = LongVieTransformer3DModel
    return {
        **index,
        **defaults,
        "_class_name": LongViePipeline.__name__,
        "transformer": [model.__module__, model.__name__],
    }


def _copy_component(source: Path, target: Path) -> None:
    """Weights, configs and vocabularies; whatever else lies there is left."""
    target.mkdir()
    for pattern in LOADED:
        for file in source.glob(pattern):
            if not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)  # follows the links of the hub's cache
