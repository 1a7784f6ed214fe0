"""`longvie render`: an animated 3-D scene becomes a video with exact depth and tracks, prepared as any video is.

Segment by segment, in any order, on any worker; a segment exists when its commit does. Then the segments' frames are
joined, and `longvie prepare` takes the video with the rendered depth and tracks in place of estimated ones.

    <out>/source/<stem>.mp4               all frames
                 manifest.jsonl           what prepare is told
                 depth/000000.npy         camera z of each frame, float16 (h, w); infinite for the background
                 tracks/00000.npz         of each segment, float32
                 parts/00000.mp4          new frames of each segment
                 commits/, render.json    what exists, and of which settings
"""

from __future__ import annotations

import functools
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from longvie.controls.normalize import store_depth
from longvie.media import VideoError, join_videos, write_video
from longvie.mesh import Scene, SceneError, load_scene
from longvie.segments import Segment
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.fetch import LocalCopies, stamp_of
from pipelines.preparation.pass_run import StageSummary
from pipelines.preparation.passes import Place
from pipelines.preparation.prepare import prepare
from pipelines.preparation.run import Summary
from pipelines.preparation.unit_worker import Job
from pipelines.preparation.units import Made, Unit, UnitCommit, UnitStore
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
from pipelines.rendering.options import FORMAT, SETTINGS, RenderOptions, RenderPlan
from pipelines.storage import Storage, check_writable, open_storage

_FOLDERS = ("attempts", "commits", "depth", "parts", "tasks", "tracks")
_SECONDS_A_FRAME = 0.5  # roughly, on one CPU: it decides only how many segments share a task


class RenderStage:
    """Renders one segment: its new frames and their depth, and its tracks.

    Task: `index`, `start`, `num_valid`, `new` (of the segment). Result: `num_frames`.
    """

    name: ClassVar[str] = "render"

    def __init__(self, plan: RenderPlan, stamp: str | None, storage: Storage) -> None:
        self._plan, self._stamp = plan, stamp
        self._scene: Scene | None = None

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        plan, index = self._plan, task["index"]
        scene = self._opened()
        for name in ("depth", "parts", "tracks"):
            (folder / name).mkdir()
        frames = range(task["start"] + task["new"], task["start"] + task["num_valid"])
        write_video(folder / part_file(index), self._render(scene, frames, folder), plan.fps)
        times = (task["start"] + np.arange(task["num_valid"])) / plan.fps
        tracks = scene.tracks(times, plan.points, plan.height, plan.width)
        with (folder / track_file(index)).open("wb") as file:
            np.savez_compressed(file, tracks=tracks.positions, visibility=tracks.visibility, depth=tracks.depth)
        return {"num_frames": len(frames)}

    def _render(self, scene: Scene, frames: range, folder: Path) -> Iterator[UInt8[ndarray, "1 h w 3"]]:
        plan = self._plan
        for number in frames:
            frame = scene.render(number / plan.fps, plan.height, plan.width, plan.supersampling)
            np.save(folder / depth_file(number), store_depth(frame.depth))
            yield frame.rgb[None]

    def _opened(self) -> Scene:
        """The scene, read once a worker."""
        if self._scene is None:
            scene = open_scene(self._plan.scene, self._stamp, self._plan.camera, self._plan.animation)
            if scene.fingerprint != self._plan.fingerprint:
                raise SceneError(f"{self._plan.scene} has changed while it was rendered; run the same command again")
            self._scene = scene
        return self._scene


def render(options: RenderOptions, report: Report, open_storage: Callable[[str], Storage] = open_storage) -> Summary:
    """Render a scene and prepare it.

    Args:
        open_storage: opens OUT and what lies in it, in this process and in the workers.

    Raises:
        UserError, SceneError: what only the user can mend; nothing has been made then.
        RenderError: some segment failed.
        StorageError: OUT cannot be read or written.
    """
    stamp = stamp_of(options.scene)
    scene = open_scene(options.scene, stamp, options.camera, options.animation)
    plan = options.plan(scene)
    for note in scene.notes:
        report("note", text=f"{scene.name}: {note}")
    del scene  # the workers have their own
    check_writable(options.out)
    storage = open_storage(options.source)
    with place_of("render", options.workers, options.address, options.wait_for_nodes) as place:
        try:
            if options.restart:
                _forget(storage)
            open_settings(storage, SETTINGS, {"format": FORMAT, **plan.settings()}, "a rendering")
        except storage_errors() as error:
            raise UserError(
                f"--out {options.out} cannot be used ({first_line(error)}); choose another place"
            ) from error
        commits, summary = _render_segments(plan, stamp, storage, open_storage, place, report)
        commits["video"] = {plan.stem: _join(plan, storage, commits["render"])}
        _tidy(storage, commits)
        _write_manifest(plan, storage)
        prepared = prepare(options.prepare(), report, open_storage)
    prepared.stages.insert(0, summary)
    return prepared


