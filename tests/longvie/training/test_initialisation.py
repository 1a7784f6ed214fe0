from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from longvie.models.transformer import LongVieTransformer3DModel, LongVieTransformerBlock
from longvie.training.initialisation import half_copy_control
from tests.toy import toy_pipeline


@pytest.fixture
def model() -> LongVieTransformer3DModel:
    model = toy_pipeline().transformer
    half_copy_control(model)
    return model


def call(model: LongVieTransformer3DModel, *, controls: bool) -> Tensor:
    torch.manual_seed(0)
    states = torch.randn(2, 12, 3, 4, 6)
    (velocity,) = model(
        hidden_states=states,
        timestep=torch.tensor([900.0, 300.0]),
        encoder_hidden_states=torch.randn(2, 5, 16),
        dense_states=torch.randn_like(states) if controls else None,
        sparse_states=torch.randn_like(states) if controls else None,
        return_dict=False,
    )
    return velocity


def test_step_0_equals_the_base(model: LongVieTransformer3DModel) -> None:
    assert torch.equal(call(model, controls=True), call(model, controls=False))


def test_even_channels_go_to_dense_and_odd_ones_to_sparse(model: LongVieTransformer3DModel) -> None:
    block = model.blocks[0]
    assert isinstance(block, LongVieTransformerBlock)
    base = block.attn1.to_q.weight
    assert torch.equal(block.dense_block.attn1.to_q.weight, base[::2, ::2])
    assert torch.equal(block.sparse_block.attn1.to_q.weight, base[1::2, 1::2])
    assert torch.equal(block.sparse_block.scale_shift_table, block.scale_shift_table[..., 1::2])
    token = torch.randn(1, 24)
    assert model.control_embedder is not None
    assert torch.equal(model.control_embedder.dense_proj(token), token[:, ::2])
    assert torch.equal(model.control_embedder.sparse_proj(token), token[:, 1::2])


def test_the_base_stays_and_the_fusion_learns_first(model: LongVieTransformer3DModel) -> None:
    before = copy.deepcopy(model.state_dict())
    half_copy_control(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    call(model, controls=True).square().sum().backward()
    fuse = model.blocks[0].fuse.weight.grad
    assert fuse is not None
    assert fuse.abs().max() > 0


def test_a_model_without_control_is_refused() -> None:
    model = LongVieTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=12, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=1, num_control_layers=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="num_control_layers"):
        half_copy_control(model)
