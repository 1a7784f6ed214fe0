from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from longvie.training.degradation import (
    FEATURE_PROBABILITY,
    LOWEST_FEATURE_SCALE,
    DataDegradation,
    average_blur,
    begins_at,
    degrade_dense,
    feature_scale,
    renoise,
    round_trips,
    scale_fusion,
)
from longvie.training.loss import add_noise, velocity_target


def frames(seed: int = 0, count: int = 3, height: int = 24, width: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 1), generator=generator, dtype=torch.uint8).expand(
        -1, -1, -1, 3
    )


def test_it_begins_after_two_thirds() -> None:
    assert begins_at(3000) == 2000  # LongVie
    assert [begins_at(n) for n in (1, 2, 3, 4)] == [1, 2, 2, 3]


def test_features_are_scaled_as_often_and_as_far_as_the_paper_says() -> None:
    scales = torch.tensor(
        [feature_scale(FEATURE_PROBABILITY, torch.Generator().manual_seed(seed)) for seed in range(4000)]
    )
    changed = scales[scales != 1]
    assert abs(len(changed) / len(scales) - FEATURE_PROBABILITY) < 0.02
    assert changed.min() >= LOWEST_FEATURE_SCALE
    assert changed.max() <= 1
    assert abs(float(changed.mean()) - (1 + LOWEST_FEATURE_SCALE) / 2) < 0.03
    assert all(feature_scale(0, torch.Generator().manual_seed(seed)) == 1 for seed in range(50))


@given(seed=st.integers(0, 2**32), fusion=st.sampled_from([0.0, 0.5, 1.0]), blur=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_degraded_control_keeps_its_form_and_loses_detail(seed: int, fusion: float, blur: float) -> None:
    control = frames(seed % 7)
    made = degrade_dense(control, torch.Generator().manual_seed(seed), DataDegradation(fusion=fusion, blur=blur))
    assert (made.shape, made.dtype) == (control.shape, torch.uint8)
    assert made.is_contiguous()
    assert (made == made[..., :1]).all()  # still grey
    assert float(made.float().diff(dim=2).abs().mean()) < float(control.float().diff(dim=2).abs().mean())
    again = degrade_dense(control, torch.Generator().manual_seed(seed), DataDegradation(fusion=fusion, blur=blur))
    assert torch.equal(made, again)


def test_frames_are_degraded_alike() -> None:
    same = frames(count=1).expand(4, -1, -1, -1)
    made = degrade_dense(same, torch.Generator().manual_seed(3))
    assert (made == made[:1]).all()


@given(excluded=st.integers(0, 5), seed=st.integers(0, 99))
def test_fusion_is_convex(excluded: int, seed: int) -> None:
    control = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
    mixed = scale_fusion(control, excluded, torch.rand(5, generator=torch.Generator().manual_seed(seed)) + 1e-3)
    assert mixed.min() >= control.min() - 1e-5
    assert mixed.max() <= control.max() + 1e-5
    flat = torch.full((1, 1, 16, 24), 0.3)
    torch.testing.assert_close(scale_fusion(flat, excluded, torch.ones(5)), flat)


def test_a_frame_goes_round_as_often_as_told() -> None:
    frame = torch.full((4, 4, 3), 200, dtype=torch.uint8)
    assert round_trips(frame, 3, lambda image: image - 10).unique().tolist() == [170]
    assert torch.equal(round_trips(frame, 0, lambda image: image - 10), frame)


def test_a_perfect_model_remembers_its_first_frame() -> None:
    latents, noise = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    sigma = torch.tensor([0.1, 0.05])

    def velocity(noised: Tensor, level: Tensor) -> Tensor:
        torch.testing.assert_close(noised, add_noise(latents, noise, level))
        return velocity_target(latents, noise)

    torch.testing.assert_close(renoise(latents, sigma, noise, velocity), latents)


@pytest.fixture(scope="module")
def released(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "dev_units.safetensors")


class TestReleased:
    def test_blur(self, released: dict[str, Tensor]) -> None:
        """Seed 12 of the fixture drew a kernel of 11 pixels."""
        made = average_blur(released["train.aug.in"], 11)
        torch.testing.assert_close(made, released["train.aug.blur_seed12"], rtol=0, atol=1e-6)

    def test_fusion(self, released: dict[str, Tensor]) -> None:
        """Seed 11 of the fixture left out 1/8, and its weights are the first five numbers of that seed."""
        weights = torch.rand(5, generator=torch.Generator().manual_seed(11))
        made = scale_fusion(released["train.aug.in"], 3, weights)
        torch.testing.assert_close(made, released["train.aug.fusion_seed11"], rtol=0, atol=1e-6)
