"""Where control begins: each branch with half of the base's weights, the fusion with zeros (LongVie App. C).

Even channels go to the dense branch, odd ones to the sparse branch. With the fusion at zero the first step's output is
the base's, bit for bit.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longvie.models.transformer import LongVieTransformer3DModel, LongVieTransformerBlock

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


@torch.no_grad()
def half_copy_control(model: LongVieTransformer3DModel) -> None:
    """Initialise all control parameters from the base ones of the same model.

    Blocks: every axis that a control block has at half length is halved by taking even or odd indices. `dense_proj` and
    `sparse_proj` pick the same channels of a token (ours; the paper says nothing of them). `text_proj` and `time_proj`
    serve both branches and average each pair of channels (ours).
    """
    embedder = model.control_embedder
    if embedder is None:
        raise ValueError("the model has no control layers; give num_control_layers")
    dim = embedder.dense_proj.in_features
    identity = torch.eye(dim)
    _set(embedder.dense_proj, identity[EVEN])
    _set(embedder.sparse_proj, identity[ODD])
    for shared in (embedder.text_proj, embedder.time_proj):
        _set(shared, (identity[EVEN] + identity[ODD]) / 2)
    for block in model.blocks:
        if isinstance(block, LongVieTransformerBlock):
            base = dict(block.named_parameters())
            for branch, indices in ((block.dense_block, EVEN), (block.sparse_block, ODD)):
                for name, parameter in branch.named_parameters():
                    parameter.copy_(_half(base[name], parameter, indices))
            nn.init.zeros_(block.fuse.weight)
            nn.init.zeros_(block.fuse.bias)


def _half(base: Tensor, like: Tensor, indices: slice) -> Tensor:
    """Every second index along each axis that is twice as long in the base."""
    for axis, (long, short) in enumerate(zip(base.shape, like.shape, strict=True)):
        if long == 2 * short:
            base = base[(slice(None),) * axis + (indices,)]
        elif long != short:
            raise ValueError(f"{tuple(base.shape)} has no half {tuple(like.shape)}")
    return base


def _set(linear: nn.Linear, weight: Tensor) -> None:
    cast(Tensor, linear.weight).copy_(weight)
    linear.bias.zero_()
