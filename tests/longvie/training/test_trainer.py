"""Training steps on a toy: what they see, what they change, and that a number of workers is only a number."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from longvie.models.block_vae import BlockVAE
from longvie.models.names import is_attention, is_control
from longvie.pipeline import LongViePipeline
from longvie.training.conditions import draw
from longvie.training.encoded import EncodedDataset
from longvie.training.export import gather_weights
from longvie.training.initialisation import half_copy_control
from longvie.training.loss import NoiseLevels
from longvie.training.mixture import EncodedMixture
from longvie.training.recipes import MODALITIES, Conditions, Recipe, Rollouts, Stage
from longvie.training.sharding import shard
from longvie.training.trainer import NotFiniteError, Trainer, _latent_weights
from tests.encoded import write_encoded
from tests.toy import toy_pipeline

EVERYTHING = Conditions(
    modalities=(0.4, 0.2, 0.2, 0.2), history=0.8, prompt_dropout=0.3, condition_noise=0.2, features=0.5, data=0.5,
    degrade_from=0.0, first_frame=0.6, own=0.4,
)  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    stages = (
        Stage(name="control", num_steps=4, rate=1e-3, conditions=replace(EVERYTHING, history=0.0, own=0.0)),
        Stage(name="history", num_steps=4, rate=1e-3, trained="control and attention", conditions=EVERYTHING),
    )
    values: dict[str, Any] = {
        "name": "toy", "stages": stages, "batch": 4, "config": {}, "warmup": 2, "average": 0.9,
        "num_inference_steps": 1, "rollouts": Rollouts(num_segments=2, every=3),
    }  # fmt: skip
    return Recipe(**{**values, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoded(tmp_path_factory.mktemp("encoded") / "data", toy_pipeline(), "toy")


def trainer(data: Path, recipe: Recipe, pipe: LongViePipeline | None = None, **options: Any) -> Trainer:
    pipe = pipe or toy_pipeline()
    return Trainer(recipe, pipe.transformer, EncodedMixture([EncodedDataset(str(data))]), pipe.vae, seed=5, **options)


def weights(made: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in made.model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_each_stage_trains_its_own_parameters(data: Path) -> None:
    made = trainer(data, recipe())
    start = weights(made)
    for step in range(4):
        assert made.step(step).stage == "control"
    between = weights(made)
    for name, value in start.items():
        assert is_control(name) or torch.equal(value, between[name]), name
    for step in range(4, 8):
        assert made.step(step).stage == "history"
    end = weights(made)
    for name, value in between.items():
        assert is_control(name) or is_attention(name) or torch.equal(value, end[name]), name
    assert any(is_attention(name) and not torch.equal(value, between[name]) for name, value in end.items())
    assert any(is_control(name) and not torch.equal(value, start[name]) for name, value in between.items())


def test_equal_seeds_give_equal_bits(data: Path) -> None:
    one, other = trainer(data, recipe()), trainer(data, recipe())
    results = [(one.step(step), other.step(step)) for step in range(8)]
    assert all(a == b for a, b in results)
    assert same(one.state(), other.state())


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_state_is_all_there_is(data: Path, killed_at: int) -> None:
    """Loaded into another process's trainer, every further step is the same, across the border of stages, too."""
    whole = trainer(data, recipe())
    curve = []
    state: dict[str, Tensor] = {}
    for step in range(8):
        if step == killed_at:
            whole.enter(step - 1)
            state = copy.deepcopy(whole.state())
        curve.append(whole.step(step))
    resumed = trainer(data, recipe())
    resumed.enter(killed_at - 1)
    live = resumed.state()
    assert live.keys() == state.keys()
    for name, value in state.items():
        live[name].copy_(value)
    assert [resumed.step(step) for step in range(killed_at, 8)] == curve[killed_at:]
    assert same(resumed.state(), whole.state())


def _shared_recipe(sharded: bool) -> Recipe:
    """Batches of 5 do not part evenly. A sharded model's sums are rounded to float32 once a pass, so that a pixel of
    its own frames may round to another of the 256 values: there, no pixels are made."""
    if not sharded:
        return recipe(batch=5)
    stages = tuple(
        replace(stage, conditions=replace(stage.conditions, first_frame=0.0, data=0.0, own=0.0))
        for stage in recipe().stages
    )
    return recipe(stages=stages)


