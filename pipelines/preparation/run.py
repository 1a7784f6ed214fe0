"""One run of preparation over one OUT: its passes in order, and what is known after each.

The driver's side: it plans units from commits, sees that what is missing is made, and puts together what came of it.
It holds no frame.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.fetch import stamp_of
from pipelines.preparation import outputs, statistics
from pipelines.preparation.caption_stage import CaptionStage, given_prompts
from pipelines.preparation.control_stage import ControlStage
from pipelines.preparation.depth_stage import HISTOGRAM, DepthStage, depth_file
from pipelines.preparation.long_videos import Content, LongVideo, contents_of, long_videos, scan_unit, source_units
from pipelines.preparation.options import PROMPT, PrepareOptions
from pipelines.preparation.outputs import Prepared
from pipelines.preparation.pass_run import PassRun, StageSummary
from pipelines.preparation.recipe import STAGES, Recipe, seconds_a_cost
from pipelines.preparation.sources import Source
from pipelines.preparation.stages import ScanStage, SourcesStage
from pipelines.preparation.tidy import clean
from pipelines.preparation.units import Made, Unit, UnitCommit

_STAMPERS = 16  # files asked for their date at once
CAPTION_CPUS = 0.25  # of a caption worker: it waits for a server most of the time


@dataclass(kw_only=True)
class Summary:
    """What a run came to."""

    out: str
    num_sources: int
    num_contents: int
    num_videos: int  # that are whole: in manifest.jsonl
    num_segments: int
    num_rejected: int  # shots left out by a filter
    errors: list[dict[str, Any]]
    stages: list[StageSummary]

    def failed(self, strict: bool) -> bool:
        """Whether the run is a failure: nothing came out, or something is missing and that is not allowed."""
        return not self.num_videos or (strict and bool(self.errors))


@dataclass(kw_only=True)
class PrepareRun(PassRun):
    """One run over one OUT: its passes, and what is known after each."""

    options: PrepareOptions
    recipe: Recipe

    def seconds_a_cost(self, stage: str) -> float:
        return seconds_a_cost(stage, self.recipe)

    def all(self, sources: Sequence[Source]) -> Summary:
        """Every pass, then the tables; what it came to."""
        contents = self.read(sources)
        scans = self.scan(contents)
        videos = [video for content, scan in scans for video in long_videos(content, scan, self.recipe)]
        _check_ids(videos)
        ranged = self.measure(videos)
        prompts = self.caption(videos, scans)
        prepared = Prepared(
            recipe=self.recipe,
            contents=scans,
            videos=videos,
            ranged=ranged,
            controls=self.known.get("controls", {}),
            prompts=prompts,
            errors=sorted(self.errors, key=lambda row: (row["source"], STAGES.index(row["stage"]), row["unit"])),
        )
        self.finish(prepared)
        whole = [video for video in videos if prepared.whole(video)]
        return Summary(
            out=self.storage.uri,
            num_sources=len(sources),
            num_contents=len(contents),
            num_videos=len(whole),
            num_segments=sum(len(video.segments) for video in whole),
            num_rejected=sum(shot["reason"] is not None for _, scan in scans for shot in scan["shots"]),
            errors=[dict(row) for row in prepared.errors],
            stages=self.stages,
        )

    def read(self, sources: Sequence[Source]) -> list[Content]:
        """Which contents there are."""
        uris = sorted({uri for source in sources for uri in (source.uri, source.depth, *source.tracks) if uri})
        with ThreadPoolExecutor(_STAMPERS) as pool:
            stamps = dict(zip(uris, pool.map(stamp_of, uris), strict=True))
        units = source_units(sources, stamps)
        commits = self.make("sources", SourcesStage, units)
        return contents_of(sources, units, commits, stamps)

    def scan(self, contents: Sequence[Content]) -> list[tuple[Content, Mapping[str, Any]]]:
        """Which shots they have."""
        units = {scan_unit(content, self.recipe).name: content for content in contents}
        longest_first = sorted((scan_unit(content, self.recipe) for content in contents), key=lambda unit: -unit.cost)
        commits = self.make("scan", functools.partial(ScanStage, self.recipe), longest_first)
        return [(content, commits[name].result) for name, content in units.items() if name in commits]

    def measure(self, videos: Sequence[LongVideo]) -> list[LongVideo]:
        """Depth and controls; the long videos whose depth is complete."""
        depth = {unit.name: unit for video in videos for unit in video.depth_units}
        stage = functools.partial(DepthStage, self.recipe)
        commits = self.make("depth", stage, list(depth.values()), _has_histogram) if self.recipe.measured else {}
        ranged = [video for video in videos if all(unit.name in commits for unit in video.depth_units)]
        if self.recipe.measured:
            ranges = statistics.find_ranges(self.storage, ranged)
            by_id = {video.video_id: video for video in ranged}
            for video_id, reason in ranges.failed.items():
                self.fail(by_id[video_id].content.uris, "depth", video_id, reason, 1)
            ranged = [video for video in ranged if video.video_id in ranges.by_video]
            low_high = ranges.by_video
        else:
            low_high = dict.fromkeys([video.video_id for video in ranged], None)
        controls = [unit for video in ranged for unit in video.control_units(low_high[video.video_id])]
        if self.recipe.measured:
            there = self.store.committed(controls)
            needed = {
                f"{piece['name'].replace('/', '-')}"
                for unit in controls
                if unit.name not in there
                for piece in unit.task["depth"]
            }
            gone = [unit for name, unit in depth.items() if name in needed]
            sizes = self.store.sizes(["depth"])
            gone = [unit for unit in gone if not commits[unit.name].in_place(sizes)]
            if gone:  # its depth was not kept, and some of its controls are to be made again
                self.make("depth", stage, gone)
        self.make("controls", functools.partial(ControlStage, self.recipe), controls)
        return ranged

    def caption(
        self, videos: Sequence[LongVideo], scans: Sequence[tuple[Content, Mapping[str, Any]]]
    ) -> dict[str, str]:
        """A prompt for each segment, by unit: given ones first, then the captioner's or the one for all."""
        prompts: dict[str, str] = {}
        open_videos: list[LongVideo] = []
        of_content: dict[str, list[LongVideo]] = {}
        for video in videos:
            of_content.setdefault(video.content.sha256, []).append(video)
        for content, scan in scans:
            own = of_content.get(content.sha256, [])
            try:
                given = given_prompts(content, scan["num_frames"], own, sidecars=self.options.sidecars)
            except UserError as error:
                self.fail(content.uris, "captions", "file", str(error), 1)
                continue
            prompts |= given
            open_videos += [] if given else own
        captioner = self.options.captioner
        if captioner is None:
            text = self.options.prompt or PROMPT
            return prompts | {video.segment_unit(s): text for video in open_videos for s in video.segments}
        units = [unit for video in open_videos for unit in video.caption_units(captioner.identity)]
        commits = self.make("captions", functools.partial(CaptionStage, self.recipe, captioner), units)
        return prompts | {name: commit.result["prompt"] for name, commit in commits.items()}

    def finish(self, prepared: Prepared) -> None:
        """The tables, manifests and the report; then everything goes that nothing vouches for."""
        written = {"cond_json": self.options.cond_json, "report": self.options.report}
        unit = Unit(
            stage="outputs",
            name="outputs",
            task={},
            decides=[prepared.decides(), written],
            cost=0,
            uris=(),
            said="tables",
        )
        commit = self.store.exists(unit.stage, unit.name, unit.key)
        if commit is None:
            with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
                outputs.write_outputs(prepared, self.storage, Path(folder), **written)
                commit = self.store.commit(unit.stage, unit.name, unit.key, Made(folder=Path(folder)))
        self.known["outputs"] = {unit.name: commit}
        dropped = set() if self.options.keep_depth else _no_longer_needed(prepared)
        clean(self.storage, self.known, dropped, keep_others=any(row["stage"] == "sources" for row in self.errors))


def _has_histogram(commit: UnitCommit, sizes: Mapping[str, int]) -> bool:
    """Whether a stretch is done: its depth may be gone where it was not kept, its histogram stays."""
    return all(
        sizes.get(name) == said["bytes"]
        for name, said in commit.files.items()
        if name.endswith(HISTOGRAM) or name in sizes
    )


def _no_longer_needed(prepared: Prepared) -> set[str]:
    """The depth files of long videos whose controls are all there."""
    whole = [video for video in prepared.videos if prepared.whole(video)]
    return {depth_file(unit.task["name"]) for video in whole for unit in video.depth_units}


def _check_ids(videos: Sequence[LongVideo]) -> None:
    seen: dict[str, LongVideo] = {}
    for video in videos:
        other = seen.setdefault(video.video_id, video)
        if other is not video:
            raise UserError(
                f"{video.content.source.uri} and {other.content.source.uri} would both be {video.video_id}; rename one"
            )
