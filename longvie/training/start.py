"""Where a run begins: the transformer with its control, what learns in float32 and the rest in the recipe's dtype."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn

from longvie.models.checkpoints import load_transformer
from longvie.models.loading import read_json, resolve_model
from longvie.models.names import is_control
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.training.initialisation import half_copy_control
from longvie.training.recipes import Recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def starting_transformer(
    model: str | Path | None, recipe: Recipe, *, fresh: bool, seed: int, device: torch.device | str = "cpu"
) -> LongVieTransformer3DModel:
    """The transformer of a pipeline folder; a base model without control is given one (`half_copy_control`).

    Args:
        fresh: random weights, of the recipe's size.
    """
    if fresh:
        transformer = random_transformer(recipe, seed)
        nn.Module.to(transformer, device)
        return transformer
    transformer = load_transformer(resolve_model(model), dtype=DTYPES[recipe.dtype], device=device)
    return transformer if transformer.control_embedder is not None else _with_control(transformer, recipe)


def transformer_config(model: str | Path | None, recipe: Recipe, *, fresh: bool) -> dict[str, object]:
    """Its config, without weights."""
    return dict(recipe.config) if fresh else read_json(resolve_model(model) / "transformer" / "config.json")


def random_transformer(recipe: Recipe, seed: int) -> LongVieTransformer3DModel:
    """Random weights whose ends fit each other.

    Noise enters and leaves through matching orthonormal directions: the velocity is mostly noise, and a narrow model
    would spend its training on learning to copy it. The residual of the first frame enters beside it. Control starts as
    `half_copy_control` says.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LongVieTransformer3DModel(**recipe.config)
        patch = model.patch_embedding.weight
        dim, channels = model.proj_out.in_features, model.config["out_channels"]
        if patch.shape[2:].numel() == 1 and dim >= 2 * channels:
            mask = patch.shape[1] - 2 * channels
            directions = torch.linalg.qr(torch.randn(dim, dim))[0]
            with torch.no_grad():
                flat = patch.view(dim, -1)
                flat.mul_(0.5)
                flat[:, :channels] = directions[:, :channels]
                flat[:, channels + mask :] = directions[:, channels : 2 * channels]
                assert model.patch_embedding.bias is not None
                model.patch_embedding.bias.zero_()
                model.proj_out.weight.copy_(directions[:, :channels].T * (channels / dim) ** 0.5)
                model.proj_out.bias.zero_()
        half_copy_control(model)
    return model


def _with_control(base: LongVieTransformer3DModel, recipe: Recipe) -> LongVieTransformer3DModel:
    config = {name: value for name, value in base.config.items() if not name.startswith("_")}
    config["num_control_layers"] = recipe.config["num_control_layers"]
    with init_empty_weights():
        model = LongVieTransformer3DModel(**config)
    state = dict(base.state_dict())
    some = next(base.parameters())
    for name, value in model.state_dict().items():
        if is_control(name):
            state[name] = torch.empty(value.shape, dtype=torch.float32, device=some.device)
    model.load_state_dict(state, strict=True, assign=True)
    model.rope.to(some.device)
    half_copy_control(model)
    return model
