"""The recipe at a toy size: it learns, and an interruption changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longvie import conditioning
from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.models.block_vae import BlockVAE
from longvie.models.loading import load_pipeline
from longvie.training import tiny
from longvie.training.latents import World, clips, encode_scene, fit_linear
from longvie.training.rollouts import make_segments, roll_out
from longvie.training.step import Latents, StepConfig, control_states, draw_rows
from longvie.training.text import MAX_TOKENS, tokenize, train_tokenizer
from longvie.training.vae import draw, refiner_loss, train_refiner

WORLD = World(height=16, width=24, segment_length=9, num_segments=2)


@pytest.fixture(scope="module")
def vae() -> BlockVAE:
    torch.manual_seed(0)
    vae = BlockVAE(z_dim=8, refiner_width=8)
    fit_linear(vae, clips([WORLD.scene(seed) for seed in range(4)], WORLD), seed=0, blocks=500)
    return vae


@pytest.fixture(scope="module")
def data(vae: BlockVAE) -> Latents:
    scenes = [WORLD.scene(seed) for seed in range(3)]
    parts = [encode_scene(vae, scene, WORLD.segment_length) for scene in scenes]
    latents = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    captions = [scene.caption for scene in scenes for _ in range(WORLD.num_segments)]
    return tiny.dataset(latents, captions, train_tokenizer(captions), vae, WORLD.num_segments)


def test_states_equal_those_of_the_pipeline(vae: BlockVAE, data: Latents) -> None:
    frames = WORLD.scene(0).dense[: WORLD.segment_length]
    with torch.no_grad():
        expected = conditioning.control_states(vae, frames)
    made = control_states(data.dense[:1].float(), data.zero, 4)
    torch.testing.assert_close(made, expected, atol=5e-3, rtol=5e-3)  # the set is kept in float16


def test_every_epoch_shows_every_segment_once() -> None:
    seen = torch.cat([draw_rows(12, 4, seed=1, step=step) for step in range(6)])
    assert sorted(seen[:12].tolist()) == sorted(seen[12:].tolist()) == list(range(12))
    assert seen[:12].tolist() != seen[12:].tolist()


def test_resuming_equals_an_uninterrupted_run(
    vae: BlockVAE, data: Latents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "CHECKPOINT_EVERY", 3)
    step = StepConfig(batch=2, own_frames=0.9)
    recipe = tiny.TinyRecipe(z_dim=8, num_steps=6, own_frames_from=2, num_rollouts=2, step=step)
    vocabulary = int(data.ids.max()) + 1
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = tiny.transformer_stage(tmp_path / "whole", recipe, {"scenes": data}, vae, vocabulary)
    original = tiny.batch_loss

    def interrupted(*arguments: object) -> object:
        if arguments[4] == 4:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny, "batch_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.transformer_stage(tmp_path / "parts", recipe, {"scenes": data}, vae, vocabulary)
    monkeypatch.setattr(tiny, "batch_loss", original)
    parts = tiny.transformer_stage(tmp_path / "parts", recipe, {"scenes": data}, vae, vocabulary)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_refiner_improves_on_the_linear_decoder(vae: BlockVAE) -> None:
    video, _, _ = clips([WORLD.scene(seed) for seed in range(4)], WORLD)
    with torch.no_grad():
        latents = torch.cat([conditioning.encode(vae, conditioning.to_pixels(clip)) for clip in video])
    made = latents + 0.2 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    pixels, decoded = draw(vae, video, made, batch=8, generator=torch.Generator().manual_seed(9))
    linear = refiner_loss(vae, pixels, decoded).item()  # a new refiner adds nothing
    for _ in train_refiner(vae, video, made, num_steps=60, seed=0):
        pass
    assert refiner_loss(vae, pixels, decoded).item() < linear


def test_a_broken_loss_stops_the_run_and_keeps_the_checkpoint(
    vae: BlockVAE, data: Latents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "CHECKPOINT_EVERY", 1)
    original = tiny.batch_loss

    def broken(*arguments: object) -> object:
        loss, modality = original(*arguments)  # type: ignore[arg-type]
        return (loss * float("nan"), modality) if arguments[4] == 2 else (loss, modality)

    monkeypatch.setattr(tiny, "batch_loss", broken)
    recipe = tiny.TinyRecipe(z_dim=8, num_steps=4, step=StepConfig(batch=2))
    with pytest.raises(FloatingPointError, match="step 2"):
        tiny.transformer_stage(tmp_path, recipe, {"scenes": data}, vae, int(data.ids.max()) + 1)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint.safetensors").values())


def test_rollouts_are_what_the_pipeline_makes() -> None:
    """With the embedded weights, at a small size: three segments, each from the one before."""
    pipe = load_pipeline()
    world = World(height=32, width=48, num_segments=3)
    scene = world.scene(0)
    latents = encode_scene(pipe.vae, scene, world.segment_length)
    data = tiny.dataset(latents, [scene.caption] * 3, pipe.tokenizer, pipe.vae, 3)
    model = tiny.TinyModel(pipe.transformer, pipe.text_encoder)
    steps = pipe.config.num_inference_steps
    made, own = roll_out(model, pipe.vae, data, num_videos=1, num_steps=steps, seed=0)
    assert torch.equal(make_segments(model, data, num_videos=1, num_steps=steps, seed=0)[0], made[0])
    assert torch.equal(own.first[0], data.video[0, :, :1])
    config = GenerationConfig.for_pipeline(pipe.config, height=32, width=48)
    request = LongVideoRequest(
        first_frame=scene.frames[0], controls=scene, prompts=(scene.caption,), num_frames=49, seed=0, config=config
    )
    for latent, result in zip(made, generate_long_video(pipe, request), strict=True):
        decoded = conditioning.to_frames(conditioning.decode(pipe.vae, latent[None].float()))
        expected = result.frames.float()
        assert (decoded[-len(expected) :].float() - expected).abs().mean() < 1.5  # float16 between segments


def test_the_film_has_its_share_of_the_steps_and_scenes_alone_have_all() -> None:
    recipe = tiny.TinyRecipe(film_share=0.7)
    drawn = [tiny.world_at(step, recipe, ["scenes", "film"]) for step in range(1000)]
    assert 650 < drawn.count("film") < 750
    assert drawn == [tiny.world_at(step, recipe, ["scenes", "film"]) for step in range(1000)]
    assert {tiny.world_at(step, recipe, ["scenes"]) for step in range(100)} == {"scenes"}


def test_two_worlds_train_one_model_and_each_has_frames_of_its_own(
    vae: BlockVAE, data: Latents, tmp_path: Path
) -> None:
    recipe = tiny.TinyRecipe(
        z_dim=8, world=WORLD, num_steps=6, own_frames_from=2, num_rollouts=2, step=StepConfig(batch=2)
    )
    worlds = {"scenes": data, "film": data}
    tiny.transformer_stage(tmp_path, recipe, worlds, vae, int(data.ids.max()) + 1)
    for name in worlds:
        assert len(load_file(tmp_path / f"own_{name}_000.safetensors")["first"]) == 2 * WORLD.num_segments


def test_prompts_become_words_and_an_end() -> None:
    tokenizer = train_tokenizer(["a red ball on sand", "a blue box"])
    ids, mask = tokenize(tokenizer, ["A red box", "a zebra", ""])
    assert ids.shape == (3, MAX_TOKENS)
    assert mask.sum(1).tolist() == [4, 3, 1]
    assert tokenizer.convert_ids_to_tokens(ids[1, :3].tolist()) == ["a", "<unk>", "</s>"]
