"""The stage that scores one segment of one run. Its frames are decoded once, for all metrics.

The true frames and their flow are kept from one unit to the next: units of the same true segment follow each other
(units.py), so runs and baselines share them. Memory: the two segments as RGB, that flow, and batches of frames as
float; flat in the length of the video.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray

from longvie.controls.loading import load_depth_estimator, load_point_tracker
from longvie.controls.tracks import PointTracker, Tracks
from longvie.media import Video, local_path, resampled
from longvie.metrics import adherence, temporal
from longvie.metrics.fidelity import Lpips, fidelity, load_lpips
from longvie.segments import Segment
from pipelines.evaluation.ceiling import Ceiling
from pipelines.evaluation.options import FROZEN, TRUTH, VAE
from pipelines.storage import Storage

BATCH_PIXELS = 1 << 20  # of frames scored at once: as float, with what SSIM holds beside, some 200 MB
_FLOW_BYTES = 256 << 20  # of a segment's flow that is kept for the next run; larger ones are measured again
WHOLE = -1  # frame number of what concerns a segment as a whole

SCORES = pa.schema(
    [
        pa.field("run", pa.string(), metadata={"meaning": "as named; frozen, vae and truth are baselines"}),
        pa.field("take", pa.int32(), metadata={"meaning": "which folder of that run, from 0; another noise seed each"}),
        pa.field("seed", pa.int64(), metadata={"meaning": "of the noise; null for baselines"}),
        pa.field("video", pa.string()),
        pa.field("segment", pa.int32(), metadata={"meaning": "-1: of the whole video"}),
        pa.field("frame", pa.int32(), metadata={"meaning": "of the long video; -1: of the whole segment"}),
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64(), metadata={"meaning": "always a number: what is undefined has no row"}),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What decides scores beside the videos."""

    depth: str
    depth_fingerprint: str
    depth_polarity: str
    tracker: str
    tracker_fingerprint: str
    lpips: bool
    vae: str | None  # folder of the model, '#', fingerprint of its VAE's weights
    threads: int
    device: str


