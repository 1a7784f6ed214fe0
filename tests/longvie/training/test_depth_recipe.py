"""The depth recipe: scenes are exact and seeded, the loss is what it says, and resuming changes nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from longvie.training import depth, depth_data
from longvie.training.depth_data import DepthShards, DepthWorld, render_shard, sample_batch
from longvie.training.depth_layouts import LAYOUTS
from longvie.training.depth_loss import depth_loss
from longvie.training.depth_metrics import depth_errors
from longvie.training.depth_scenes import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, make_scene, render_views

WORLD = DepthWorld(height=48, width=72)
SIZES = ((32, 48), (48, 64))
PHASES = (
    depth.Phase(until=2, sizes=SIZES[:1], learning_rate=1e-3, gradient_weight=0.5, strength=1.0, max_shards=1),
    depth.Phase(until=4, sizes=SIZES, learning_rate=5e-4, gradient_weight=0.1, strength=0.5, max_shards=2),
)
RECIPE = depth.DepthRecipe(world=WORLD, first_shards=1, steps_a_shard=2, phases=PHASES, rounds=(3, 4), num_clips=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth_data, "SHARD_SCENES", 4)
        folder = tmp_path_factory.mktemp("scenes")
        for shard in range(2):
            render_shard(folder, WORLD, shard)
    return folder


@pytest.fixture
def shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DepthShards:
    monkeypatch.setattr(depth_data, "SHARD_SCENES", 4)
    return DepthShards(folder, WORLD)


def test_seeds_do_not_meet() -> None:
    ranges = sorted((TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS), key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in pairwise(ranges))


def test_a_seed_decides_a_scene() -> None:
    for seed in range(3):
        (frames, z), (again, z_again) = render_views(seed, 2, 32, 48), render_views(seed, 2, 32, 48)
        assert np.array_equal(frames, again)
        assert np.array_equal(z, z_again)
        assert (z > 0).all()
    assert not np.array_equal(render_views(0, 1, 32, 48)[0], render_views(1, 1, 32, 48)[0])


def test_depth_is_along_the_optical_axis() -> None:
    """A pixel's point, projected into the next view, meets that view's depth there, where nothing hides it."""
    agree = []
    for seed in range(6):
        scene, (first, second) = make_scene(seed, 2)
        height, width = 96, 144
        _, z = scene.render(first, height, width)
        _, other = scene.render(second, height, width)
        y, x = np.nonzero(np.isfinite(z))
        focal = first.focal * width
        local = np.stack([(x + 0.5 - width / 2) / focal, -(y + 0.5 - height / 2) / focal, np.ones(len(x))], 1)
        world = first.eye + (local * z[y, x][:, None]) @ first.axes.T
        seen = (world - second.eye) @ second.axes
        ahead = seen[:, 2] > 0.1
        u = (seen[ahead, 0] / seen[ahead, 2] * focal + width / 2).astype(int)
        v = (-seen[ahead, 1] / seen[ahead, 2] * focal + height / 2).astype(int)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        ratio = other[v[inside], u[inside]] / seen[ahead, 2][inside]
        agree.append(np.mean(np.abs(ratio - 1) < 0.05))
    assert np.mean(agree) > 0.85


def test_phases_follow_each_other() -> None:
    recipe = depth.DepthRecipe()
    ends = [phase.until for phase in recipe.phases]
    assert ends == sorted(ends)
    assert recipe.phase_at(0) is recipe.phases[0]
    assert recipe.phase_at(ends[0] - 1) is recipe.phases[0]
    assert recipe.phase_at(ends[0]) is recipe.phases[1]
    assert recipe.rounds[-1] == recipe.num_steps == ends[-1]
    assert recipe.rate_at(recipe.rounds[0] - 1) < 0.01, "the rate falls to zero at the end of a round"
    assert recipe.rate_at(recipe.rounds[0]) < recipe.rate_at(recipe.rounds[0] + 100) == 1


def test_layouts_share_out_everything() -> None:
    assert sum(share for _, share in LAYOUTS) == pytest.approx(1)


def test_a_batch_depends_on_seed_and_step_alone(shards: DepthShards) -> None:
    shards.resize(2)
    first, again = (sample_batch(shards, SIZES, 1.0, 3, seed=1, step=5) for _ in range(2))
    other = sample_batch(shards, SIZES, 1.0, 3, seed=1, step=6)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])
    frames, disparity = first
    assert frames.shape[:2] == disparity.shape[:2] == (3, WORLD.num_views)
    assert frames.shape[2] == 2 * disparity.shape[2]
    assert frames.dtype == np.uint8
    assert np.isfinite(disparity).all()


def test_the_loss_ignores_scale_and_shift_but_for_the_anchor() -> None:
    generator = torch.Generator().manual_seed(0)
    disparity = torch.rand(3, 2, 16, 24, generator=generator)

    def loss(predicted: torch.Tensor) -> float:
        return depth_loss(predicted, disparity, gradient_weight=0.5).item()

    anchored = disparity / disparity.flatten(1).quantile(0.95, dim=1)[:, None, None, None]
    assert loss(anchored) == pytest.approx(0, abs=1e-4)
    wrong = torch.rand(3, 2, 16, 24, generator=generator)
    drifted, shift = loss(3 * anchored + 1), (2 * anchored + 1).mean().item()
    assert drifted == pytest.approx(0.3 * shift, rel=1e-3)
    assert loss(wrong) > 0.5


def test_the_loss_asks_for_one_scale_a_clip() -> None:
    """Views that are each right up to their own scale are wrong together."""
    disparity = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    each = disparity * torch.tensor([1.0, 2.0])[None, :, None, None]
    assert depth_loss(each, disparity, 0.5).item() > depth_loss(disparity, disparity, 0.5).item() + 0.1


def test_flat_and_empty_views_have_a_finite_gradient() -> None:
    for flat in (torch.zeros(1, 2, 8, 8), torch.ones(1, 2, 8, 8)):
        predicted = torch.zeros(1, 2, 8, 8, requires_grad=True)
        depth_loss(predicted, flat, 0.5).backward()
        assert predicted.grad is not None
        assert torch.isfinite(predicted.grad).all()


def test_errors_after_alignment() -> None:
    z = np.random.default_rng(0).uniform(1, 10, (8, 9))
    valid = np.ones_like(z, bool)
    perfect = depth_errors(7 / z - 3, z, valid, cap=80)
    assert (perfect.absrel, perfect.delta1) == (pytest.approx(0, abs=1e-9), 1)
    assert perfect.si_rmse == pytest.approx(0, abs=1e-9)
    constant = depth_errors(np.ones_like(z), z, valid, cap=80)
    assert constant.si_rmse == pytest.approx(np.log(z).std())
    assert constant.absrel == pytest.approx(np.abs(1 / (1 / z).mean() / z - 1).mean())


def test_resuming_equals_an_uninterrupted_run(
    shards: DepthShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth, "CHECKPOINT_EVERY", 1)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = depth.train(tmp_path / "whole", RECIPE, shards)
    original = depth.sample_batch

    def interrupted(*arguments: object) -> object:
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(depth, "sample_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        depth.train(tmp_path / "parts", RECIPE, shards)
    monkeypatch.setattr(depth, "sample_batch", original)
    parts = depth.train(tmp_path / "parts", RECIPE, shards)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    shards: DepthShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth, "CHECKPOINT_EVERY", 1)
    original = depth.batch_loss

    def spoiled(*arguments: object) -> torch.Tensor:
        loss = original(*arguments)  # type: ignore[arg-type]
        return loss * float("nan") if (tmp_path / "checkpoint.safetensors").exists() else loss

    monkeypatch.setattr(depth, "batch_loss", spoiled)
    with pytest.raises(FloatingPointError, match=r"step 1.*checkpoint\.safetensors"):
        depth.train(tmp_path, RECIPE, shards)
    assert (tmp_path / "checkpoint.safetensors").is_file()
