"""Where the segments of a long video lie, and nothing else. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One model window on the timeline of a long video.

    It covers frames `start .. start + num_frames - 1` of the long video; only the first `num_valid` of them exist
    (fewer than `num_frames` only in the last segment, whose controls are padded and whose output is trimmed).
    """

    index: int
    start: int
    num_frames: int
    num_valid: int

    @property
    def new_frames(self) -> slice:
        """Which frames of the window are new: all in the first segment, all but the shared first frame later."""
        return slice(0 if self.index == 0 else 1, self.num_valid)


def num_segments(num_frames: int, segment_length: int) -> int:
    """How many segments cover `num_frames` frames when neighbours share exactly one (LongVie 2: k cover 80k+1)."""
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