class ScoreStage:
    """Scores of the new frames of one segment.

    Task: `run`, `take`, `seed`, `video`; `segment` (index, start, num_valid); `kind` (generated or a baseline's
    name); `made`, URIs of the segment and the one before (generated only); `truth`, its source and what decides its
    frames; `dense`, `tracks`, `range`, `polarity`. Result: the file of scores, and how many values were undefined.
    """

    name: ClassVar[str] = "score"

    def __init__(self, settings: ScoreSettings, _storage: Storage) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._depth = load_depth_estimator(settings.depth, device=settings.device)
        self._tracker: PointTracker = load_point_tracker(settings.tracker, device=settings.device)
        self._lpips: Lpips | None = load_lpips() if settings.lpips else None
        self._flow = temporal.DisFlow()
        self._ceiling: Ceiling | None = None
        self._truth = TrueSegments(self._flow)

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        segment = Segment(**task["segment"], num_frames=task["segment"]["num_valid"])
        truth = self._truth.frames(task["truth"], segment)
        made = self._made_frames(task, segment, truth)
        new = segment.new_frames
        values: list[tuple[int, str, float]] = []

        def add(frame: int, metric: str, value: float) -> None:
            values.append((frame, metric, float(value)))

        if task["kind"] != TRUTH:
            for metric, scores in self._fidelity(made[new], truth[new]).items():
                for at, value in enumerate(scores, segment.start + (new.start or 0)):
                    add(at, metric, value)
        self._temporal(made, truth, segment, add)
        self._adherence(made, task, add)
        rows = [
            {"segment": segment.index, "frame": frame, "metric": metric, "value": value}
            | {name: task[name] for name in ("run", "take", "seed", "video")}
            for frame, metric, value in values
            if math.isfinite(value)
        ]
        file = f"scores/{task['run']}-{task['take']}/{task['video']}-{segment.index:05d}.parquet"
        (folder / file).parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, SCORES), folder / file, compression="zstd")
        undefined = sorted({metric for _, metric, value in values if not math.isfinite(value)})
        return {"scores": file, "num_scores": len(rows), "undefined": undefined}

    def _made_frames(
        self, task: Mapping[str, Any], segment: Segment, truth: UInt8[ndarray, "t h w 3"]
    ) -> UInt8[ndarray, "t h w 3"]:
        """The segment's frames, with the one it shares with the segment before."""
        if task["kind"] == TRUTH:
            return truth
        if task["kind"] == FROZEN:
            first = self._truth.first(task["truth"])
            return np.repeat(first, segment.num_valid, axis=0)
        if task["kind"] == VAE:
            if self._ceiling is None:
                assert self._settings.vae is not None
                self._ceiling = Ceiling(self._settings.vae.partition("#")[0], self._settings.device)
            return self._ceiling(truth)
        pieces = []
        if segment.index:
            before = Video(local_path(task["made"][0]))
            pieces.append(before.read([before.info.num_frames - 1]))
        video = Video(local_path(task["made"][-1]))
        pieces.append(video.read(range(video.info.num_frames)))
        frames = np.concatenate(pieces)
        if frames.shape != truth.shape:
            raise ValueError(f"{task['made'][-1]} gives frames {frames.shape}, the true ones are {truth.shape}")
        return frames

    @torch.inference_mode()
    def _fidelity(self, made: UInt8[ndarray, "t h w 3"], truth: UInt8[ndarray, "t h w 3"]) -> dict[str, ndarray]:
        batch = max(1, BATCH_PIXELS // (made.shape[1] * made.shape[2]))
        found: dict[str, list[ndarray]] = {}
        for start in range(0, len(made), batch):
            pair = [torch.from_numpy(frames[start : start + batch]) for frames in (made, truth)]
            for metric, scores in fidelity(pair[0], pair[1], self._lpips).items():
                found.setdefault(metric, []).append(scores.numpy())
        return {metric: np.concatenate(parts) for metric, parts in found.items()}

    def _temporal(
        self, made: UInt8[ndarray, "t h w 3"], truth: UInt8[ndarray, "t h w 3"], segment: Segment, add: Any
    ) -> None:
        height, width = made.shape[1:3]
        jump = temporal.jumps(made)
        motions = []
        for pair, score in enumerate(temporal.flickering(jump)):
            at = segment.start + pair + 1
            there, seen = self._truth.flow(pair)
            own = there if made is truth else self._flow(made[pair], made[pair + 1])
            motions.append(temporal.largest_motion(own))
            add(at, "flickering", score)
            add(at, "warping_error", temporal.warping_error(made[pair], made[pair + 1], there, seen))
            add(at, "motion", 100 * motions[-1] / min(height, width))
        add(WHOLE, "boundary_ratio", temporal.boundary_ratio(jump, segment))
        if motions:
            add(WHOLE, "dynamic_degree", temporal.is_dynamic(np.array(motions), height, width))

    def _adherence(self, made: UInt8[ndarray, "t h w 3"], task: Mapping[str, Any], add: Any) -> None:
        height, width = made.shape[1:3]
        if task["range"] is not None:
            grey = Video(local_path(task["dense"])).read(range(len(made)))[..., 0]
            low, high = task["range"]
            scores = adherence.depth_adherence(
                self._depth(made), self._depth.polarity, grey, low, high, task["polarity"]
            )
            for metric, value in scores.items():
                add(WHOLE, metric, value)
        if task["tracks"] is not None and len(made) > 1:
            tracks = Tracks.load(local_path(task["tracks"]))
            truth = Tracks(points=tracks.points[: len(made)], visibility=tracks.visibility[: len(made)])
            again = self._tracker(made, truth.points[0])
            for metric, value in adherence.track_adherence(again, truth, height, width).items():
                add(WHOLE, metric, value)
            add(WHOLE, "track_colour", adherence.track_colour(made, truth))


class TrueSegments:
    """The true frames of one segment and their flow, as long as the same segment is asked for."""

    def __init__(self, flow: temporal.DisFlow) -> None:
        self._flow = flow
        self._key: tuple[str, int, int] | None = None
        self._frames = np.empty((0, 0, 0, 3), np.uint8)
        self._flows: dict[int, tuple[temporal.Flow, Bool[ndarray, "h w"]]] = {}
        self._first: tuple[tuple[str, int], UInt8[ndarray, "1 h w 3"]] | None = None
        self.num_decoded = 0

    def frames(self, truth: Mapping[str, Any], segment: Segment) -> UInt8[ndarray, "t h w 3"]:
        """The segment's frames, with the one it shares with the segment before. Not to be written to."""
        key = (truth["uri"], truth["start"] + segment.start, segment.num_valid)
        if key != self._key:
            self._frames, self._flows = _true_frames(truth, segment), {}
            self._key = key
            self.num_decoded += 1
        return self._frames

    def first(self, truth: Mapping[str, Any]) -> UInt8[ndarray, "1 h w 3"]:
        """The video's first frame."""
        key = (truth["uri"], truth["start"])
        if self._first is None or self._first[0] != key:
            self._first = key, _true_frames(truth, Segment(index=0, start=0, num_frames=1, num_valid=1))
        return self._first[1]

    def flow(self, pair: int) -> tuple[temporal.Flow, Bool[ndarray, "h w"]]:
        """From frame `pair` to the next, and where it holds: what is seen in both."""
        if pair in self._flows:
            return self._flows[pair]
        one, two = self._frames[pair], self._frames[pair + 1]
        there = self._flow(one, two)
        found = there, temporal.visible(there, self._flow(two, one))
        if len(self._frames) * there.nbytes <= _FLOW_BYTES:
            self._flows[pair] = found
        return found


def _true_frames(truth: Mapping[str, Any], segment: Segment) -> UInt8[ndarray, "t h w 3"]:
    start = truth["start"] + segment.start
    batches = resampled(local_path(truth["uri"]), **truth["frames"], start=start, stop=start + segment.num_valid)
    return np.concatenate(list(batches))
