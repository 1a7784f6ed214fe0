"""Where the segments of a long video lie, and nothing else."""

from __future__ import annotations

from longvie.types import Segment


def num_segments(num_frames: int, segment_length: int) -> int:
    """How many segments cover `num_frames` frames when neighbours share exactly one frame (LongVie 2: k cover 80k+1)."""
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; a video has at least 1 frame")
    if segment_length < 2:
        raise ValueError(f"segment_length is {segment_length}; segments share one frame, so they need at least 2")
    return max(1, -(-(num_frames - 1) // (segment_length - 1)))


def plan_segments(num_frames: int, segment_length: int) -> list[Segment]:
    """The segments of a long video, in order: each starts on the last frame of the one before.

    The new frames of the segments cover every frame once, in order. Only the last segment may be short of frames:
    its controls are padded by repeating their last frame, and its output is trimmed.
    """
    step = segment_length - 1
    return [
        Segment(
            index=index,
            start=index * step,
            num_frames=segment_length,
            num_valid=min(segment_length, num_frames - index * step),
        )
        for index in range(num_segments(num_frames, segment_length))
    ]
