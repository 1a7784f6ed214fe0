from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from longvie.sampling import unified_noise
from longvie.training.encoded import EncodedDataset
from longvie.training.samples import make_latents, side_by_side, without_controls
from tests.encoded import HISTORY, moving, write_encoded
from tests.toy import toy_pipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedDataset:
    return EncodedDataset(str(write_encoded(tmp_path_factory.mktemp("encoded") / "data", toy_pipeline(), "toy")))


@pytest.mark.parametrize(("guidance", "keeps"), [(1.0, False), (3.0, False), (1.0, True)])
def test_it_makes_what_the_pipeline_makes(data: EncodedDataset, guidance: float, keeps: bool) -> None:
    """From a sample's latents, the same numbers as from its frames: a second segment with history and both controls."""
    pipe, sample = toy_pipeline(), data[1]
    frames, dense, sparse = (moving(17, kind) for kind in range(3))
    pipe.register_to_config(keeps_first_frame=keeps)
    noise = unified_noise(pipe.noise_shape(9, 32, 48), 7)
    expected = pipe(
        frames[8],
        "a red ball",
        dense=dense[8:],
        sparse=sparse[8:],
        history=frames[: 8 + 1][-max(HISTORY) :],
        guidance_scale=guidance,
        latents=noise,
        output_type="latent",
    ).frames
    options = {
        "num_steps": 2, "shift": 5.0, "seed": 7, "num_history_frames": max(HISTORY), "guidance_scale": guidance,
        "keeps_first_frame": keeps,
    }  # fmt: skip
    made = make_latents(pipe.transformer, data, sample, **options)  # type: ignore[arg-type]
    assert torch.allclose(made, expected, atol=1e-5)
    bare = make_latents(pipe.transformer, data, without_controls(sample), **options)  # type: ignore[arg-type]
    assert not torch.allclose(bare, made, atol=1e-3)


def test_side_by_side(data: EncodedDataset) -> None:
    pipe, sample = toy_pipeline(), data[0]
    assert sample.video is not None
    frames = side_by_side(pipe.vae, sample, sample.video[None])
    assert frames.shape == (9, 66, 98, 3)
    assert torch.equal(frames[:, :32, :48], frames[:, :32, 50:]), "truth beside truth"
    assert not torch.equal(frames[:, 34:, :48], frames[:, 34:, 50:])
    short = side_by_side(pipe.vae, replace(without_controls(sample), num_valid=4), sample.video[None])
    assert short.shape[0] == 4
    assert (short[:, 34:, :48] == 127).all()
