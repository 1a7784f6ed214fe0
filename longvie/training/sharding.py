"""A transformer spread over several GPUs (FSDP2), so that each holds a part of every weight.

All workers must make the same calls in the same order: `even_gradients` lets every worker have a gradient for every
control parameter, whatever controls its own sample had.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from longvie.models.names import is_control
from longvie.models.transformer import LongVieTransformer3DModel, LongVieTransformerBlock


def shard(model: LongVieTransformer3DModel, dtype: torch.dtype) -> None:
    """Shard a transformer in place over all workers of the process group, block by block.

    Each block is gathered for its own forward and backward pass only, in `dtype`, from parameters of any dtype.
    Gradients are summed over workers, not averaged: what is summed is divided by the batch already. Of a float32 model
    they are in float64, so that the order of the sum does not show; else in float32.
    Parameters that learn should be float32, frozen ones may be `dtype`.

    Raises:
        RuntimeError: there is no process group.
    """
    if not dist.is_initialized():
        raise RuntimeError("sharding needs a process group; give more than one worker")
    even_gradients(model)
    summed = torch.float64 if dtype == torch.float32 else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=summed, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    # The root holds what is small, among it what diffusers keeps in float32: no dtype is forced on it
    fully_shard(model, mp_policy=MixedPrecisionPolicy(reduce_dtype=summed, cast_forward_inputs=False))
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(enable=True)


def learn_others(model: nn.Module) -> None:
    """Tell a sharded model that other parameters learn than before; all workers call it.

    Shards settle the dtype of their gradients from what learns when they are first gathered.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def even_gradients(model: LongVieTransformer3DModel) -> None:
    """Let a missing control give its parameters gradients of 0 in place of none; outputs keep their values.

    Workers add up their gradients together, so none may lack one. Registered before sharding, the hooks run while
    the block's weights are whole.
    """

    def touch(block: nn.Module, _: Any, output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        own = [value for name, value in block.named_parameters() if is_control(f"blocks.0.{name}")]
        if isinstance(block, LongVieTransformerBlock) and block.layer == 0 and model.control_embedder is not None:
            own += list(model.control_embedder.parameters())
        zero = sum(
            (value.view(-1)[0].to(output.dtype) * 0 for value in own if value.requires_grad), output.new_zeros(())
        )
        return output + zero

    for block in model.blocks:
        if isinstance(block, LongVieTransformerBlock):
            block.register_forward_hook(touch)


def whole(value: Tensor) -> Tensor:
    """A tensor gathered from all workers, all of which must call this; a plain tensor as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_of(value: Tensor) -> Tensor:
    """What this worker holds of a tensor, without a copy; a plain tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value
