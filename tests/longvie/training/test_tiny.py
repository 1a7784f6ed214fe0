"""The embedded model before its first step: an autoencoder that fits, words, and a refiner that can learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longvie import conditioning
from longvie.models.block_vae import BlockVAE
from longvie.models.loading import load_pipeline
from longvie.training import tiny
from longvie.training.data import SceneControls, scene_controls
from longvie.training.text import MAX_TOKENS, train_tokenizer
from longvie.training.vae import draw, fit_linear, refiner_loss, train_refiner

LENGTH, HEIGHT, WIDTH = 9, 16, 24


@pytest.fixture(scope="module")
def scenes() -> list[SceneControls]:
    return [scene_controls(seed, 2 * (LENGTH - 1) + 1, LENGTH, HEIGHT, WIDTH) for seed in range(4)]


@pytest.fixture(scope="module")
def vae(scenes: list[SceneControls]) -> BlockVAE:
    torch.manual_seed(0)
    vae = BlockVAE(z_dim=8, refiner_width=8)
    fit_linear(vae, tiny.clips(scenes, LENGTH), seed=0, blocks=500)
    return vae


def test_clips_are_the_segments(scenes: list[SceneControls]) -> None:
    video, dense, sparse = tiny.clips(scenes, LENGTH)
    assert video.shape == dense.shape == sparse.shape == (8, LENGTH, HEIGHT, WIDTH, 3)
    assert torch.equal(video[3], scenes[1].frames[LENGTH - 1 :])
    assert torch.equal(video[2, -1], video[3, 0]), "segments share a frame"


def test_the_model_before_its_first_step_is_a_pipeline_that_comes_from_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vae: BlockVAE
) -> None:
    monkeypatch.setattr(tiny, "FIT_SCENES", 2)
    monkeypatch.setattr(tiny, "CAPTIONS", 50)
    made = [tiny.tiny_pipeline(seed) for seed in (0, 0, 1)]
    weights = [pipe.transformer.state_dict() for pipe in made]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["proj_out.weight"], weights[2]["proj_out.weight"])
    made[0].save_pretrained(tmp_path / "start")
    pipe = load_pipeline(tmp_path / "start")
    frame = torch.from_numpy(tiny.scene_controls(0, 2, 2, tiny.HEIGHT, tiny.WIDTH).frames[0].numpy())
    assert pipe(frame, "a red ball", output_type="latent").frames.isfinite().all()
    roundtrip = conditioning.decode(pipe.vae, conditioning.encode(pipe.vae, conditioning.to_pixels(frame[None])))
    assert (roundtrip - conditioning.to_pixels(frame[None])).abs().mean() < 0.1


def test_errors_count_by_how_far_they_show(vae: BlockVAE) -> None:
    """The same error in two numbers of a latent shows in pixels as far as their weights say."""
    first, rest = vae.latent_weights()
    for weights, frame in ((first, 0), (rest, 1)):
        assert weights.mean() == pytest.approx(1)
        shown = []
        for channel in (0, 7):
            latents = torch.zeros(1, 8, 2, 2, 3)
            latents[0, channel, frame, 1, 1] = 1e-2
            with torch.no_grad():
                shown.append((vae.unclamped(latents) - vae.unclamped(torch.zeros_like(latents))).norm())
        assert shown[0] / shown[1] == pytest.approx(float(weights[0] / weights[7]), rel=1e-2)


def test_the_refiner_improves_on_the_linear_decoder(vae: BlockVAE, scenes: list[SceneControls]) -> None:
    video, _, _ = tiny.clips(scenes, LENGTH)
    with torch.no_grad():
        latents = torch.cat([conditioning.encode(vae, conditioning.to_pixels(clip)) for clip in video])
    made = latents + 0.2 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    pixels, decoded = draw(vae, video, made, batch=8, generator=torch.Generator().manual_seed(9))
    linear = refiner_loss(vae, pixels, decoded).item()  # a new refiner adds nothing
    for _ in train_refiner(vae, video, made, num_steps=60, seed=0):
        pass
    assert refiner_loss(vae, pixels, decoded).item() < linear


def test_prompts_become_words_and_an_end() -> None:
    tokenizer = train_tokenizer(["a red ball on sand", "a blue box"])
    made = tokenizer(["A red box", "a zebra", ""], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    assert made.attention_mask.sum(1).tolist() == [4, 3, 1]
    assert tokenizer.convert_ids_to_tokens(made.input_ids[1, :3].tolist()) == ["a", "<unk>", "</s>"]
