"""`longvie demo`: a real video or a synthetic scene through the ordinary jobs: prepared, then made anew.

It holds no other way to prepare or to generate: what it leaves are an ordinary prepared folder and an ordinary
manifest, which may be run again by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from longvie.controls.render import uniform_grid
from longvie.media import resampled
from longvie.models.loading import PipelineConfig, read_pipeline_config
from longvie.scenes import render_scene
from longvie.segments import plan_segments
from longvie.training.data import GRID
from longvie.types import Frames
from longvie.video import read_frames, write_image, write_video
from pipelines import cluster
from pipelines.errors import UserError
from pipelines.generation.generate import GenerateOptions
from pipelines.generation.plan import ModelChoice
from pipelines.preparation.estimators import SUPPLIED
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.outputs import MANIFEST
from pipelines.preparation.prepare import prepare
from pipelines.progress import Report
from pipelines.storage import check_video_id, check_writable

EXCERPT = Path(__file__).parent.parent / "examples" / "big_buck_bunny.mp4"
PROMPT = "a video"  # what the embedded model was told of films
_SHOWN_HEIGHT = 192  # pixels that a panel of the comparison has at least


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The demo's folder is the video's folder, so that its video is `<out>/video.mp4`.

    Args:
        source: a video, its longest shot is taken; None for the scene.
        scene: seed of a synthetic scene, whose depth and tracks are exact; None for the source.
        num_segments: at most; a shorter video is made as long as it is.
    """

    folder: Path
    source: str | None
    scene: int | None
    num_segments: int
    model_name: str | None
    model: PipelineConfig
    workers: int | None
    restart: bool

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    @property
    def manifest(self) -> Path:
        return self.folder / "input" / MANIFEST

    @property
    def generate(self) -> GenerateOptions:
        return GenerateOptions(
            source=str(self.manifest),
            out=str(self.folder.parent),
            video_id=self.folder.name,
            model=ModelChoice(model=self.model_name),
            workers=self.workers,
            restart=self.restart,
        )

    @property
    def num_frames(self) -> int:
        return self.num_segments * (self.model.segment_length - 1) + 1


def demo_options(
    out: str,
    source: str | None = None,
    scene: int | None = None,
    num_segments: int = 6,
    model: str | None = None,
    workers: int | None = None,
    restart: bool = False,
) -> DemoOptions:
    """Check what the user gave; writes nothing."""
    if num_segments < 1:
        raise UserError(f"--segments is {num_segments}; give 1 or more")
    if scene is not None and scene < 0:
        raise UserError(f"--scene is {scene}; give 0 or more")
    if scene is not None and source is not None:
        raise UserError("--scene and a video exclude each other; give one")
    if scene is None and source is None:
        if not EXCERPT.is_file():
            raise UserError(f"{EXCERPT} is not there (it comes with the repository); give a video, or --scene 2000000")
        source = str(EXCERPT)
    if "://" in out:
        raise UserError(f"--out {out}: the demo writes to a local folder; longvie generate writes anywhere")
    folder = Path(out).expanduser().absolute()
    check_writable(str(folder))
    check_video_id(folder.name, f"--out {out}: the folder's name")
    return DemoOptions(
        folder=folder,
        source=source,
        scene=scene,
        num_segments=num_segments,
        model_name=model,
        model=read_pipeline_config(model),
        workers=workers,
        restart=restart,
    )


def one_ray(options: DemoOptions) -> AbstractContextManager[None]:
    """One Ray for both jobs; none with `workers=0`."""
    return nullcontext() if options.workers == 0 else cluster.cluster()


def write_inputs(options: DemoOptions, report: Report) -> None:
    """Prepare the source and write a manifest of its longest shot; equal inputs give equal bytes."""
    if options.scene is not None:
        source, prompt = _write_scene(options, options.scene)
    else:
        source, prompt = str(options.source), PROMPT
    summary = prepare(
        PrepareOptions(
            inputs=(source,),
            out=str(options.prepared),
            model=options.model_name or "tiny",
            cuts=options.scene is None,
            depth=SUPPLIED if options.scene is not None else "builtin",
            prompt=prompt,
            workers=options.workers,
            restart=options.restart,
        ),
        report,
    )
    if summary.errors:
        raise UserError(f"{summary.errors[0]['source']}: {summary.errors[0]['error']}")
    rows = [json.loads(line) for line in (options.prepared / MANIFEST).read_text().splitlines()]
    if not rows:
        raise UserError(f"{source} has no shot of at least {options.model.segment_length // 2} frames; give another")
    row = _beside(max(rows, key=lambda row: row["num_frames"]))
    count = min(row["num_frames"], options.num_frames)
    segments = len(plan_segments(count, options.model.segment_length))
    row |= {"video_id": options.folder.name, "num_frames": count, "seed": 0}
    for name in ("dense", "sparse", "prompts"):
        row[name] = row[name][:segments]
    options.manifest.parent.mkdir(parents=True, exist_ok=True)
    options.manifest.write_text(json.dumps(row) + "\n")


