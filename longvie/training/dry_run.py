"""What a run would take, from a recipe alone: parameters, memory of each GPU, tokens a step. No weight is made.

The model stands on torch's meta device. What one block keeps for its backward pass is counted there, tensor by tensor;
the rest are products of sizes. Not counted: the allocator's gaps, workspaces of kernels, and the VAE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from longvie.models.names import is_control
from longvie.models.transformer import LongVieTransformer3DModel, LongVieTransformerBlock
from longvie.training.lora import add_lora
from longvie.training.recipes import Recipe, learning_names

GB = 1024**3
MAX_HISTORY_LATENTS = 4  # 16 frames (LongVie 2)
FLOAT32, FLOAT64 = 4, 8


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Parameters are counts, memory bytes of one GPU, tokens of the base's stream (the control's are half as wide).

    Args:
        learning: parameters that learn, by stage.
        memory: by what takes it; all of it at the peak of the stage that takes most.
        flop: of one step over all workers, multiplications and additions.
    """

    recipe: Recipe
    workers: int
    parameters: int
    control: int
    learning: Mapping[str, int]
    memory: Mapping[str, int]
    tokens_a_sample: int
    tokens_a_step: int
    flop: int

    @property
    def memory_per_gpu(self) -> int:
        return sum(self.memory.values())

    def lines(self) -> list[str]:
        """For a person."""
        recipe = self.recipe
        stages = ", ".join(f"{name} {count:,}" for name, count in self.learning.items())
        share = f"1/{self.workers} of the weights each" if recipe.sharded and self.workers > 1 else "all weights each"
        return [
            f"recipe {recipe.name}: {', '.join(f'{stage.num_steps} steps {stage.name}' for stage in recipe.stages)}",
            f"parameters: {self.parameters:,}, of which {self.control:,} are the control's",
            f"learning: {stages}",
            f"memory of each of {self.workers} worker(s), {share}: {self.memory_per_gpu / GB:.1f} GB",
            *(f"  {name}: {amount / GB:.2f} GB" for name, amount in self.memory.items()),
            f"tokens: {self.tokens_a_sample:,} a sample with the longest history, {self.tokens_a_step:,} a step of "
            f"{recipe.batch} samples",
            f"computation: {self.flop:.3g} FLOP a step, {self.flop / self.workers:.3g} a worker",
        ]


def dry_run(
    recipe: Recipe,
    *,
    workers: int = 1,
    config: Mapping[str, Any] | None = None,
    latents: tuple[int, int, int, int] | None = None,
    max_text_tokens: int | None = None,
    history_latents: int = MAX_HISTORY_LATENTS,
    lora: int | None = None,
) -> DryRun:
    """Reckon what a recipe takes.

    Args:
        config: of the transformer, if not the recipe's own.
        latents: channels, frames, height and width of a segment's latents; max_text_tokens: of a prompt. If None,
            those of the data the recipe is made for.
        history_latents: of the longest history, in stages that have one.
        lora: rank of a LoRA that learns instead.
    """
    latents, text = latents or recipe.latents, max_text_tokens or recipe.max_text_tokens
    with torch.device("meta"):
        model = LongVieTransformer3DModel(**dict(config or recipe.config))
        if lora is not None:
            add_lora(model, lora)
    dtype = torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    learning = {
        stage.name: sum(sizes[name] for name in learning_names(sizes, stage.trained, lora is not None))
        for stage in recipe.stages
    }
    ever = set().union(*(learning_names(sizes, stage.trained, lora is not None) for stage in recipe.stages))
    count = sum(sizes[name] for name in ever)
    parts = workers if recipe.sharded else 1
    patch = model.config["patch_size"]
    frame = prod(latents[2:]) // (patch[1] * patch[2])
    video = latents[1] * frame
    with_history = any(stage.conditions.history for stage in recipe.stages)
    tokens = video + (history_latents * frame if with_history else 0)
    block, flop = _one_block(model, dtype, tokens, video, text)
    layers, controls = model.config["num_layers"], model.config["num_control_layers"]
    dim = model.config["num_attention_heads"] * model.config["attention_head_dim"]
    inputs = dtype.itemsize * dim * (tokens * layers + video * controls)  # the two control streams have half the width
    kept = inputs + block if recipe.recompute else block * layers
    memory = {
        "frozen weights": (sum(sizes.values()) - count) * dtype.itemsize // parts,
        "learning weights, float32": count * FLOAT32 // parts,
        "gradients, float32": max(learning.values()) * FLOAT32 // parts,
        "their sum, float64": max(learning.values()) * FLOAT64 // parts if recipe.dtype == "float32" else 0,
        "AdamW": 2 * max(learning.values()) * FLOAT32 // parts,
        "moving average": count * FLOAT32 // parts,
        "blocks gathered (two at once)": 2 * _largest_block(model) * dtype.itemsize if parts > 1 else 0,
        "activations": kept,
    }
    passes = 4 if recipe.recompute else 3  # forward, backward twice as much, and forward again
    return DryRun(
        recipe=recipe,
        workers=workers,
        parameters=sum(sizes.values()),
        control=sum(size for name, size in sizes.items() if is_control(name)),
        learning=learning,
        memory={name: amount for name, amount in memory.items() if amount},
        tokens_a_sample=tokens,
        tokens_a_step=tokens * recipe.batch,
        flop=passes * flop * recipe.batch,
    )


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs do it, without a matrix of tokens by tokens, which torch would choose on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args or (kwargs["query"], kwargs["key"], kwargs["value"])
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def _largest_block(model: nn.Module) -> int:
    blocks: Any = model.blocks
    return max(sum(value.numel() for value in block.parameters()) for block in blocks)


def _one_block(
    model: LongVieTransformer3DModel, dtype: torch.dtype, tokens: int, video: int, text: int
) -> tuple[int, int]:
    """Bytes that the largest block keeps for its backward pass, one sample; and FLOP of all blocks' forward pass."""
    config, seen = model.config, {}
    dim, head = config["num_attention_heads"] * config["attention_head_dim"], config["attention_head_dim"]
    context = text + (257 if config["image_dim"] else 0)

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = (storage, storage.nbytes())  # held, so that no address comes twice
        return tensor

    def work(block: nn.Module, width: int, rows: int) -> None:
        def some(*shape: int, wanted: torch.dtype = dtype) -> Tensor:
            return torch.zeros(*shape, dtype=wanted, device="meta", requires_grad=True)

        rotary = tuple(torch.zeros(1, rows, 1, head, device="meta") for _ in range(2))
        block(some(1, rows, width), some(1, context, width), some(1, 6, width, wanted=torch.float32), rotary)

    flop = 0
    kept: list[int] = []
    blocks: Any = model.blocks
    kinds: dict[type, int] = {}
    for block in blocks:
        kinds[type(block)] = kinds.get(type(block), 0) + 1
    for kind, times in kinds.items():
        block = next(one for one in blocks if type(one) is kind).to(dtype)
        seen.clear()
        counter = FlopCounterMode(display=False)
        with _FusedAttention(), saved_tensors_hooks(keep, lambda tensor: tensor), counter:
            work(block, dim, tokens)
            if isinstance(block, LongVieTransformerBlock):
                for branch in (block.dense_block, block.sparse_block):
                    work(branch, dim // 2, video)
        kept.append(sum(size for _, size in seen.values()))
        flop += times * counter.get_total_flops()
    return max(kept), flop
