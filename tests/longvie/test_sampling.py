from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from longvie import sampling
from tests.longvie.golden import assert_close, golden_tensors


@pytest.mark.parametrize(("steps", "shift"), [(50, 5), (4, 5), (20, 3)])
def test_schedule_of_the_release(golden: Path, steps: int, shift: int) -> None:
    units = golden_tensors(golden, "dev_units")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=float(shift))
    scheduler.set_timesteps(sigmas=sampling.unshifted_sigmas(steps))
    assert_close(scheduler.sigmas[:-1], units[f"sched.n{steps}.shift{shift}.sigmas"], tolerance=1e-6)
    assert_close(scheduler.timesteps, units[f"sched.n{steps}.shift{shift}.timesteps"], tolerance=1e-3)  # of 1000
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("step", [0, 17, 49])
def test_steps_of_the_release(golden: Path, step: int) -> None:
    units = golden_tensors(golden, "dev_units")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=sampling.unshifted_sigmas(50))
    sample, velocity = units["sched.step.sample"], units["sched.step.velocity"]
    (out,) = scheduler.step(velocity, scheduler.timesteps[step], sample, return_dict=False)
    assert_close(out, units[f"sched.step.out_{step}"], tolerance=1e-5)


def test_noising_of_the_release(golden: Path) -> None:
    """The sample at step 17 is (1 - sigma) x0 + sigma noise, and the velocity is noise - x0: what a step undoes."""
    units = golden_tensors(golden, "dev_units")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=sampling.unshifted_sigmas(50))
    x0, noise = units["sched.step.sample"], units["sched.step.velocity"]  # there the velocity stands for the noise
    noised = scheduler.scale_noise(x0, scheduler.timesteps[17:18], noise)
    assert_close(noised, units["sched.add_noise.out_17"], tolerance=1e-6)
    assert_close(noised - scheduler.sigmas[17] * units["sched.training_target.out"], x0, tolerance=1e-5)


def test_noise_of_the_release(golden: Path) -> None:
    expected = golden_tensors(golden, "dev_units")["unit.noise_seed0"]
    assert torch.equal(sampling.unified_noise(tuple(expected.shape), seed=0), expected)


def test_schedule_by_hand() -> None:
    """u = 1, 3/4, 1/2, 1/4 with shift 5: sigma = 5u / (1 + 4u)."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=sampling.unshifted_sigmas(4))
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 15 / 16, 5 / 6, 5 / 8, 0.0], abs=1e-6)
    assert [sampling.shifted(u, 5) for u in (1, 0.75, 0.5, 0.25, 0)] == pytest.approx([1.0, 15 / 16, 5 / 6, 5 / 8, 0])


def test_history_sigma_is_the_shifted_five_sevenths() -> None:
    assert sampling.shifted(5 / 7, 5.0) == pytest.approx(sampling.HISTORY_NOISE_SIGMA)
    assert pytest.approx(0.925926, abs=1e-6) == sampling.HISTORY_NOISE_SIGMA  # the release's number


def test_unified_noise_is_the_same_for_every_segment() -> None:
    shape = (1, 4, 3, 2, 2)
    noise = [sampling.segment_noise(shape, seed=7, index=i) for i in range(4)]
    assert all(torch.equal(noise[0], other) for other in noise)
    assert not torch.equal(noise[0], sampling.segment_noise(shape, seed=8, index=0))


def test_mixed_noise_lies_between_and_stays_standard() -> None:
    shape = (1, 16, 5, 24, 24)
    shared, fresh = (sampling.segment_noise(shape, 7, 3, kind) for kind in ("unified", "fresh"))

    def like(noise: torch.Tensor, other: torch.Tensor) -> float:
        return float((noise * other).mean())

    before = 1.0
    for alpha in (0.05, 0.5, 0.95):
        mixed = sampling.segment_noise(shape, 7, 3, f"mix:{alpha}")
        assert abs(float(mixed.std()) - 1) < 0.02
        assert like(mixed, shared) < before
        before = like(mixed, shared)
        assert abs(like(mixed, fresh) - alpha / ((1 - alpha) ** 2 + alpha**2) ** 0.5) < 0.02
    assert torch.equal(sampling.segment_noise(shape, 7, 0, "mix:0.5"), shared)


def test_fresh_noise_differs_and_repeats() -> None:
    shape = (1, 4, 3, 2, 2)
    noise = [sampling.segment_noise(shape, seed=7, index=i, strategy="fresh") for i in range(4)]
    assert len({tuple(n.flatten().tolist()) for n in noise}) == 4
    assert torch.equal(noise[2], sampling.segment_noise(shape, seed=7, index=2, strategy="fresh"))


def test_start_mixes_only_the_first_latent_frame_and_leaves_its_arguments() -> None:
    noise, history = torch.randn(1, 4, 3, 2, 2), torch.randn(1, 4, 2, 2, 2)
    before = noise.clone()
    start = sampling.start_latents(noise, history)
    s = 25 / 27
    assert torch.allclose(start[:, :, 0], (1 - s) * history[:, :, -1] + s * noise[:, :, 0])
    assert torch.equal(start[:, :, 1:], noise[:, :, 1:])
    assert torch.equal(noise, before)
    assert sampling.start_latents(noise, None) is noise


def test_timestep_is_rounded_to_the_models_dtype() -> None:
    timestep = torch.tensor(731.25)
    assert sampling.model_timestep(timestep, torch.float32) == 731.25
    assert sampling.model_timestep(timestep, torch.bfloat16) == 732.0  # 8 significant bits