def compare(options: DemoOptions) -> list[Path]:
    """Write comparison.mp4 and strip.png: source | depth | tracks | generated. Returns what there is to look at."""
    comparison, strip = options.folder / "comparison.mp4", options.folder / "strip.png"
    firsts: list[Frames] = []

    def panels() -> Iterator[Frames]:
        for rows in _panels(options):
            firsts.append(rows[:1])
            yield rows

    write_video(comparison, panels(), options.model.fps)
    write_image(strip, torch.cat([first[0] for first in firsts]))
    return [options.folder / "video.mp4", comparison, strip, options.prepared / "report.html"]


def _panels(options: DemoOptions) -> Iterator[Frames]:
    """The four side by side, enlarged, one segment's new frames at a time."""
    model, video = options.model, options.folder / "video.mp4"
    row = json.loads(options.manifest.read_text())
    segments = _segments_of(options.prepared, row["sparse"])
    scale = -(-_SHOWN_HEIGHT // model.height)
    for segment in plan_segments(row["num_frames"], model.segment_length):
        new, prepared = segment.new_frames, segments[segment.index]
        at = prepared["source_start"]
        (source,) = resampled(
            prepared["source"],
            fps=model.fps,
            height=model.height,
            width=model.width,
            start=at + new.start,
            stop=at + new.stop,
            batch=segment.num_frames,
        )
        shown = [
            torch.from_numpy(source),
            read_frames(options.prepared / prepared["dense"], new.start, new.stop),
            read_frames(options.prepared / prepared["sparse"], new.start, new.stop),
            read_frames(video, segment.start + new.start, segment.start + new.stop),
        ]
        beside = torch.cat(shown, dim=2)
        yield beside.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)


def _segments_of(prepared: Path, sparse: list[str]) -> list[dict[str, Any]]:
    """The rows of segments.parquet whose sparse controls these are, in order."""
    table = pyarrow.parquet.read_table(prepared / "segments.parquet")
    names = [name.removeprefix(f"../{prepared.name}/") for name in sparse]
    rows = {row["sparse"]: row for row in table.filter(pc.field("sparse").isin(names)).to_pylist()}
    return [rows[name] for name in names]


def _beside(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the prepared manifest as it reads from the folder beside."""

    def moved(name: str) -> str:
        return f"../prepared/{name}"

    return row | {
        "first_frame": moved(row["first_frame"]),
        "dense": [moved(name) for name in row["dense"]],
        "sparse": [moved(name) for name in row["sparse"]],
    }


def _write_scene(options: DemoOptions, seed: int) -> tuple[str, str]:
    """Render a scene: its video, exact depth and exact tracks, named by a manifest; the manifest and a caption."""
    model, folder = options.model, options.folder / "input"
    folder.mkdir(parents=True, exist_ok=True)
    scene = render_scene(seed, options.num_frames, model.height, model.width)
    write_video(folder / "scene.mp4", torch.from_numpy(scene.frames), model.fps)
    np.save(folder / "scene_depth.npy", scene.depth)
    grid = uniform_grid(model.height, model.width, *GRID)
    names = []
    for segment in plan_segments(options.num_frames, model.segment_length):
        tracks, visibility, _ = scene.tracks(segment.start, segment.num_valid, grid)
        names.append(f"scene_tracks_{segment.index:05d}.npz")
        np.savez_compressed(folder / names[-1], tracks=tracks, visibility=visibility)
    row = {"uri": "scene.mp4", "depth": "scene_depth.npy", "depth_polarity": "depth", "tracks": names}
    (folder / "scene.jsonl").write_text(json.dumps(row) + "\n")
    return str(folder / "scene.jsonl"), scene.caption
