"""Which segment takes which of the user's prompts; their form is tested with the manifests (test_inputs.py)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvie.segments import plan_segments
from pipelines.captions.prompts import assign_prompts
from pipelines.errors import UserError

SHOTS = [(0, plan_segments(33, 17)), (40, plan_segments(17, 17))]  # frames 0..32 and 40..56: two segments and one


def test_one_text_holds_everywhere() -> None:
    assert assign_prompts("w", ((None, "a"),), SHOTS, 57) == [("a", "a"), ("a",)]


def test_one_text_a_segment_counts_over_all_shots() -> None:
    assert assign_prompts("w", ((None, "a"), (None, "b"), (None, "c")), SHOTS, 57) == [("a", "b"), ("c",)]


def test_texts_with_starts_hold_on_the_sources_timeline() -> None:
    assert assign_prompts("w", ((0, "a"), (16, "b"), (41, "c")), SHOTS, 57) == [("a", "b"), ("b",)]
    assert assign_prompts("w", ((0, "a"), (17, "b"), (40, "c")), SHOTS, 57) == [("a", "a"), ("c",)]


def test_a_source_without_kept_shots_takes_none() -> None:
    assert assign_prompts("w", ((None, "a"),), [], 57) == []


def test_mistakes_are_named() -> None:
    with pytest.raises(
        UserError, match=r"m\.csv row 2, field prompts: 2 texts, but the video has 3 segments in 2 shots"
    ):
        assign_prompts("m.csv row 2", ((None, "a"), (None, "b")), SHOTS, 57)
    with pytest.raises(UserError, match="the last starts at frame 57, the video has 57 frames"):
        assign_prompts("w", ((0, "a"), (57, "b")), SHOTS, 57)


@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=4),
    starts=st.sets(st.integers(1, 150), max_size=6),
    length=st.integers(2, 20),
)
def test_a_segment_takes_the_last_text_that_starts_no_later(lengths: list[int], starts: set[int], length: int) -> None:
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    shots = [(begin, plan_segments(frames, length)) for begin, frames in zip(begins, lengths, strict=True)]
    prompts = tuple((start, str(start)) for start in sorted({0, *starts}))
    for (begin, segments), texts in zip(shots, assign_prompts("w", prompts, shots, 1000), strict=True):
        for segment, text in zip(segments, texts, strict=True):
            assert int(text) == max(
                start for start, _ in prompts if start is not None and start <= begin + segment.start
            )
