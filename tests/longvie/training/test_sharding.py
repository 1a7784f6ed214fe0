"""A sharded model's step is the unsharded one's, whatever controls each worker's sample has."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longvie.models.names import is_control
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.training.export import gather_weights
from longvie.training.sharding import even_gradients, shard, whole
from tests.toy import toy_pipeline

FORMS = (("dense", "sparse"), ("dense",), (), ("sparse",))  # one sample each, two a worker


def toy() -> LongVieTransformer3DModel:
    model = toy_pipeline().transformer
    for name, value in model.named_parameters():
        value.requires_grad_(is_control(name))
    return model.train()


def loss(model: LongVieTransformer3DModel, sample: int) -> Tensor:
    generator = torch.Generator().manual_seed(sample)
    states, dense, sparse = (torch.randn(1, 12, 3, 4, 6, generator=generator) for _ in range(3))
    (velocity,) = model(
        hidden_states=states,
        timestep=torch.tensor([700.0]),
        encoder_hidden_states=torch.randn(1, 5, 16, generator=generator),
        dense_states=dense if "dense" in FORMS[sample] else None,
        sparse_states=sparse if "sparse" in FORMS[sample] else None,
        return_dict=False,
    )
    return velocity.square().mean()


def train(model: LongVieTransformer3DModel, samples: tuple[int, ...], steps: int = 3) -> list[float]:
    learning = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    norms = []
    for _ in range(steps):
        for sample in samples:
            (loss(model, sample) / len(FORMS)).backward()
        norms.append(float(whole(nn.utils.clip_grad_norm_(learning, 0.05))))
        optimizer.step()
        optimizer.zero_grad()
    return norms


def _worker(rank: int, out: Path, recompute: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=2)
    model = toy()
    if recompute:
        model.enable_gradient_checkpointing()
    shard(model, torch.float32)
    norms = train(model, (2 * rank, 2 * rank + 1))
    weights = gather_weights(model, {}, keep=rank == 0)
    if rank == 0:
        save_file({**weights, "norms": torch.tensor(norms)}, out / "made.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("recompute", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_shards_learn_what_one_model_learns(tmp_path: Path, recompute: bool) -> None:
    torch.multiprocessing.spawn(_worker, (tmp_path, recompute), nprocs=2)  # type: ignore[attr-defined]
    made = load_file(tmp_path / "made.safetensors")
    model = toy()
    even_gradients(model)
    start = copy.deepcopy(model.state_dict())
    norms = train(model, (0, 1, 2, 3))
    torch.testing.assert_close(made["norms"], torch.tensor(norms), rtol=1e-5, atol=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(made[name], value, rtol=0, atol=1e-6)
        assert is_control(name) != torch.equal(value, start[name]), name


def test_even_gradients_change_no_output_and_reach_every_control() -> None:
    plain, even = toy(), toy()
    even_gradients(even)
    for sample in range(len(FORMS)):
        assert torch.equal(loss(plain, sample), loss(even, sample))
        even.zero_grad()
        loss(even, sample).backward()
        assert all((value.grad is not None) == is_control(name) for name, value in even.named_parameters())
    with torch.no_grad():
        assert not loss(even, 2).requires_grad


def test_one_process_has_nothing_to_shard_over() -> None:
    with pytest.raises(RuntimeError, match="process group"):
        shard(toy(), torch.float32)
