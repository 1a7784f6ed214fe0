from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvie.segments import num_segments, plan_segments

frames, lengths = st.integers(1, 5000), st.integers(2, 200)


@given(frames, lengths)
def test_new_frames_cover_the_video_once_in_order(num_frames: int, length: int) -> None:
    covered = []
    for segment in plan_segments(num_frames, length):
        window = range(segment.start, segment.start + segment.num_frames)
        covered += list(window[segment.new_frames])
    assert covered == list(range(num_frames))


@given(frames, lengths)
def test_neighbours_share_exactly_one_frame(num_frames: int, length: int) -> None:
    plan = plan_segments(num_frames, length)
    for before, after in itertools.pairwise(plan):
        assert after.start == before.start + before.num_frames - 1
        assert before.num_valid == length, "only the last segment may be short"
    assert [segment.index for segment in plan] == list(range(len(plan)))


@given(frames, lengths)
def test_every_segment_has_something_new(num_frames: int, length: int) -> None:
    plan = plan_segments(num_frames, length)
    assert all(range(s.num_frames)[s.new_frames] for s in plan)
    assert len(plan) == num_segments(num_frames, length)


@given(st.integers(1, 50))
def test_k_segments_of_81_cover_80k_plus_1_frames(k: int) -> None:
    assert num_segments(80 * k + 1, 81) == k
    assert num_segments(80 * k + 2, 81) == k + 1


@pytest.mark.parametrize(
    ("num_frames", "length", "message"), [(0, 81, "num_frames is 0"), (5, 1, "segment_length is 1")]
)
def test_impossible_plans_are_refused(num_frames: int, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_segments(num_frames, length)
