"""From sources to units: which content they hold, which long videos are in it, and what is to be made of each.

Pure bookkeeping: it reads commits' results and writes nothing. Each unit's key holds all that decides it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from longvie.segments import Segment, plan_segments
from pipelines.hashes import fingerprint
from pipelines.preparation.recipe import Recipe, stretches
from pipelines.preparation.sources import Source, canonical
from pipelines.preparation.units import Unit, UnitCommit

_MAX_STEM = 96  # characters of a file's name in a video_id of at most 128


@dataclass(frozen=True, kw_only=True)
class Content:
    """One content among the sources, prepared once.

    Args:
        source: the first of those that have it.
        duplicates: URIs of the others.
        stamps: of its files by URI, so that a change during the run is noticed.
        sha256, depth, tracks: hashes of what was given.
    """

    source: Source
    duplicates: tuple[str, ...]
    stamps: Mapping[str, str | None]
    sha256: str
    bytes: int
    depth: str | None
    tracks: tuple[str, ...]

    @property
    def uris(self) -> tuple[str, ...]:
        return (self.source.uri, *self.duplicates)


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """One shot that is kept: what generation makes as one long video."""

    video_id: str
    content: Content
    shot: int
    start: int  # on the source's resampled timeline
    stop: int
    first_segment: int  # how many segments the long videos before it in its source have
    recipe: Recipe

    @property
    def num_frames(self) -> int:
        return self.stop - self.start

    @property
    def polarity(self) -> str:
        """Of its depth: "depth" (large is far) or "disparity" (large is near)."""
        return self.content.source.depth_polarity or self.recipe.dense.polarity or ""

    @cached_property
    def segments(self) -> list[Segment]:
        return plan_segments(self.num_frames, self.recipe.segment_length)

    @cached_property
    def depth_units(self) -> list[Unit]:
        """One a stretch; none where the dense control is not depth."""
        if not self.recipe.measured:
            return []
        parts = stretches(self.num_frames, self.recipe.segment_length)
        return [self._depth_unit(index, start, stop) for index, (start, stop) in enumerate(parts)]

    def _depth_unit(self, index: int, start: int, stop: int) -> Unit:
        source = self.content.source
        supplied = None
        maker: Any = self.recipe.settings()["dense"]
        if source.depth is not None:
            supplied = {
                "uri": source.depth,
                "stamp": self.content.stamps[source.depth],
                "polarity": source.depth_polarity,
            }
            maker = [self.content.depth, source.depth_polarity]
        first, last = self.start + start, self.start + stop
        return Unit(
            stage="depth",
            name=f"{self.video_id}-{index:05d}",
            task={
                **self._source(),
                "start": first,
                "stop": last,
                "name": f"{self.video_id}/{index:05d}",
                "supplied": supplied,
            },
            decides=[self.content.sha256, self.recipe.frames(), first, last, maker],
            cost=stop - start,
            uris=self.content.uris,
            said=f"{self.video_id} frames {start}..{stop - 1}",
        )

    def control_units(self, low_high: tuple[float, float] | None) -> list[Unit]:
        """One a segment.

        Args:
            low_high: depth that becomes black and white; None where it is found per segment or there is no depth.
        """
        return [self._control_unit(segment, low_high) for segment in self.segments]

    def _control_unit(self, segment: Segment, low_high: tuple[float, float] | None) -> Unit:
        recipe, source, content = self.recipe, self.content.source, self.content
        stop = segment.start + segment.num_valid
        first, last = self.start + segment.start, self.start + stop
        pieces, depth_keys = [], []
        for unit in self.depth_units:
            start, end = unit.task["start"] - self.start, unit.task["stop"] - self.start
            if start < stop and segment.start < end:
                inside = max(segment.start, start) - start, min(stop, end) - start
                pieces.append({"name": unit.task["name"], "start": inside[0], "stop": inside[1]})
                depth_keys.append(unit.key)
        tracks: Any = recipe.settings()["sparse"]
        supplied = None
        if source.tracks:
            tracks = list(content.tracks)
            supplied = {
                "files": [{"uri": uri, "stamp": content.stamps[uri]} for uri in source.tracks],
                "index": self.first_segment + segment.index,
            }
        return Unit(
            stage="controls",
            name=self.segment_unit(segment),
            task={
                **self._source(),
                "start": first,
                "stop": last,
                "name": self.video_id,
                "index": segment.index,
                "depth": pieces,
                "range": low_high,
                "polarity": self.polarity,
                "supplied": supplied,
            },
            decides=[
                content.sha256,
                recipe.frames(),
                recipe.settings()["dense"],
                tracks,
                first,
                last,
                segment.index,
                depth_keys,
                low_high,
                recipe.scope == "segment",
            ],
            cost=segment.num_valid,
            uris=content.uris,
            said=f"{self.video_id} segment {segment.index}",
        )

    def segment_unit(self, segment: Segment) -> str:
        """The name of the units that belong to a segment."""
        return f"{self.video_id}-{segment.index:05d}"

    def caption_units(self, identity: str) -> list[Unit]:
        """One a segment, for a captioner that looks at frames."""
        return [
            Unit(
                stage="captions",
                name=self.segment_unit(segment),
                task={
                    **self._source(),
                    "start": self.start + segment.start,
                    "stop": self.start + segment.start + segment.num_valid,
                    "index": segment.index,
                    "video_id": self.video_id,
                },
                decides=[
                    self.content.sha256,
                    self.recipe.frames(),
                    self.start + segment.start,
                    segment.num_valid,
                    identity,
                ],
                cost=segment.num_valid,
                uris=self.content.uris,
                said=f"{self.video_id} segment {segment.index}",
            )
            for segment in self.segments
        ]

    def _source(self) -> dict[str, Any]:
        uri = self.content.source.uri
        return {"uri": uri, "stamp": self.content.stamps[uri]}


def source_units(sources: Sequence[Source], stamps: Mapping[str, str | None]) -> list[Unit]:
    """One a source: what its content is."""
    units = []
    for source in sources:
        files = [source.uri, *([source.depth] if source.depth else []), *source.tracks]
        units.append(
            Unit(
                stage="sources",
                name=fingerprint(source.uri)[:16],
                task={"uri": source.uri, "depth": source.depth, "tracks": list(source.tracks)},
                decides=[[uri, stamps[uri]] for uri in files],
                cost=_bytes(stamps[source.uri]),
                uris=(source.uri,),
                said="file",
            )
        )
    return units


def contents_of(
    sources: Sequence[Source],
    units: Sequence[Unit],
    commits: Mapping[str, UnitCommit],
    stamps: Mapping[str, str | None],
) -> list[Content]:
    """The contents that could be read, in their sources' order."""
    same: dict[str, list[tuple[Source, Mapping[str, Any]]]] = {}
    for source, unit in zip(sources, units, strict=True):
        if unit.name in commits:
            result = commits[unit.name].result
            same.setdefault(result["sha256"], []).append((source, result))
    contents = []
    for digest, having in same.items():
        source = canonical([source for source, _ in having])
        results = [result for _, result in having]
        contents.append(
            Content(
                source=source,
                duplicates=tuple(other.uri for other, _ in having if other.uri != source.uri),
                stamps=stamps,
                sha256=digest,
                bytes=results[0]["bytes"],
                depth=next((result["depth"] for result in results if result["depth"]), None),
                tracks=next((tuple(result["tracks"]) for result in results if result["tracks"]), ()),
            )
        )
    return contents


