"""Prompts as users write them: their form, and which segment takes which.

It knows neither videos nor models, and needs no torch: decode workers import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError

if TYPE_CHECKING:
    from longvie.types import Segment

Prompts = tuple[tuple[int | None, str], ...]
"""Texts with the frame each holds from, or with None: one text for all, or one a segment (or control file)."""


def parse_prompt_or_prompts(where: str, content: Mapping[str, Any]) -> Prompts:
    """The prompts of a row that has either `prompt` (a text) or `prompts` (a list); `where` names it in errors."""
    if "prompt" in content:
        return ((None, check_text(where, "prompt", content["prompt"])),)
    return parse_prompts(where, content["prompts"])


def parse_prompts(where: str, prompts: Any) -> Prompts:
    """A list of texts, or of objects with `start` (a frame) and `text`; anything else is a `UserError`."""
    if not isinstance(prompts, list) or not prompts:
        raise UserError(f"{where}, field prompts: give a list of texts, or of objects with start (a frame) and text")
    if not any(isinstance(prompt, Mapping) for prompt in prompts):
        return tuple((None, check_text(where, f"prompts[{i}]", prompt)) for i, prompt in enumerate(prompts))
    timed: list[tuple[int | None, str]] = []
    previous = -1
    for i, prompt in enumerate(prompts):
        field = f"prompts[{i}]"
        if not isinstance(prompt, Mapping) or set(prompt) != {"start", "text"}:
            raise UserError(f"{where}, field {field}: give an object with start (a frame) and text")
        start = prompt["start"]
        if not isinstance(start, int) or isinstance(start, bool) or (start != 0 if i == 0 else start <= previous):
            rule = "the first starts at 0" if i == 0 else f"starts increase, and the one before is {previous}"
            raise UserError(f"{where}, field {field}.start: {start!r}; {rule}")
        timed.append((start, check_text(where, f"{field}.text", prompt["text"])))
        previous = start
    return tuple(timed)


def assign_prompts(
    where: str, prompts: Prompts, shots: Sequence[tuple[int, Sequence[Segment]]], num_frames: int
) -> list[tuple[str, ...]]:
    """One text a segment, for each kept shot of a source.

    Args:
        where: names the row or file in errors.
        shots: of each kept shot, in order: its first frame on the source's timeline, and its segments.
        num_frames: of the source's timeline; a text that starts past it is a mistake.

    One text holds everywhere. Of several without starts there must be one a segment, counted over all kept shots.
    Texts with starts hold on the source's timeline: a segment takes the one its first frame lies in.
    """
    texts = [text for _, text in prompts]
    total = sum(len(segments) for _, segments in shots)
    if prompts[0][0] is None:
        if len(texts) not in (1, total):
            raise UserError(
                f"{where}, field prompts: {len(texts)} texts, but the video has {total} segments in {len(shots)} "
                "shots; give one, one a segment, or objects with start and text"
            )
        each = iter(texts * total if len(texts) == 1 else texts)
        return [tuple(next(each) for _ in segments) for _, segments in shots]
    starts = [start for start, _ in prompts if start is not None]
    if starts[-1] >= num_frames:
        raise UserError(
            f"{where}, field prompts: the last starts at frame {starts[-1]}, the video has {num_frames} frames"
        )

    def at(frame: int) -> str:
        return next(t for s, t in zip(reversed(starts), reversed(texts), strict=True) if s <= frame)

    return [tuple(at(begin + segment.start) for segment in segments) for begin, segments in shots]


def check_text(where: str, field: str, value: Any) -> str:
    """Return the text, or raise `UserError` if it is none or blank."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}, field {field}: {value!r} is not a text")
    return value
