from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longvie.models.names import is_control, is_lora
from longvie.training.lora import add_lora, save_lora
from tests.toy import toy_pipeline


def image() -> torch.Tensor:
    return torch.full((32, 48, 3), 90, dtype=torch.uint8)


def test_it_changes_nothing_at_first_and_alone_learns() -> None:
    plain, pipe = toy_pipeline(), toy_pipeline()
    add_lora(pipe.transformer, rank=2)
    learning = {name for name, value in pipe.transformer.named_parameters() if value.requires_grad}
    assert learning
    assert all(is_lora(name) and not is_control(name) for name in learning)
    noise = torch.randn(plain.noise_shape(9, 32, 48), generator=torch.Generator().manual_seed(0))
    one, other = (p(image(), "a red ball", latents=noise, output_type="latent").frames for p in (plain, pipe))
    assert torch.equal(one, other)


def test_equal_seeds_give_equal_layers() -> None:
    made = []
    for seed in (1, 1, 2):
        pipe = toy_pipeline()
        add_lora(pipe.transformer, rank=2, seed=seed)
        made.append({name: value for name, value in pipe.transformer.named_parameters() if "lora_A" in name})
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not any(torch.equal(made[0][name], made[2][name]) for name in made[0])


def test_what_is_saved_loads_into_a_pipeline(tmp_path: Path) -> None:
    trained, fresh = toy_pipeline(), toy_pipeline()
    add_lora(trained.transformer, rank=3)
    weights = {}
    for k, (name, value) in enumerate(trained.transformer.named_parameters()):
        if is_lora(name):
            value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(k)) / 4
            weights[name] = value.data
    save_lora(trained.transformer, weights, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    noise = torch.randn(fresh.noise_shape(9, 32, 48), generator=torch.Generator().manual_seed(0))

    def latents(pipe) -> torch.Tensor:
        return pipe(image(), "a red ball", latents=noise, output_type="latent").frames

    plain = latents(fresh)
    fresh.load_lora_weights(tmp_path)
    assert torch.allclose(latents(fresh), latents(trained), atol=1e-6)
    assert not torch.allclose(latents(fresh), plain, atol=1e-3)


@pytest.mark.parametrize(("options", "said"), [({"rank": 0}, "rank is 0"), ({"targets": "no such"}, "no such")])
def test_what_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        add_lora(toy_pipeline().transformer, **options)  # type: ignore[arg-type]