def open_scene(uri: str, stamp: str | None, camera: str | None, animation: str | None) -> Scene:
    """Read a scene from any place; all that it needs is in memory afterwards."""
    copies = LocalCopies()
    try:
        with copies.opened(uri, stamp) as path:
            return load_scene(path, camera, animation)
    except VideoError as error:
        raise SceneError(str(error)) from error
    finally:
        copies.close()


def part_file(segment: int) -> str:
    return f"parts/{segment:05d}.mp4"


def track_file(segment: int) -> str:
    return f"tracks/{segment:05d}.npz"


def depth_file(frame: int) -> str:
    return f"depth/{frame:06d}.npy"


def _unit(plan: RenderPlan, segment: Segment) -> Unit:
    new = segment.new_frames
    return Unit(
        stage="render",
        name=f"{segment.index:05d}",
        task={"index": segment.index, "start": segment.start, "num_valid": segment.num_valid, "new": new.start},
        decides=plan.decides(segment),
        cost=new.stop - new.start,
        uris=(plan.scene,),
        said=f"segment {segment.index}",
    )


def _render_segments(
    plan: RenderPlan,
    stamp: str | None,
    storage: Storage,
    open_storage: Callable[[str], Storage],
    place: Place,
    report: Report,
) -> tuple[dict[str, dict[str, UnitCommit]], StageSummary]:
    """The commits of all segments, by stage and name; and what was done."""
    units = [_unit(plan, segment) for segment in plan.segments]
    stage = functools.partial(RenderStage, plan, stamp)
    job = Job(out=storage.uri, run=secrets.token_hex(8), name="render", stage=stage, open_storage=open_storage)
    commits, summary = make_sources(units, job, place, _SECONDS_A_FRAME, report)
    return {"render": commits}, summary


def _join(plan: RenderPlan, storage: Storage, parts: Mapping[str, UnitCommit]) -> UnitCommit:
    """The whole video, made of its parts without encoding again."""
    names = [part_file(segment.index) for segment in plan.segments]
    hashes = [
        parts[f"{segment.index:05d}"].files[name]["sha256"] for segment, name in zip(plan.segments, names, strict=True)
    ]
    unit = Unit(stage="video", name=plan.stem, task={}, decides=hashes, cost=0, uris=(plan.scene,), said="video")
    store = UnitStore(storage)
    if (there := store.exists(unit.stage, unit.name, unit.key)) is not None:
        return there
    with (
        tempfile.TemporaryDirectory(prefix="longvie-") as scratch,
        tempfile.TemporaryDirectory(prefix="longvie-") as made,
    ):
        local = [Path(scratch) / f"{number}.mp4" for number in range(len(names))]
        for name, path in zip(names, local, strict=True):
            storage.get(name, path)
        join_videos(local, Path(made) / f"{plan.stem}.mp4")
        return store.commit(
            unit.stage, unit.name, unit.key, Made(folder=Path(made), result={"num_frames": plan.num_frames})
        )


def _forget(storage: Storage) -> None:
    """Remove all that rendering ever wrote."""
    forget_sources(storage, _FOLDERS, (SETTINGS, MANIFEST), (".mp4",))


def _tidy(storage: Storage, commits: Mapping[str, Mapping[str, UnitCommit]]) -> None:
    """Depth of frames that are no more would be taken for the video's."""
    tidy_sources(storage, _FOLDERS, commits)


def _write_manifest(plan: RenderPlan, storage: Storage) -> None:
    row: dict[str, Any] = {
        "uri": f"{plan.stem}.mp4",
        "depth": "depth",
        "depth_polarity": "depth",
        "tracks": [track_file(segment.index) for segment in plan.segments],
    }
    if plan.prompt is not None:
        row["prompt"] = plan.prompt
    write_manifest(storage, [row])
