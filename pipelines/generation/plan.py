"""From a user's rows to jobs: all that decides a video is read, checked and fingerprinted here, before work begins.

It writes nothing. What the folder already holds, and whether it may be continued, is continuation.py's question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longvie.config import GenerationConfig, check_size
from longvie.models.checkpoints import CheckpointError, account_files
from longvie.models.loading import PipelineConfig, check_components, fingerprint, read_pipeline_config
from longvie.segments import num_segments, plan_segments
from longvie.video import VideoError, read_image
from pipelines.errors import UserError
from pipelines.generation.control_files import ControlFile, ControlFiles, file_starts, sha256_of
from pipelines.generation.inputs import Row

DTYPES = ("float32", "bfloat16", "float16")
MAX_SEGMENTS = 100_000  # of one video: their files' names have five digits
_PROBES = 8  # files looked at at once; decoding releases Python's lock


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which weights, as every worker loads them; paths must mean the same on every node."""

    model: str | None = None  # None: the embedded tiny model
    control: str | None = None
    attention: str | None = None

    def check(self) -> PipelineConfig:
        """The model's configuration. `CheckpointError`, in one line, unless all weights are there and fit."""
        config = read_pipeline_config(self.model)
        check_components(config.path)
        failures = [a for a in account_files(config.path, self.control, self.attention) if not a.fits]
        if failures:
            first = failures[0]
            lists = (("missing", first.missing), ("unexpected", first.unexpected), ("mis-shaped", first.misshaped))
            keys = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in lists if keys)
            files = ", ".join(map(str, first.files[:2])) + (", ..." if len(first.files) > 2 else "")
            raise CheckpointError(
                f"{first.role} weights ({files}) do not fit the model: {keys}; see longvie model check"
            )
        return config

    def fingerprint(self) -> str:
        return fingerprint(self.model, self.control, self.attention)

    def absolute(self) -> ModelChoice:
        """The same choice for processes with another working folder; hub names stay as they are."""

        def path(given: str | None) -> str | None:
            return given if given is None or not Path(given).exists() else str(Path(given).absolute())

        return ModelChoice(model=path(self.model), control=path(self.control), attention=path(self.attention))


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A finished video that another continues: its file, and what its last segment left behind, with its SHA-256."""

    video: str
    carry: str
    carry_sha256: str


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """One long video, checked: what is asked for, independent of what its folder holds."""

    video_id: str
    first_frame: str
    first_frame_sha256: str
    controls: ControlFiles
    prompts: tuple[str, ...]  # one a segment
    seed: int | None  # None: the row says none
    num_frames: int
    segment_length: int
    fps: float
    config: GenerationConfig
    beginning: Beginning | None = None  # where it continues another: frame 0 is the other's last, not made anew

    @property
    def num_segments(self) -> int:
        return num_segments(self.num_frames, self.segment_length)

    def settings(self, model_fingerprint: str, machine: Mapping[str, Any]) -> dict[str, Any]:
        """Everything, beside prompts and seeds, that decides frames: what may never be mixed within one video."""
        config = asdict(self.config)
        if config["history"]:
            del config["history"]  # as in folders that were begun before there was a choice
        return {
            "model": model_fingerprint,
            **config,
            **machine,
            "num_frames": self.num_frames,
            "segment_length": self.segment_length,
            "fps": self.fps,
            "first_frame": self.first_frame_sha256,
            "dense": [file.sha256 for file in self.controls.dense],
            "sparse": [file.sha256 for file in self.controls.sparse],
            **({"beginning": self.beginning.carry_sha256} if self.beginning else {}),
        }

    def inputs(self) -> dict[str, Any]:
        """Where everything came from, for manifest.json."""
        return {
            "first_frame": self.first_frame,
            "dense": [file.uri for file in self.controls.dense],
            "sparse": [file.uri for file in self.controls.sparse],
        }


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """A plan with its prompts, seeds and links decided: what a worker is given."""

    plan: VideoPlan
    prompts: tuple[str, ...]  # one a segment, as in force
    seeds: tuple[int, ...]
    links: tuple[str, ...]  # one a segment; see commits.py

    @property
    def video_id(self) -> str:
        return self.plan.video_id

    @property
    def num_segments(self) -> int:
        return len(self.links)


def plan_videos(
    rows: Sequence[Row],
    model: PipelineConfig,
    overrides: Mapping[str, Any],
    num_frames: int | None = None,
) -> list[VideoPlan]:
    """Read and check every file the rows name.

    Args:
        overrides: fields of `GenerationConfig` given by the user, or None for the model's default.
        num_frames: for rows that do not say; default: all the controls have.
    """
    try:
        config = GenerationConfig.for_pipeline(model.defaults(), **overrides)
        check_size(config.height, config.width, model.size_multiple)
    except ValueError as error:
        raise UserError(str(error)) from error
    files = _describe(rows)
    return [_plan(row, model, config, num_frames, files) for row in rows]


def _plan(
    row: Row, model: PipelineConfig, config: GenerationConfig, num_frames: int | None, files: Mapping[str, ControlFile]
) -> VideoPlan:
    dense, sparse = (tuple(files[uri] for uri in uris) for uris in (row.dense, row.sparse))
    try:
        controls = ControlFiles(dense=dense, sparse=sparse, height=config.height, width=config.width, fit=config.fit)
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error
    available = controls.num_frames
    wanted = row.num_frames or num_frames or available
    if wanted is None:
        raise UserError(f"{row.where}, field num_frames: missing; without controls nothing says how long the video is")
    if available is not None and wanted > available:
        raise UserError(f"{row.where}, field num_frames: {wanted}, but the controls have {available} frames")
    if num_segments(wanted, model.segment_length) > MAX_SEGMENTS:
        most = MAX_SEGMENTS * (model.segment_length - 1) + 1
        raise UserError(
            f"{row.where}, field num_frames: {wanted}; a video has at most {most} ({MAX_SEGMENTS} segments)"
        )
    try:
        read_image(row.first_frame)
    except VideoError as error:
        raise UserError(f"{row.where}, field first_frame: {error}") from error
    return VideoPlan(
        video_id=row.video_id,
        first_frame=row.first_frame,
        first_frame_sha256=sha256_of(row.first_frame),
        controls=controls,
        prompts=_prompts(row, dense or sparse, wanted, model.segment_length),
        seed=row.seed,
        num_frames=wanted,
        segment_length=model.segment_length,
        fps=float(model.fps),
        config=config,
    )


def _prompts(row: Row, files: tuple[ControlFile, ...], num_frames: int, segment_length: int) -> tuple[str, ...]:
    """One prompt a segment. A prompt holds from its start on; a segment takes the one its first frame lies in."""
    segments = plan_segments(num_frames, segment_length)
    texts = [text for _, text in row.prompts]
    if row.prompts[0][0] is not None:
        starts = [start for start, _ in row.prompts if start is not None]
    elif len(texts) == 1:
        return tuple(texts * len(segments))
    elif len(texts) == len(files):
        starts = file_starts(files)
    elif len(texts) == len(segments):
        return tuple(texts)
    else:
        files_said = f", one a control file ({len(files)})" if len(files) > 1 else ""
        raise UserError(
            f"{row.where}, field prompts: {len(texts)} texts; give one, one a segment ({len(segments)}: {num_frames} "
            f"frames, {segment_length} a segment){files_said}, or objects with start and text"
        )
    if starts[-1] >= num_frames and len(texts) != len(files):
        raise UserError(
            f"{row.where}, field prompts: the last starts at frame {starts[-1]}, the video has {num_frames} frames"
        )
    chosen = []
    for segment in segments:
        chosen.append(next(t for s, t in zip(reversed(starts), reversed(texts), strict=True) if s <= segment.start))
    return tuple(chosen)


def _describe(rows: Sequence[Row]) -> dict[str, ControlFile]:
    """Probe each control file once, several at a time; the first fault in the rows' order is the one reported."""
    named: dict[str, str] = {}
    for row in rows:
        for field, uris in (("dense", row.dense), ("sparse", row.sparse)):
            for i, uri in enumerate(uris):
                named.setdefault(uri, f"{row.where}, field {field}" + (f"[{i}]" if len(uris) > 1 else ""))
    with ThreadPoolExecutor(_PROBES) as pool:
        futures = {uri: pool.submit(ControlFile.describe, uri) for uri in named}
        described = {}
        for uri, future in futures.items():
            try:
                described[uri] = future.result()
            except VideoError as error:
                pool.shutdown(cancel_futures=True)
                raise UserError(f"{named[uri]}: {error}") from error
    return described


def _some(keys: Sequence[str], most: int = 3) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
