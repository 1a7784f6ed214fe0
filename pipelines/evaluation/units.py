"""Which units of scoring there are: a segment of a video of a run each, and of the baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cv2
import torchmetrics

from longvie.segments import Segment, plan_segments
from pipelines.evaluation.folders import GeneratedVideo, Reference, ReferenceVideo
from pipelines.evaluation.options import FROZEN, TRUTH, VAE
from pipelines.evaluation.score_stage import ScoreSettings
from pipelines.fetch import stamp_of
from pipelines.preparation.units import Unit

METRICS_VERSION = 1  # of definitions; another number is another key, so that older scores are made anew


def unit_name(run: str, take: int, video_id: str, segment: int) -> str:
    return f"{run}-{take}-{video_id}-{segment:05d}"


def generated_units(videos: Sequence[GeneratedVideo], reference: Reference, settings: ScoreSettings) -> list[Unit]:
    """Of the segments that exist."""
    by_id = {video.video_id: video for video in reference.videos}
    units = []
    for video in videos:
        for index in range(len(video.files)):
            files = video.files[max(0, index - 1) : index + 1]
            units.append(
                _unit(
                    video.run.name,
                    video.run.take,
                    by_id[video.video_id],
                    video.segments[index],
                    reference,
                    settings,
                    kind="generated",
                    seed=video.seed,
                    made=[uri for uri, _ in files],
                    content=[sha256 for _, sha256 in files],
                )
            )
    return units


def baseline_units(lengths: dict[str, int], reference: Reference, settings: ScoreSettings) -> list[Unit]:
    """Of the first frame held still, the true frames themselves, and those frames through the VAE.

    Args:
        lengths: frames of each video that some run has.
    """
    kinds = [FROZEN, TRUTH, *([VAE] if settings.vae is not None else [])]
    length = reference.settings["segment_length"]
    return [
        _unit(kind, 0, video, segment, reference, settings, kind=kind, seed=None, made=[], content=[])
        for kind in kinds
        for video in reference.videos
        if video.video_id in lengths
        for segment in plan_segments(lengths[video.video_id], length)
    ]


def by_true_segment(units: Sequence[Unit]) -> list[Unit]:
    """The same units, those of one true segment together: a worker decodes it once for all runs."""
    return sorted(units, key=lambda unit: (unit.task["video"], unit.task["segment"]["index"]))


def _unit(
    run: str,
    take: int,
    video: ReferenceVideo,
    segment: Segment,
    reference: Reference,
    settings: ScoreSettings,
    **made: Any,
) -> Unit:
    index = segment.index
    content = made.pop("content")
    span = video.ranges[index]
    task = {
        "run": run,
        "take": take,
        "video": video.video_id,
        "segment": {"index": index, "start": segment.start, "num_valid": segment.num_valid},
        "truth": {"uri": video.source, "start": video.source_start, "frames": reference.frames},
        "dense": video.dense[index],
        "tracks": video.tracks[index],
        "range": None if span is None or video.polarity is None else list(span),
        "polarity": video.polarity,
        **made,
    }
    where = ("made", "dense", "tracks")
    decides = {
        "task": {key: value for key, value in task.items() if key not in where},
        "content": content,
        "source": video.sha256,
        "controls": [stamp_of(uri) for uri in (video.dense[index], video.tracks[index]) if uri],
        "settings": asdict(settings),
        "versions": [METRICS_VERSION, torchmetrics.__version__, cv2.__version__],
    }
    return Unit(
        stage="score",
        name=unit_name(run, take, video.video_id, index),
        task=task,
        decides=decides,
        cost=segment.num_valid,
        uris=(made["made"][-1] if made["made"] else video.source,),
        said=f"{run} {video.video_id} segment {index}",
    )
