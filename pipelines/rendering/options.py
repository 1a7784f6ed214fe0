"""What a user asks `longvie render` for, checked at the door; and the plan that it comes to with the scene at hand."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from longvie.controls.render import default_grid, uniform_grid
from longvie.mesh import Scene, SceneError
from longvie.mesh.scene import MAX_PIXELS
from longvie.segments import Segment, plan_segments
from pipelines.errors import UserError
from pipelines.preparation.options import PrepareOptions
from pipelines.storage import check_uri

FORMAT = 1  # of the source folder; a reader refuses what it does not know
RENDERING = 1  # of the renderer: another number is another key, so that what an older version drew is drawn anew
SETTINGS = "render.json"
MIN_FRAMES = 2  # one is a picture, which prepare does not take for a video
MAX_FRAMES = 200_000  # 3.5 hours at 16 frames a second
MAX_GRID = 200  # rows, columns
MAX_SUPERSAMPLING = 8


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """All a run is asked for. Out-of-range values raise `UserError` naming the flag.

    Args:
        scene: an animated .glb or .gltf, path or URI.
        out: where the rendering and the prepared data go.
        model, fps, size, segment_length: as in prepare.
        num_frames, seconds: how long; neither: to the animation's last key.
        camera, animation: names; needed where there are several.
        grid: ROWSxCOLUMNS of tracked points a segment; None: prepare's own, 50x50 or what a smaller frame has room for.
        supersampling: rays a pixel's side where colours change.
        prompt: of all segments.
        restart: render anew, whatever exists.
        workers: None for as many as fit; 0 for this process, without Ray.
    """

    scene: str
    out: str
    model: str | None = None
    fps: float | None = None
    size: str | None = None
    segment_length: int | None = None
    num_frames: int | None = None
    seconds: float | None = None
    camera: str | None = None
    animation: str | None = None
    grid: str | None = None
    supersampling: int = 2
    prompt: str | None = None
    restart: bool = False
    workers: int | None = None
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        check_uri(self.scene, "scene")
        if self.num_frames is not None and self.seconds is not None:
            raise UserError("--num-frames and --seconds exclude each other; give one")
        for flag, value, low, high in (
            ("--num-frames", self.num_frames, MIN_FRAMES, MAX_FRAMES),
            ("--seconds", self.seconds, 0, math.inf),
            ("--supersampling", self.supersampling, 1, MAX_SUPERSAMPLING),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"{flag} is {value}; give {low} or more" + (f", to {high:,}" if high < math.inf else "")
                )
        self.rows_columns()
        self.prepare()

    @property
    def stem(self) -> str:
        """Names the rendered video."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(self.scene).stem).strip("._") or "scene"

    @property
    def source(self) -> str:
        """Where the rendering goes."""
        return f"{self.out.rstrip('/')}/source"

    def prepare(self) -> PrepareOptions:
        """The preparation of what is rendered: one shot, its own depth and tracks."""
        return PrepareOptions(
            inputs=(f"{self.source}/manifest.jsonl",),
            out=self.out,
            model=self.model,
            fps=self.fps,
            size=self.size,
            segment_length=self.segment_length,
            cuts=False,
            min_frames=1,
            depth="supplied",
            strict=True,
            restart=self.restart,
            prune=True,
            workers=self.workers,
            address=self.address,
            wait_for_nodes=self.wait_for_nodes,
        )

    def rows_columns(self) -> tuple[int, int] | None:
        """Of the tracked points; None for the default grid."""
        if self.grid is None:
            return None
        found = re.fullmatch(r"(\d{1,4})[xX](\d{1,4})", self.grid)
        rows, columns = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= min(rows, columns) <= max(rows, columns) <= MAX_GRID:
            raise UserError(f"--grid {self.grid} is not ROWSxCOLUMNS of 1 to {MAX_GRID}, as in 50x50")
        return rows, columns

    def plan(self, scene: Scene) -> RenderPlan:
        """What is rendered, frame by frame."""
        fps, height, width, length = self.prepare().sizes()
        if height * width > MAX_PIXELS:
            raise UserError(f"--size {self.size} has more than {MAX_PIXELS:,} pixels; give a smaller one")
        return RenderPlan(
            scene=self.scene,
            fingerprint=scene.fingerprint,
            camera=scene.camera.name,
            animation=self.animation,
            stem=self.stem,
            fps=fps,
            height=height,
            width=width,
            segment_length=length,
            num_frames=self._num_frames(scene, fps),
            grid=self.rows_columns(),
            supersampling=self.supersampling,
            prompt=self.prompt,
        )

    def _num_frames(self, scene: Scene, fps: float) -> int:
        if self.num_frames is not None:
            return self.num_frames
        if self.seconds is None and not scene.duration:
            raise SceneError(f"{scene.name} has no animation; say how long with --num-frames or --seconds")
        # the first and the last key both have their frame
        exact = scene.duration * fps + 1 if self.seconds is None else self.seconds * fps
        count = math.floor(exact + 1e-3) if math.isfinite(exact) else MAX_FRAMES + 1
        if not MIN_FRAMES <= count <= MAX_FRAMES:
            raise UserError(
                f"--seconds: {exact / fps:g} s are {exact:,.0f} frames; give {MIN_FRAMES} to {MAX_FRAMES:,}"
            )
        return count


@dataclass(frozen=True, kw_only=True)
class RenderPlan:
    """All that decides a rendering."""

    scene: str
    fingerprint: str  # of the scene's files
    camera: str
    animation: str | None
    stem: str
    fps: float
    height: int
    width: int
    segment_length: int
    num_frames: int
    grid: tuple[int, int] | None
    supersampling: int
    prompt: str | None

    @property
    def points(self) -> Float[ndarray, "n 2"]:
        """The pixels whose points are tracked."""
        if self.grid is None:
            return default_grid(self.height, self.width)
        return uniform_grid(self.height, self.width, *self.grid)

    @property
    def segments(self) -> list[Segment]:
        return plan_segments(self.num_frames, self.segment_length)

    def decides(self, segment: Segment) -> list[Any]:
        """What one segment's files depend on: not how long the video goes on after it."""
        names = ("fingerprint", "camera", "animation", "fps", "height", "width", "grid", "supersampling")
        own = [segment.index, segment.start, segment.num_valid, segment.new_frames.start]
        return [RENDERING, {name: getattr(self, name) for name in names}, own]

    def settings(self) -> dict[str, Any]:
        """What may not change within one OUT."""
        names = ("stem", "fps", "height", "width", "segment_length")
        return {name: value for name, value in asdict(self).items() if name in names}
