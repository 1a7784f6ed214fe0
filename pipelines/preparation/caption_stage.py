"""Prompts of segments: those the user gives, and the stage that asks a captioner that looks at frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from longvie.media import VideoError, resampled
from pipelines.captions.captioners import Captioner, CaptionError, read_sidecar
from pipelines.captions.prompts import Prompts, assign_prompts
from pipelines.fetch import LocalCopies
from pipelines.preparation.long_videos import Content, LongVideo
from pipelines.preparation.recipe import Recipe
from pipelines.preparation.stages import BATCH
from pipelines.storage import Storage


class CaptionStage:
    """The prompt of frames `start .. stop-1` on a source's resampled timeline.

    Task: `uri`, `stamp`, `start`, `stop`, `video_id` and `index` of the segment. Result: `prompt`.
    """

    name: ClassVar[str] = "captions"

    def __init__(self, recipe: Recipe, captioner: Captioner, storage: Storage) -> None:
        self._recipe = recipe
        self._captioner = captioner
        self._copies = LocalCopies()

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        with self._copies.opened(task["uri"], task["stamp"]) as path:
            frames = np.concatenate(
                list(resampled(path, **self._recipe.frames(), start=task["start"], stop=task["stop"], batch=BATCH))
            )
        try:
            return {"prompt": self._captioner(frames, task["index"], task["video_id"])}
        except CaptionError as error:
            raise VideoError(str(error)) from error


def given_prompts(content: Content, num_frames: int, videos: Sequence[LongVideo], *, sidecars: bool) -> dict[str, str]:
    """The user's own prompts for one source, by segment's unit; empty if it has none.

    Args:
        num_frames: of the source's resampled timeline.
        videos: the source's long videos, in order.
        sidecars: whether prompts must lie beside the video, where a manifest gives none.

    Raises:
        UserError: prompts that are missing or do not fit the segments.
    """
    source = content.source
    prompts: Prompts = source.prompts or (read_sidecar(source.uri) if sidecars else ())
    if not prompts or not videos:
        return {}
    shots = [(video.start, video.segments) for video in videos]
    texts = assign_prompts(source.where, prompts, shots, num_frames)
    return {
        video.segment_unit(segment): text
        for video, of_video in zip(videos, texts, strict=True)
        for segment, text in zip(video.segments, of_video, strict=True)
    }
