from __future__ import annotations

import torch

from longvie.training.loss import (
    PURE_NOISE_SHARE,
    SIGMA_FLOOR,
    add_noise,
    flow_matching_loss,
    sample_sigmas,
    velocity_target,
)


def test_the_target_leads_from_noise_to_the_sample() -> None:
    x0, noise = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    sigma = torch.tensor([0.3, 1.0])
    reached = add_noise(x0, noise, sigma) - sigma.view(-1, 1, 1, 1, 1) * velocity_target(x0, noise)
    torch.testing.assert_close(reached, x0)


def test_the_loss_is_the_weighted_error_in_x0() -> None:
    x0, noise, predicted = torch.randn(3, 2, 3, 1, 2, 2)
    sigma = torch.tensor([0.2, 1.0])
    level = sigma.view(-1, 1, 1, 1, 1)
    made = add_noise(x0, noise, sigma) - level * predicted
    expected = (made - x0).square().flatten(1).mean(1) / sigma.clamp(min=SIGMA_FLOOR)
    torch.testing.assert_close(flow_matching_loss(predicted, velocity_target(x0, noise), sigma), expected)


def test_sigmas_lie_in_range_and_a_share_is_pure_noise() -> None:
    sigmas = sample_sigmas(20_000, torch.Generator().manual_seed(0))
    assert sigmas.min() > 0
    assert sigmas.max() == 1
    assert abs((sigmas == 1).float().mean() - PURE_NOISE_SHARE) < 0.02
