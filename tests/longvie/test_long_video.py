"""The fold: segments join, any carry resumes, and the same request gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video, run_segment
from longvie.pipeline import LongViePipeline
from longvie.segments import plan_segments
from longvie.types import Carry, ControlMaps, Segment
from tests.toy import toy_pipeline

NUM_FRAMES = 30  # four segments of nine frames, the last one short


@pytest.fixture(scope="module")
def pipe() -> LongViePipeline:
    return toy_pipeline()


def frames(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 48, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def request(pipe: LongViePipeline, **overrides: Any) -> LongVideoRequest:
    config = GenerationConfig.for_pipeline(pipe.config, **overrides.pop("config", {}))
    given: dict[str, Any] = {
        "first_frame": frames(1, 0)[0],
        "controls": ControlMaps(dense=frames(NUM_FRAMES, 1), sparse=frames(NUM_FRAMES, 2)),
        "prompts": ("a red ball",),
        "num_frames": NUM_FRAMES,
        "seed": 3,
    }
    return LongVideoRequest(**{**given, **overrides}, config=config)


@pytest.mark.parametrize("num_frames", [1, 2, 9, 10, 17, 30])
def test_any_frame_count_comes_out_exactly(pipe: LongViePipeline, num_frames: int) -> None:
    results = list(generate_long_video(pipe, request(pipe, num_frames=num_frames)))
    assert sum(len(result.frames) for result in results) == num_frames
    assert [result.carry.next_index for result in results] == list(range(1, len(results) + 1))


def test_each_segment_starts_from_the_last_frame_of_the_one_before(pipe: LongViePipeline) -> None:
    made = list(generate_long_video(pipe, request(pipe)))
    for result in made:
        assert torch.equal(result.carry.first_frame, result.frames[-1])
        expected = 8 if result.segment.num_valid >= 8 else result.segment.num_valid
        assert len(result.carry.history) == expected
        assert torch.equal(result.carry.history[-1], result.frames[-1])


def test_resuming_from_any_saved_carry_gives_the_same_bytes(pipe: LongViePipeline, tmp_path: Path) -> None:
    whole = list(generate_long_video(pipe, request(pipe)))
    for k, result in enumerate(whole[:-1]):
        result.carry.save(tmp_path / "carry.safetensors")
        resumed = list(generate_long_video(pipe, request(pipe), Carry.load(tmp_path / "carry.safetensors")))
        assert len(resumed) == len(whole) - k - 1
        for before, after in zip(whole[k + 1 :], resumed, strict=True):
            assert torch.equal(before.frames, after.frames)


def test_a_fresh_process_object_gives_the_same_bytes(pipe: LongViePipeline) -> None:
    again = toy_pipeline()
    for a, b in zip(generate_long_video(pipe, request(pipe)), generate_long_video(again, request(again)), strict=True):
        assert torch.equal(a.frames, b.frames)


def test_the_past_matters(pipe: LongViePipeline) -> None:
    segment = plan_segments(NUM_FRAMES, 9)[1]
    first = next(generate_long_video(pipe, request(pipe)))
    other = replace(first.carry, history=first.carry.history.flip(0))
    a = run_segment(pipe, request(pipe), segment, first.carry)
    b = run_segment(pipe, request(pipe), segment, other)
    assert not torch.equal(a.frames, b.frames)


def test_only_the_segments_own_controls_are_asked_for(pipe: LongViePipeline) -> None:
    asked: list[int] = []
    maps = ControlMaps(dense=frames(NUM_FRAMES, 1))

    class Watching:
        def at(self, segment: Segment) -> ControlMaps:
            asked.append(segment.index)
            return maps.at(segment)

    run = generate_long_video(pipe, request(pipe, controls=Watching()))
    next(run)
    assert asked == [0]
    next(run)
    assert asked == [0, 1]


def test_noise_strategies(pipe: LongViePipeline) -> None:
    unified = list(generate_long_video(pipe, request(pipe)))
    fresh = list(generate_long_video(pipe, request(pipe, config={"noise": "fresh"})))
    assert torch.equal(unified[0].frames, fresh[0].frames), "the first segment's noise is the same"
    for alpha, same in ((0, unified), (1, fresh)):
        mixed = list(generate_long_video(pipe, request(pipe, config={"noise": f"mix:{alpha}"})))
        assert all(torch.equal(a.frames, b.frames) for a, b in zip(mixed, same, strict=True))


def test_without_history_a_segment_sees_its_first_frame_alone(pipe: LongViePipeline) -> None:
    one = list(generate_long_video(pipe, request(pipe)))
    other = list(generate_long_video(pipe, request(pipe, config={"history": False})))
    assert not torch.equal(one[1].frames, other[1].frames)
    forgot = replace(other[0].carry, history=other[0].carry.history[:0])
    again = next(iter(generate_long_video(pipe, request(pipe), forgot)))
    assert torch.equal(again.frames, other[1].frames)


def test_per_segment_normalization_is_an_ablation(pipe: LongViePipeline) -> None:
    """A segment that spans only part of the video's depth range is stretched to all of it."""
    dark = ControlMaps(dense=frames(NUM_FRAMES, 1) // 4)
    video = next(generate_long_video(pipe, request(pipe, controls=dark)))
    segment = next(generate_long_video(pipe, request(pipe, controls=dark, config={"normalization": "segment"})))
    assert not torch.equal(video.frames, segment.frames)
    seen = []

    original = pipe.build_condition
    pipe.build_condition = lambda first, prompt, neg, dense, *rest: (
        seen.append(dense) or original(first, prompt, neg, dense, *rest)
    )  # type: ignore[method-assign]
    try:
        next(generate_long_video(pipe, request(pipe, controls=dark, config={"normalization": "segment"})))
    finally:
        del pipe.build_condition
    assert seen[0].min() == 0
    assert seen[0].max() == 255


def test_steps_are_reported(pipe: LongViePipeline) -> None:
    steps: list[tuple[int, int]] = []
    list(generate_long_video(pipe, request(pipe, num_frames=10), on_step=lambda *step: steps.append(step)))
    assert steps == [(1, 2), (2, 2)] * 2


def test_stopping_within_a_step(pipe: LongViePipeline) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, _: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        list(generate_long_video(pipe, request(pipe), on_step=stop))
    assert next(generate_long_video(pipe, request(pipe))).frames.shape == (9, 32, 48, 3), "the pipeline is usable again"


def test_prompts_one_or_one_a_segment(pipe: LongViePipeline) -> None:
    each = request(pipe, prompts=("a red ball", "night", "a red ball", "ball"))
    made = list(generate_long_video(pipe, each))
    same = list(generate_long_video(pipe, request(pipe)))
    assert torch.equal(made[0].frames, same[0].frames)
    assert not torch.equal(made[1].frames, same[1].frames)
    with pytest.raises(ValueError, match="3 prompts for 4 segments"):
        list(generate_long_video(pipe, request(pipe, prompts=("a", "b", "c"))))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"first_frame": frames(1, 0)[0, :16]}, "first_frame is"),
        ({"config": {"num_inference_steps": 1001}}, "num_inference_steps is 1001"),
        ({"config": {"dense_scale": -0.1}}, "dense_scale is -0.1"),
        ({"config": {"sparse_scale": float("inf")}}, "sparse_scale is inf"),
        ({"config": {"noise": "mixed"}}, "noise is 'mixed'; choose unified, fresh or mix:ALPHA"),
        ({"config": {"fit": "squash"}}, "fit is 'squash'"),
    ],
)
def test_wrong_requests_are_refused(pipe: LongViePipeline, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(pipe, **wrong)


def test_control_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="differ"):
        ControlMaps(dense=frames(5, 0), sparse=frames(6, 0))


def test_controls_past_the_end_repeat_the_last_frame() -> None:
    maps = ControlMaps(dense=frames(5, 0))
    cut = maps.at(Segment(index=0, start=3, num_frames=4, num_valid=2)).dense
    assert cut is not None
    assert torch.equal(cut, maps.dense[[3, 4, 4, 4]])
