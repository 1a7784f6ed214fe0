from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longvie.training.loss import (
    FRAME_WEIGHTS,
    SIGMA_FLOOR,
    NoiseLevels,
    add_noise,
    bell_weight,
    first_frame_terms,
    high_pass,
    low_pass,
    schedule_sigmas,
    velocity_error,
    velocity_target,
    weight,
)


@pytest.fixture(scope="module")
def released(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "dev_units.safetensors")


def test_the_target_leads_from_noise_to_the_sample() -> None:
    x0, noise = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    sigma = torch.tensor([0.3, 1.0])
    reached = add_noise(x0, noise, sigma) - sigma.view(-1, 1, 1, 1, 1) * velocity_target(x0, noise)
    torch.testing.assert_close(reached, x0)


def test_with_the_floor_the_loss_is_the_weighted_error_in_x0() -> None:
    x0, noise, predicted = torch.randn(3, 2, 3, 1, 2, 2)
    sigma = torch.tensor([0.2, 1.0])
    made = add_noise(x0, noise, sigma) - sigma.view(-1, 1, 1, 1, 1) * predicted
    expected = (made - x0).square().flatten(1).mean(1) / sigma.clamp(min=SIGMA_FLOOR)
    loss = weight(sigma, "floor") * velocity_error(predicted, velocity_target(x0, noise))
    torch.testing.assert_close(loss, expected)


def test_levels_lie_in_range_and_a_share_is_pure_noise() -> None:
    levels = NoiseLevels(distribution="logit-normal", pure_noise=0.4).draw(20_000, torch.Generator().manual_seed(0))
    assert levels.min() > 0
    assert levels.max() == 1
    assert abs((levels == 1).float().mean() - 0.4) < 0.02


def test_levels_of_the_schedule_are_its_own_and_all_occur() -> None:
    levels = NoiseLevels().draw(20_000, torch.Generator().manual_seed(0))
    assert set(levels.tolist()) == set(schedule_sigmas().tolist())


def test_the_bell_has_mean_one_over_the_schedule_and_leaves_pure_noise_out() -> None:
    weights = bell_weight(schedule_sigmas(3.0), 3.0)
    assert abs(float(weights.mean()) - 1) < 1e-5
    assert weights.argmin() == 0
    assert weights[0] == 0


def test_frame_weights_count_frames_only() -> None:
    predicted, target = torch.zeros(1, 2, 5, 2, 2), torch.ones(1, 2, 5, 2, 2)
    assert float(velocity_error(predicted, target, FRAME_WEIGHTS)) == pytest.approx((0.05 + 0.325 + 0.757 + 2) / 5)
    assert float(velocity_error(predicted[:, :, :1], target[:, :, :1], FRAME_WEIGHTS)) == pytest.approx(0.05)


def test_the_passes_sum_to_the_whole_and_keep_a_constant() -> None:
    latents = torch.randn(2, 3, 1, 6, 10)
    torch.testing.assert_close(low_pass(latents) + high_pass(latents), latents)
    torch.testing.assert_close(low_pass(torch.ones(1, 1, 1, 4, 4)), torch.ones(1, 1, 1, 4, 4))


class TestReleased:
    def test_schedule_and_weights(self, released: dict[str, Tensor]) -> None:
        sigmas = released["sched.train.sigmas"]
        torch.testing.assert_close(schedule_sigmas(), sigmas, rtol=0, atol=0)
        torch.testing.assert_close(bell_weight(sigmas), released["sched.train.weights"], rtol=1e-5, atol=1e-6)

    def test_passes(self, released: dict[str, Tensor]) -> None:
        torch.testing.assert_close(low_pass(released["train.lowpass.in"]), released["train.lowpass.out"])
        torch.testing.assert_close(high_pass(released["train.lowpass.in"]), released["train.highpass.out"])

    def test_losses(self, released: dict[str, Tensor]) -> None:
        given = {key.removeprefix("train."): value for key, value in released.items() if key.startswith("train.")}
        predicted, noise, x0 = given["in.pred"], given["in.noise"], given["in.input_latents"]
        degraded, history = given["in.deg_image_latent"], given["in.history_image_latent"]
        counts = bell_weight(schedule_sigmas()[given["timestep_id"]])
        target = velocity_target(x0, noise)
        torch.testing.assert_close(counts * velocity_error(predicted, target), given["loss.plain"])
        weighted = velocity_error(predicted, target, FRAME_WEIGHTS)
        for last, name in ((None, "deg_nohist"), (history, "deg_hist")):
            loss = counts * (weighted + first_frame_terms(predicted, noise, x0, degraded, last))
            torch.testing.assert_close(loss, given[f"loss.{name}"])
