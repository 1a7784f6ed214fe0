"""`longvie demo`: a held-out synthetic scene becomes controls on disk, and the ordinary job makes a long video of them.

It holds no other way to make a video: what it writes is an ordinary manifest, which may be run again by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from longvie.models.loading import PipelineConfig, read_pipeline_config
from longvie.scenes import TEST_SEEDS
from longvie.segments import plan_segments
from longvie.training.data import scene_controls
from longvie.types import Frames
from longvie.video import probe_video, read_frames, write_image, write_video
from pipelines.errors import UserError
from pipelines.generate import GenerateOptions
from pipelines.plan import ModelChoice
from pipelines.storage import check_video_id, check_writable

DEFAULT_SCENE = TEST_SEEDS[0]  # never trained on
_SHOWN_HEIGHT = 192  # pixels that a panel of the comparison has at least


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The demo's folder is the video's folder, so that its video is `<out>/video.mp4`."""

    folder: Path
    scene: int
    num_segments: int
    model: PipelineConfig
    generate: GenerateOptions

    @property
    def inputs(self) -> Path:
        return self.folder / "input"

    @property
    def num_frames(self) -> int:
        return self.num_segments * (self.model.segment_length - 1) + 1


def demo_options(
    out: str, scene: int, num_segments: int, model: str | None, workers: int | None, restart: bool = False
) -> DemoOptions:
    """Check what the user gave; writes nothing."""
    if num_segments < 1:
        raise UserError(f"--segments is {num_segments}; give 1 or more")
    if scene < 0:
        raise UserError(f"--scene is {scene}; give 0 or more")
    if "://" in out:
        raise UserError(f"--out {out}: the demo writes to a local folder; longvie generate writes anywhere")
    folder = Path(out).expanduser().absolute()
    check_writable(str(folder))
    video_id = check_video_id(folder.name, f"--out {out}: the folder's name")
    return DemoOptions(
        folder=folder,
        scene=scene,
        num_segments=num_segments,
        model=read_pipeline_config(model),
        generate=GenerateOptions(
            source=str(folder / "input" / "manifest.jsonl"),
            out=str(folder.parent),
            video_id=video_id,
            model=ModelChoice(model=model),
            restart=restart,
            workers=workers,
        ),
    )


def write_inputs(options: DemoOptions) -> None:
    """Render the scene and write its controls, first frame and manifest; equal scenes give equal bytes."""
    model, inputs = options.model, options.inputs
    inputs.mkdir(parents=True, exist_ok=True)
    scene = scene_controls(options.scene, options.num_frames, model.segment_length, model.height, model.width)
    write_video(inputs / "source.mp4", scene.frames, model.fps)
    write_video(inputs / "dense.mp4", scene.dense, model.fps)
    sparse = [f"sparse_{index:05d}.mp4" for index in range(options.num_segments)]
    for name, frames in zip(sparse, scene.sparse_by_segment, strict=True):
        write_video(inputs / name, frames, model.fps)  # tracks start anew in each segment
    write_image(inputs / "first.png", scene.frames[0])
    row = {
        "video_id": options.folder.name,
        "first_frame": "first.png",
        "dense": "dense.mp4",
        "sparse": sparse,
        "prompt": scene.caption,
        "seed": 0,
        "num_frames": options.num_frames,
    }
    (inputs / "manifest.jsonl").write_text(json.dumps(row) + "\n")


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
    return [options.folder / "video.mp4", comparison, strip]


def _panels(options: DemoOptions) -> Iterator[Frames]:
    """The four side by side, enlarged, one segment's new frames at a time."""
    inputs, model = options.inputs, options.model
    video = options.folder / "video.mp4"
    scale = -(-_SHOWN_HEIGHT // probe_video(video).height)
    for segment in plan_segments(options.num_frames, model.segment_length):
        new = segment.new_frames
        start, stop = segment.start + new.start, segment.start + new.stop
        shown = [
            read_frames(inputs / "source.mp4", start, stop),
            read_frames(inputs / "dense.mp4", start, stop),
            read_frames(inputs / f"sparse_{segment.index:05d}.mp4", new.start, new.stop),
            read_frames(video, start, stop),
        ]
        beside = torch.cat(shown, dim=2)
        yield beside.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
