from __future__ import annotations

import pytest
import torch

from longvie.models.transformer import LongVieTransformer3DModel
from longvie.training.dry_run import GB, dry_run
from longvie.training.recipes import RECIPES, wan2_1_i2v_14b
from tests.toy import toy_pipeline


def test_14b_on_16_gpus() -> None:
    made = dry_run(wan2_1_i2v_14b(), workers=16)
    assert made.control == 2_633_637_888, "as the released control.safetensors"
    assert made.learning["control"] == made.control
    assert made.learning["history"] == made.control + 4_195_532_800, "and dit.safetensors"
    assert made.tokens_a_step == 64 * (18_480 + 4 * 880)
    assert 20 < made.memory_per_gpu / GB < 80, "fits a GPU of 80 GB"
    # 50 steps of two passes take 9.8e16 FLOP a segment with 2 history latents; training makes 4 passes' worth
    assert made.flop / 64 / 4 == pytest.approx(9.8e16 / 100, rel=0.15)
    assert dry_run(wan2_1_i2v_14b(), workers=1).memory_per_gpu > made.memory_per_gpu


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_takes(name: str) -> None:
    made = dry_run(RECIPES[name](), workers=2)
    text = "\n".join(made.lines())
    assert f"{made.parameters:,}" in text
    assert f"{made.tokens_a_step:,} a step" in text
    assert all(amount > 0 for amount in made.memory.values())


def test_a_lora_learns_little() -> None:
    whole, lora = dry_run(wan2_1_i2v_14b(), workers=8), dry_run(wan2_1_i2v_14b(), workers=8, lora=32)
    assert set(lora.learning.values()) == {40 * 8 * 2 * 32 * 5120}
    assert lora.memory["AdamW"] < whole.memory["AdamW"] / 10


def test_activations_are_those_of_a_real_pass() -> None:
    """What a toy really keeps for its backward pass on the CPU, to within what lies outside its blocks."""
    recipe = RECIPES["tiny"]()
    model: LongVieTransformer3DModel = toy_pipeline().transformer
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    made = dry_run(recipe, config=config, latents=(4, 3, 16, 24), max_text_tokens=8, history_latents=0, workers=4)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    states = torch.randn(1, 12, 3, 16, 24)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(states, torch.tensor([5.0]), torch.randn(1, 8, 16), None, states, states)
    real = sum(storage.nbytes() for storage in kept.values())
    assert made.memory["activations"] == pytest.approx(real, rel=0.5)
