"""The block autoencoder keeps what its components span, is causal, and behaves as Wan's does in conditioning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longvie import conditioning
from longvie.models.block_vae import BlockVAE


@pytest.fixture
def vae() -> BlockVAE:
    torch.manual_seed(0)
    vae = BlockVAE(z_dim=192, refiner_width=8)
    pixels = torch.rand(8, 3, 9, 32, 32) * 2 - 1
    first, rest = vae.blocks(pixels)
    vae.first.fit(first.flatten(0, -2).repeat(4, 1))
    vae.rest.fit(rest.flatten(0, -2))
    return vae


def test_frame_0_is_kept_with_all_its_components(vae: BlockVAE) -> None:
    pixels = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    vae.first.components.data = torch.eye(192)  # random pixels need all of them
    made = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    assert made.shape == pixels.shape
    torch.testing.assert_close(made[:, :, 0], pixels[:, :, 0], atol=1e-4, rtol=0)


def test_a_remainder_is_dropped_and_later_frames_do_not_reach_back(vae: BlockVAE) -> None:
    pixels = torch.rand(1, 3, 8, 16, 16)
    latents = vae.encode(pixels).latent_dist.mode()
    assert latents.shape == (1, 192, 2, 2, 2)
    pixels[:, :, 5:] = 0
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), latents)
    assert conditioning.repeat_from(vae) == 1


def test_saved_and_loaded_it_is_the_same(vae: BlockVAE, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    loaded = BlockVAE.from_pretrained(tmp_path)
    latents = torch.randn(1, 192, 3, 2, 2)
    assert torch.equal(loaded.decode(latents).sample, vae.decode(latents).sample)
    assert len(loaded.config.latents_mean) == len(loaded.config.latents_std) == 192


def test_offload_hooks_run_before_encode_and_decode(vae: BlockVAE) -> None:
    """`enable_model_cpu_offload` moves a model when its hook runs; encode and decode are called without `forward`."""
    calls: list[str] = []

    class Hook:
        def pre_forward(self, module: BlockVAE) -> None:
            calls.append(type(module).__name__)

    vae._hf_hook = Hook()  # type: ignore[assignment]
    vae.decode(vae.encode(torch.zeros(1, 3, 5, 8, 8)).latent_dist.mode())
    assert calls == ["BlockVAE", "BlockVAE"]


def test_borders_between_latents_are_smoothed_and_nothing_else(vae: BlockVAE) -> None:
    latents = torch.randn(1, 192, 3, 2, 2)
    plain = vae.unclamped(latents)
    vae.register_to_config(border_smoothing=0.2)
    smooth = vae.unclamped(latents)
    assert torch.equal(smooth[:, :, 0], plain[:, :, 0]), "frame 0 was given"
    for kept in (2, 3, 6, 7, 8):
        assert torch.equal(smooth[:, :, kept], plain[:, :, kept])
    for border in (1, 5):
        jump = plain[:, :, border] - plain[:, :, border - 1]
        torch.testing.assert_close(smooth[:, :, border] - smooth[:, :, border - 1], 0.6 * jump)
    one = latents[:, :, :1]
    assert vae.unclamped(one).shape == (1, 3, 1, 16, 16), "one frame has no border"
