"""`longvie scenes`: synthetic videos with exact depth and tracks and a prompt a segment, prepared as any video is.

A unit is a video; it exists when its commit does. Frames are drawn, encoded and let go one by one.

    <out>/source/videos/<stem>.mp4        all frames
                 depth/<stem>.npy         camera z, float16 (t, h, w)
                 tracks/<stem>/00000.npz  of each segment, float32
                 manifest.jsonl           what prepare is told
                 commits/, scenes.json    what exists, and of which settings
    <out>/scenes.parquet                  split, seed and category of each video; the rest is prepare's
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float16, UInt8
from numpy import ndarray

from longvie.controls.normalize import store_depth
from longvie.media import CONTROL, write_video
from longvie.scenes import Category, Scene, render_frame, track
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.preparation.prepare import prepare
from pipelines.preparation.run import Summary
from pipelines.preparation.unit_worker import Job
from pipelines.preparation.units import Unit, UnitCommit
from pipelines.progress import Report
from pipelines.rendering.making import (
    MANIFEST,
    forget_sources,
    make_sources,
    open_settings,
    place_of,
    tidy_sources,
    write_manifest,
)
from pipelines.scenes.options import SETTINGS, ScenePlan, ScenesOptions, settings_of
from pipelines.scenes.table import NAME, write_scenes
from pipelines.storage import Storage, check_writable, open_storage

STAGE = "scenes"
_FOLDERS = ("attempts", "commits", "depth", "tasks", "tracks", "videos")
_SECONDS_A_PIXEL = 3e-7  # roughly, on one CPU: it decides only how many videos share a task


class SceneStage:
    """Makes one video with all its ground truth. Task: a `ScenePlan`. Result: its prompts and what it is."""

    name: ClassVar[str] = STAGE

    def __init__(self, storage: Storage) -> None:
        pass  # everything comes from the seed

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        plan = ScenePlan(**{**task, "category": Category(**task["category"])})
        scene = Scene.from_seed(plan.seed, plan.category)
        for file in (video_file(plan), depth_file(plan), track_file(plan, 0)):
            (folder / file).parent.mkdir(parents=True)
        shape = (plan.num_frames, plan.height, plan.width)
        depth = np.lib.format.open_memmap(folder / depth_file(plan), mode="w+", dtype=np.float16, shape=shape)
        shown: set[int] = set()
        # without loss: on frames this small, halved colour alone moves a channel by 3 of 255
        write_video(folder / video_file(plan), _drawn(scene, plan, depth, shown), plan.fps, codec=CONTROL)
        depth.flush()
        prompts = []
        for segment in plan.segments:
            tracks, visibility, own = track(
                scene, plan.points, segment.start, segment.num_valid, plan.height, plan.width
            )
            with (folder / track_file(plan, segment.index)).open("wb") as file:
                np.savez_compressed(file, tracks=tracks, visibility=visibility, depth=own)
            prompts.append(scene.caption_at(range(segment.start, segment.start + segment.num_valid)))
        return {"prompts": prompts, **_what(scene, plan, shown)}


def _drawn(
    scene: Scene, plan: ScenePlan, depth: Float16[ndarray, "t h w"], shown: set[int]
) -> Iterator[UInt8[ndarray, "1 h w 3"]]:
    """All frames; fills in their depth, and which objects they show, as they are drawn."""
    for t in range(plan.num_frames):
        frame, depth_now, surface = render_frame(scene, t, plan.height, plan.width)
        depth[t] = store_depth(depth_now)
        shown.update(np.unique(surface).tolist())
        yield frame[None]


def _what(scene: Scene, plan: ScenePlan, shown: set[int]) -> dict[str, Any]:
    """What the video is, for scenes.parquet."""
    darkness = [scene.darkness_at(t) > 0.5 for t in range(plan.num_frames)]
    return {
        "place": "outdoor" if scene.ceiling is None else "indoor",
        "light": "night" if all(darkness) else "changing" if any(darkness) else "day",
        "camera": plan.category.camera or "moving",
        "ground": scene.ground_name,
        "objects": [f"{thing.colour_name} {thing.shape}" for i, thing in enumerate(scene.things) if i in shown],
    }


def make_scenes(
    options: ScenesOptions, report: Report, open_storage: Callable[[str], Storage] = open_storage
) -> Summary:
    """Make synthetic videos and prepare them.

    Args:
        open_storage: opens OUT and what lies in it, in this process and in the workers.

    Raises:
        UserError: what only the user can mend; nothing has been made then.
        RenderError: some video failed.
        StorageError: OUT cannot be read or written.
    """
    plans = options.plan()
    check_writable(options.out)
    storage = open_storage(options.source)
    with place_of(STAGE, options.workers, options.address, options.wait_for_nodes) as place:
        try:
            if options.restart:
                forget_sources(storage, _FOLDERS, (SETTINGS, MANIFEST))
                open_storage(options.out).delete(NAME)
            open_settings(storage, SETTINGS, settings_of(plans), "scenes")
        except storage_errors() as error:
            raise UserError(
                f"--out {options.out} cannot be used ({first_line(error)}); choose another place"
            ) from error
        units = [_unit(plan) for plan in plans]
        job = Job(out=storage.uri, run=secrets.token_hex(8), name=STAGE, stage=SceneStage, open_storage=open_storage)
        seconds_a_frame = _SECONDS_A_PIXEL * plans[0].height * plans[0].width
        commits, summary = make_sources(units, job, place, seconds_a_frame, report)
        tidy_sources(storage, _FOLDERS, {STAGE: commits})
        write_manifest(storage, [_row(plan, commits[plan.stem]) for plan in plans])
        prepared = prepare(options.prepare(), report, open_storage)
        if not prepared.errors:
            write_scenes(open_storage(options.out), plans, commits)
    prepared.stages.insert(0, summary)
    return prepared


def video_file(plan: ScenePlan) -> str:
    return f"videos/{plan.stem}.mp4"


def depth_file(plan: ScenePlan) -> str:
    return f"depth/{plan.stem}.npy"


def track_file(plan: ScenePlan, segment: int) -> str:
    return f"tracks/{plan.stem}/{segment:05d}.npz"


def _unit(plan: ScenePlan) -> Unit:
    return Unit(
        stage=STAGE,
        name=plan.stem,
        task=asdict(plan),
        decides=plan.decides(),
        cost=plan.num_frames,
        uris=(plan.stem,),
        said=f"video {plan.stem}",
    )


def _row(plan: ScenePlan, commit: UnitCommit) -> dict[str, Any]:
    return {
        "uri": video_file(plan),
        "depth": depth_file(plan),
        "depth_polarity": "depth",
        "tracks": [track_file(plan, segment.index) for segment in plan.segments],
        "prompts": commit.result["prompts"],
    }
