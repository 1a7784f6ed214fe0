"""How a sample becomes the model's input: which degraded control is taken, what own frames bring with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from longvie import conditioning
from longvie.sampling import start_latents, unified_noise
from longvie.training.conditions import ConditionBuilder, Draw
from longvie.training.encoded import EncodedDataset
from longvie.training.own_frames import Beginning
from tests.encoded import write_encoded
from tests.toy import toy_pipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedDataset:
    return EncodedDataset(str(write_encoded(tmp_path_factory.mktemp("encoded") / "data", toy_pipeline(), "toy")))


def degrading(seed: int) -> Draw:
    """Nothing but the dense control is degraded."""
    return Draw(
        modality="both",
        sigma=0.5,
        history=0,
        empty_prompt=False,
        dense_scale=1.0,
        degrade_dense=True,
        first="clean",
        trips=0,
        first_sigma=0.0,
        noise_level=0.0,
        generator=torch.Generator().manual_seed(seed),
    )


def test_an_encoded_variant_is_taken_as_it_is(data: EncodedDataset) -> None:
    """All of them in turn, without a VAE."""
    sample = data[0]
    assert sample.dense is not None
    assert sample.dense_image is not None
    variants = tuple(sample.dense + k for k in (1, 2))
    images = tuple(sample.dense_image + k for k in (1, 2))
    sample = replace(sample, dense_degraded=variants, dense_degraded_image=images)
    builder = ConditionBuilder(data, None, torch.device("cpu"))
    wanted = [
        conditioning.stack_control(one[None], first[None], data.meta.temporal)
        for one, first in zip(variants, images, strict=True)
    ]
    taken = set()
    for seed in range(8):
        dense = builder.build(sample, degrading(seed)).dense
        assert dense is not None
        taken |= {k for k in range(2) if torch.equal(dense, wanted[k])}
    assert taken == {0, 1}


def test_without_variants_the_control_is_decoded_and_degraded(data: EncodedDataset) -> None:
    builder = ConditionBuilder(data, toy_pipeline().vae, torch.device("cpu"))
    dense, clean = (
        builder.build(data[0], draw).dense for draw in (degrading(0), replace(degrading(0), degrade_dense=False))
    )
    assert dense is not None
    assert clean is not None
    assert dense.shape == clean.shape
    assert not torch.equal(dense, clean)
    with pytest.raises(ValueError, match="needs the VAE of the model that encoded the data"):
        ConditionBuilder(data, None, torch.device("cpu")).build(data[0], degrading(0))


def test_own_frames_come_with_the_noise_that_made_them_if_wanted(data: EncodedDataset) -> None:
    """As in generation with unified noise; mixed with the last latent of those frames, as there."""
    pipe = toy_pipeline()
    builder = ConditionBuilder(data, pipe.vae, torch.device("cpu"))
    sample = next(one for one in (data[k] for k in range(len(data))) if one.history)
    drawn = replace(degrading(0), degrade_dense=False, history=min(sample.history))
    frames = torch.full((max(sample.history), data.meta.height, data.meta.width, 3), 90, dtype=torch.uint8)
    beginning = Beginning(index=sample.index, frames=frames, noise_seed=7)
    made = builder.build(sample, replace(drawn, own_noise=True), beginning)
    other = builder.build(sample, replace(drawn, generator=torch.Generator().manual_seed(0)))
    wanted = start_latents(unified_noise(tuple(made.x0.shape), 7), made.history)
    torch.testing.assert_close(made.noise, wanted)
    assert not torch.equal(made.noise, other.noise)
    assert not torch.equal(made.image, other.image)
    free = builder.build(sample, replace(drawn, generator=torch.Generator().manual_seed(0)), beginning)
    torch.testing.assert_close(free.image, made.image)
    assert not torch.equal(free.noise, made.noise)