def _worker(rank: int, world_size: int, data: Path, out: Path, sharded: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=world_size)
    pipe = toy_pipeline()
    if sharded:
        shard(pipe.transformer, torch.float32)
    made = trainer(data, _shared_recipe(sharded), pipe, rank=rank, world_size=world_size)
    losses = torch.tensor([made.step(step).loss for step in range(8)])
    save_file({**gather_weights(made.model, {}), "losses": losses}, out / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_workers_do_what_one_does(data: Path, tmp_path: Path, sharded: bool) -> None:
    """With a model each, or with a half of one model each."""
    torch.multiprocessing.spawn(_worker, (2, data, tmp_path, sharded), nprocs=2)  # type: ignore[attr-defined]
    alone = trainer(data, _shared_recipe(sharded))
    losses = torch.tensor([alone.step(step).loss for step in range(8)])
    for rank in range(2):
        made = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(made["losses"], losses, rtol=1e-6, atol=1e-6)
        for name, value in weights(alone).items():
            torch.testing.assert_close(made[name], value, rtol=0, atol=1e-6)


def test_step_0_has_the_loss_of_the_base(data: Path) -> None:
    plain = replace(EVERYTHING, first_frame=0.0, data=0.0, history=0.0, own=0.0)
    losses = []
    for modalities in ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)):
        stage = Stage(name="control", num_steps=1, rate=1e-3, conditions=replace(plain, modalities=modalities))
        pipe = toy_pipeline()
        half_copy_control(pipe.transformer)
        losses.append(trainer(data, recipe(stages=(stage,)), pipe).step(0).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_losses_are_told_by_modality_and_a_missing_control_is_never_drawn(data: Path) -> None:
    made = trainer(data, recipe())
    results = [made.step(step) for step in range(8)]
    assert set().union(*(result.losses for result in results)) == set(MODALITIES)
    sample = made.data[2]  # of video 1
    assert sample.sparse is None
    drawn = {draw(recipe(), 0, 0, place, sample).modality for place in range(200)}
    assert drawn == {"dense", "none"}


def test_degradations_occur_as_often_as_told_and_only_when_told(data: Path) -> None:
    sample = EncodedDataset(str(data))[1]
    late = recipe(stages=(Stage(name="s", num_steps=9, rate=1e-3, conditions=replace(EVERYTHING, degrade_from=2 / 3)),))
    early, after = ([draw(late, 0, step, place, sample) for place in range(400)] for step in (5, 6))
    assert not any(one.degrade_dense or one.dense_scale != 1 for one in early)
    assert abs(sum(one.degrade_dense for one in after) / 400 - 0.5) < 0.1
    assert abs(sum(one.dense_scale != 1 for one in after) / 400 - 0.5) < 0.1
    assert {one.history for one in after} == {0, 1, 5, 8}
    assert {one.first for one in after} == {"clean", "round trips", "renoise"}
    assert all(1 <= one.trips <= 10 and 0 < one.first_sigma <= EVERYTHING.renoise for one in after)


def test_per_step_a_batch_has_one_form(data: Path) -> None:
    samples = EncodedDataset(str(data))
    stage = Stage(name="s", num_steps=50, rate=1e-3, conditions=replace(EVERYTHING, per_step=True))
    for step in range(50):
        drawn = [draw(recipe(stages=(stage,)), 0, step, place, samples[1]) for place in range(4)]
        assert len({(one.modality, one.history) for one in drawn}) == 1


def test_a_loss_that_is_no_number_stops_before_anything_changes(data: Path) -> None:
    made = trainer(data, recipe())
    made.step(0)
    broken = next(value for name, value in made.model.named_parameters() if is_control(name))
    kept = broken.detach().clone()
    broken.data.fill_(torch.inf)
    before = {name: value.clone() for name, value in made.state().items()}
    with pytest.raises(NotFiniteError, match=r"loss of step 1 is nan.*samples are \["):
        made.step(1)
    assert all(torch.equal(value, before[name]) for name, value in made.state().items())
    broken.data.copy_(kept)
    made.step(1)


def test_frame_0_counts_for_nothing_where_results_do_not_hold_it() -> None:
    vae = BlockVAE(z_dim=6, refiner_width=0)
    for keeps in (False, True):
        counted = _latent_weights(recipe(pixel_errors=True, keeps_first_frame=keeps), vae, 3, torch.device("cpu"))
        assert counted is not None
        assert bool(counted[:, 0].any()) is not keeps
        assert (counted[:, 1:] > 0).all()


def test_it_overfits(data: Path) -> None:
    """Everything is wired: six segments are learned by heart."""
    plain = Conditions(modalities=(1.0, 0.0, 0.0, 0.0), prompt_dropout=0.0, features=0.0, data=0.0)
    stage = Stage(name="s", num_steps=120, rate=1e-2, trained="all", conditions=plain)
    levels = NoiseLevels(distribution="logit-normal", pure_noise=1.0)
    short = recipe(stages=(stage,), levels=levels, weighting="none", batch=6, muon=0.02, weight_decay=0.0)
    made = trainer(data, short)
    losses = [made.step(step).loss for step in range(120)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
