"""Statistics of depth at every scope, merged exactly from the histograms of the stretches.

One histogram is held at a time beside the sums, whatever the size of the dataset. Sums do not depend on how work was
divided, so neither does any percentile.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from longvie.controls.normalize import HIGH_PERCENTILE, LOW_PERCENTILE, DepthHistogram
from pipelines.errors import UserError
from pipelines.preparation.depth_stage import read_histogram, segment_histogram
from pipelines.preparation.long_videos import LongVideo
from pipelines.storage import Storage

PERCENTILES = (2.0, 5.0, 50.0, 95.0, 98.0)


@dataclass
class Ranges:
    """What becomes black and white in each long video.

    Args:
        by_video: the 5th and 95th percentile; None where each segment has its own.
        failed: why a long video has none.
    """

    by_video: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def find_ranges(storage: Storage, videos: Sequence[LongVideo]) -> Ranges:
    """The ranges of long videos whose depth is complete."""
    ranges = Ranges()
    dataset = DepthHistogram.empty()
    for video in videos:
        if video.recipe.scope == "segment":
            ranges.by_video[video.video_id] = None
            continue
        histogram = of_video(storage, video)
        try:
            ranges.by_video[video.video_id] = range_of(histogram)
            dataset = dataset + histogram
        except ValueError as error:  # no finite value
            ranges.failed[video.video_id] = str(error)
    if ranges.by_video and videos[0].recipe.scope == "dataset":
        check_one_polarity(videos)
        of_all = range_of(dataset)
        ranges.by_video = dict.fromkeys(ranges.by_video, of_all)
    return ranges


def range_of(histogram: DepthHistogram) -> tuple[float, float]:
    """What becomes black and white; `ValueError` without any finite value."""
    return histogram.percentile(LOW_PERCENTILE), histogram.percentile(HIGH_PERCENTILE)


def of_video(storage: Storage, video: LongVideo) -> DepthHistogram:
    """The histogram of all of a long video's depth; frames that segments share are counted once."""
    histogram = DepthHistogram.empty()
    for unit in video.depth_units:
        histogram = histogram + read_histogram(storage, unit.task["name"])
    return histogram


def check_one_polarity(videos: Sequence[LongVideo]) -> None:
    """`UserError` if one range would be taken over depth and disparity."""
    polarities = {video.polarity: video.content.source.where for video in videos}
    if len(polarities) > 1:
        said = " and ".join(f"{polarity} ({where})" for polarity, where in sorted(polarities.items()))
        raise UserError(f"--scope dataset takes one range over all depth, but there are {said}; give --scope video")


def rows(storage: Storage, videos: Sequence[LongVideo], made: Container[str]) -> Iterator[dict[str, Any]]:
    """The rows of stats.parquet: each long video, followed by its segments if they have any, and at last the dataset.

    Args:
        videos: those with a range.
        made: names of the control units that exist.
    """
    dataset = DepthHistogram.empty()
    for video in videos:
        histogram = of_video(storage, video)
        dataset = dataset + histogram
        yield _row("video", video.video_id, -1, video.polarity, histogram)
        if video.recipe.scope == "segment":
            for segment in video.segments:
                if video.segment_unit(segment) in made:
                    own = read_histogram(storage, segment_histogram(video.video_id, segment.index))
                    yield _row("segment", video.video_id, segment.index, video.polarity, own)
    if dataset.count:
        polarities = {video.polarity for video in videos}
        yield _row("dataset", "", -1, polarities.pop() if len(polarities) == 1 else "mixed", dataset)


def _row(scope: str, video_id: str, segment: int, polarity: str, histogram: DepthHistogram) -> dict[str, Any]:
    return {
        "scope": scope,
        "video_id": video_id,
        "segment": segment,
        "polarity": polarity,
        "count": histogram.count,
        "num_nan": histogram.num_nan,
        "num_inf": histogram.num_inf,
        "min": histogram.min,
        "max": histogram.max,
        **{f"p{q:g}": histogram.percentile(q) for q in PERCENTILES},
        "histogram": histogram.to_bytes(),
    }
