"""Rollouts are what generation makes, and what training begins with is handed on from one segment to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.training.encoded import EncodedDataset
from longvie.training.encoded_layout import EncodedError
from longvie.training.mixture import EncodedMixture
from longvie.training.own_frames import OwnFrames
from longvie.training.recipes import Rollouts, tiny
from longvie.training.rollouts import draw_chains, roll_out
from longvie.types import ControlMaps
from tests.encoded import HEIGHT, LENGTH, WIDTH, moving, write_encoded
from tests.toy import toy_pipeline

RECIPE = replace(tiny(), rollouts=Rollouts(num_segments=3, every=2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedMixture:
    folder = write_encoded(tmp_path_factory.mktemp("encoded") / "data", toy_pipeline(), "toy", segments=3)
    return EncodedMixture([EncodedDataset(str(folder))])


@pytest.mark.parametrize("keeps", [False, True])
def test_a_rollout_is_what_the_generator_makes(data: EncodedMixture, keeps: bool) -> None:
    pipe = toy_pipeline()
    pipe.register_to_config(num_history_frames=8, keeps_first_frame=keeps)
    made = list(
        roll_out(
            pipe.transformer, pipe.vae, data, [[0, 1, 2]], num_steps=2, shift=5.0, seed=7, num_history_frames=8,
            keep=LENGTH, keeps_first_frame=keeps,
        )
    )  # fmt: skip
    assert [one.index for one in made] == [0, 1, 2]
    frames, dense, sparse = (moving(3 * (LENGTH - 1) + 1, kind) for kind in range(3))
    config = GenerationConfig(height=HEIGHT, width=WIDTH, num_inference_steps=2, guidance_scale=1.0)
    request = LongVideoRequest(
        first_frame=frames[0],
        prompts=("a red ball",),
        num_frames=len(frames),
        controls=ControlMaps(dense=dense, sparse=sparse),
        seed=7,
        config=config,
    )
    expected = list(generate_long_video(pipe, request))
    for ours, theirs in zip(made, expected, strict=True):
        new = ours.frames[-len(theirs.frames) :]  # a segment shares its first frame with the one before
        assert (new.int() - theirs.frames.int()).abs().max() <= 1


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sets(st.integers(0, 5), max_size=3)), max_size=8),
    st.integers(0, 20),
    st.integers(0, 5),
    st.integers(0, 6),
)
def test_chains_are_videos_from_their_beginning(
    videos: list[tuple[int, set[int]]], count: int, bare: int, seed: int
) -> None:
    """Some segments are missing, as those that could not be encoded are, and some have other controls than the rest."""
    places = [
        {"video_id": f"v{k}", "segment": segment, "has_dense": True, "has_sparse": segment != bare}
        for k, (length, missing) in enumerate(videos)
        for segment in range(length)
        if segment not in missing
    ]
    chains = draw_chains(places, count, seed, 1)
    rows = [row for chain in chains for row in chain]
    assert len(rows) == len(set(rows))
    for chain in chains:
        assert [places[row]["segment"] for row in chain] == list(range(len(chain)))
        assert len({places[row]["video_id"] for row in chain}) == 1
        assert len(chain) > 1
    following = 0
    for length, missing in videos:
        changed = {bare, bare + 1} - {0} if bare else {1}
        whole = min(missing | {length} | changed)
        following += max(0, whole - 1)
    assert sum(len(chain) - 1 for chain in chains) == min(count, following)
    assert chains == draw_chains(places, count, seed, 1)


def test_own_frames_are_the_last_of_the_segment_before(data: EncodedMixture) -> None:
    pipe = toy_pipeline()
    own = OwnFrames(RECIPE, data, seed=0, begins=4)
    assert [step for step in range(4, 10) if own.is_due(step)] == [4, 6, 8]
    own.make(4, pipe.transformer, pipe.vae, torch.float32, 0, 1, together=False)
    begins = own.at(0, 0.0)
    index = begins.index
    assert data.place(index)["segment"] == 1
    assert begins.noise_seed == 4 + index - 1
    before = roll_out(
        pipe.transformer, pipe.vae, data, [[index - 1]], num_steps=1, shift=5.0, seed=4, num_history_frames=8, keep=8,
        keeps_first_frame=True,
    )  # fmt: skip
    assert (next(before).frames.int() - begins.frames.int()).abs().max() <= 1
    assert {own.at(0, k / 3).index for k in range(3)} == {row for chain in own._chains[0] for row in chain[1:]}


def test_each_dataset_has_its_share_of_own_frames(tmp_path: Path) -> None:
    parts = [
        EncodedDataset(str(write_encoded(tmp_path / name, toy_pipeline(), "toy", segments=3, videos=3)))
        for name in "ab"
    ]
    recipe = replace(RECIPE, rollouts=Rollouts(num_segments=5, every=2))
    own = OwnFrames(recipe, EncodedMixture(parts, (3.0, 1.0)), seed=0, begins=0)
    places = {own.at(first, k / 12).index for first in (0, 9) for k in range(12)}
    assert sum(row < 9 for row in places) == 4
    assert sum(row >= 9 for row in places) == 1


def test_workers_that_hold_parts_of_the_weights_all_make_all(data: EncodedMixture) -> None:
    pipe = toy_pipeline()
    parts = []
    for rank in range(2):
        own = OwnFrames(RECIPE, data, seed=0, begins=0)
        own.make(0, pipe.transformer, pipe.vae, torch.float32, rank, 2, together=True)
        parts.append(own.frames)
    assert torch.equal(*parts)
    assert parts[0].any()


def test_single_segments_are_refused(tmp_path: Path) -> None:
    folder = write_encoded(tmp_path / "data", toy_pipeline(), "toy", segments=1)
    with pytest.raises(EncodedError, match="no video of two segments"):
        OwnFrames(RECIPE, EncodedMixture([EncodedDataset(str(folder))]), seed=0, begins=0)
