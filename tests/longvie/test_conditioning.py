"""Latents and layouts: against the release's numbers, and the short encode against the full one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from longvie import conditioning
from tests.longvie.golden import assert_close, golden_tensors


@pytest.fixture(scope="module")
def units(golden: Path) -> dict[str, torch.Tensor]:
    return golden_tensors(golden, "dev_units")


@pytest.fixture(scope="module")
def golden_vae(golden: Path) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(base_dim=2, z_dim=16)
    weights = {name: tensor.float() for name, tensor in load_file(golden / "dev_vae.safetensors").items()}
    vae.load_state_dict(convert_wan_vae_to_diffusers(weights), strict=True)
    return vae.eval()


def _vae(**kwargs: object) -> AutoencoderKLWan:
    torch.manual_seed(0)
    small = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}
    return AutoencoderKLWan(**{**small, **kwargs}).eval()


@torch.no_grad()
def test_units_of_the_release(units: dict[str, torch.Tensor], golden_vae: AutoencoderKLWan) -> None:
    first = units["unit.in.first_image_u8"]
    assert_close(conditioning.image_states(golden_vae, first, num_frames=9), units["unit.y"])
    for name in ("dense", "sparse"):
        states = conditioning.control_states(golden_vae, units[f"unit.in.{name}_u8"])
        assert_close(states, units[f"unit.{name}"])
    history = conditioning.history_states(golden_vae, units["unit.in.history_u8"])
    assert history is not None
    assert_close(history, units["unit.history_latents"])


@torch.no_grad()
def test_decode_of_the_release(units: dict[str, torch.Tensor], golden_vae: AutoencoderKLWan) -> None:
    """The reference VAE has two channels: where both are near zero its RMS norm magnifies rounding, to 1e-3 and above
    where latents differ in their last bit. In float64 only the reference's own rounding is left, on every CPU."""
    latents, expected = units["vae.decode_in"], units["vae.decode_out"]
    error = (conditioning.decode(golden_vae, latents) - expected).abs()
    assert error.mean() <= 2e-5
    exact = copy.deepcopy(golden_vae).double()
    error = (conditioning.decode(exact, latents.double()) - expected).abs()
    assert error.mean() <= 1e-5
    assert error.max() <= 1e-3


def test_history_uses_the_first_five_of_eight_frames() -> None:
    vae = _vae(dim_mult=[1, 1, 1], temperal_downsample=[True, True])
    history = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    other = history.clone()
    other[5:] = 0
    with torch.no_grad():
        a, b = conditioning.history_states(vae, history), conditioning.history_states(vae, other)
    assert a is not None
    assert b is not None
    assert a.shape[2] == 2
    assert torch.equal(a, b)
    assert conditioning.history_states(vae, history[:0]) is None


@pytest.mark.parametrize(
    "architecture",
    [
        {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [True, False, True]},
        {"dim_mult": [1, 1, 1], "temperal_downsample": [True, True]},
        {"dim_mult": [1, 1, 2, 2], "temperal_downsample": [False, True, True], "num_res_blocks": 2},  # Wan's own
    ],
)
@torch.no_grad()
def test_short_encode_equals_full_encode(architecture: dict) -> None:
    """ "One frame, then zeros" is encoded only as far as the VAE sees that frame; the rest repeats exactly."""
    vae = _vae(**architecture)
    repeat = conditioning.repeat_from(vae)
    num_frames = 4 * (repeat + 4) + 1
    first = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    zeros = torch.zeros(1, 3, num_frames - 1, 16, 16)
    full = conditioning.encode(vae, torch.cat([first, zeros], dim=2))
    assert_close(conditioning.encode_first_frame(vae, first, num_frames), full, tolerance=1e-6)
    assert (full[:, :, repeat - 1] - full[:, :, -1]).abs().max() > 0, "an earlier latent would have done"


@torch.no_grad()
def test_receptive_field_of_wans_own_vae() -> None:
    assert conditioning.repeat_from(AutoencoderKLWan(base_dim=2)) == 29  # 117 frames: a segment of 81 gains nothing


@torch.no_grad()
def test_short_segments_are_encoded_whole() -> None:
    vae = _vae(dim_mult=[1, 1, 1], temperal_downsample=[True, True])
    first = torch.rand(1, 3, 1, 16, 16)
    full = conditioning.encode(vae, torch.cat([first, torch.zeros(1, 3, 8, 16, 16)], dim=2))
    assert torch.equal(conditioning.encode_first_frame(vae, first, 9), full)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_pixels_round_trip(t: int, h: int, w: int, seed: int) -> None:
    frames = torch.randint(0, 256, (t, h, w, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.equal(conditioning.to_frames(conditioning.to_pixels(frames)), frames)


def test_mask_marks_latent_frame_zero() -> None:
    mask = conditioning.first_frame_mask(torch.randn(2, 16, 5, 2, 3), channels=4)
    assert mask.shape == (2, 4, 5, 2, 3)
    assert mask[:, :, 0].min() == 1
    assert mask[:, :, 1:].abs().max() == 0