def scan_unit(content: Content, recipe: Recipe) -> Unit:
    """What finds the shots of a content."""
    uri = content.source.uri
    return Unit(
        stage="scan",
        name=content.sha256[:16],
        task={"uri": uri, "stamp": content.stamps[uri]},
        decides=[content.sha256, recipe.shots()],
        cost=content.bytes,
        uris=content.uris,
        said="file",
    )


def long_videos(content: Content, scan: Mapping[str, Any], recipe: Recipe) -> list[LongVideo]:
    """The shots that are kept."""
    videos: list[LongVideo] = []
    for shot, found in enumerate(scan["shots"]):
        if found["reason"] is None:
            videos.append(
                LongVideo(
                    video_id=video_id_of(content, shot),
                    content=content,
                    shot=shot,
                    start=found["start"],
                    stop=found["stop"],
                    first_segment=sum(len(video.segments) for video in videos),
                    recipe=recipe,
                )
            )
    return videos


def video_id_of(content: Content, shot: int) -> str:
    """`<stem>-<8 digits of the content's SHA-256>-<shot>`, in the letters a folder's name may have."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(content.source.uri).stem).strip(".")[:_MAX_STEM]
    return f"{stem or 'video'}-{content.sha256[:8]}-{shot:04d}"


def _bytes(stamp: str | None) -> float:
    size = (stamp or "").split("-")[0]
    return float(size) if size.isdigit() else 1.0
