"""What a user asks `longvie scenes` for, checked at the door; and the plan that it comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from longvie.controls.render import default_grid
from longvie.scenes import BALANCED, SPLITS, WORLD, Category
from longvie.scenes.category import Camera, Light, Place
from longvie.segments import Segment, plan_segments
from pipelines.errors import UserError
from pipelines.preparation.options import PrepareOptions

FORMAT = 1  # of the source folder; a reader refuses what it does not know
SETTINGS = "scenes.json"
NUM_FRAMES = 97  # 6 segments of the embedded model
MIN_FRAMES, MAX_FRAMES = 2, 200_000
MAX_PIXELS = 1 << 22  # of a frame; it is drawn at four times as many


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """All a run is asked for. Out-of-range values raise `UserError` naming the flag.

    Args:
        split: whose seeds.
        out: where the scenes and the prepared data go.
        start, count: which of the split's seeds.
        num_frames, seconds: how long each video is; neither: 97 frames.
        place, light, camera: what every scene is made to be; None: what its seed gives.
        balanced: the eight categories in turn, by the seed's place in its split.
        model, fps, size, segment_length: as in prepare; without any, the embedded model's.
        keep_depth: whether prepared depth files stay once the controls are made.
        restart: make anew, whatever exists.
        workers: None for as many as fit; 0 for this process, without Ray.
    """

    split: str
    out: str
    start: int = 0
    count: int = 1
    num_frames: int | None = None
    seconds: float | None = None
    place: str | None = None
    light: str | None = None
    camera: str | None = None
    balanced: bool = False
    model: str | None = None
    fps: float | None = None
    size: str | None = None
    segment_length: int | None = None
    keep_depth: bool = True
    restart: bool = False
    workers: int | None = None
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        for flag, value, choices in (
            ("--split", self.split, tuple(SPLITS)),
            ("--place", self.place, get_args(Place)),
            ("--light", self.light, get_args(Light)),
            ("--camera", self.camera, get_args(Camera)),
        ):
            if value is not None and value not in choices:
                raise UserError(f"{flag} is {value}; choose one of {', '.join(choices)}")
        if self.balanced and (self.place or self.light or self.camera):
            raise UserError("--balanced takes all categories in turn: leave out --place, --light and --camera")
        if self.num_frames is not None and self.seconds is not None:
            raise UserError("--num-frames and --seconds exclude each other; give one")
        for flag, value, low, high in (
            ("--start", self.start, 0, math.inf),
            ("--count", self.count, 1, math.inf),
            ("--num-frames", self.num_frames, MIN_FRAMES, MAX_FRAMES),
            ("--seconds", self.seconds, 0, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"{flag} is {value}; give {low} or more" + (f", to {high:,}" if high < math.inf else "")
                )
        available = len(SPLITS[self.split])
        if self.start + self.count > available:
            raise UserError(
                f"--start {self.start} --count {self.count}: {self.split} has {available:,} seeds; ask for fewer"
            )
        self.prepare()

    @property
    def source(self) -> str:
        """Where the scenes' own files go."""
        return f"{self.out.rstrip('/')}/source"

    def prepare(self) -> PrepareOptions:
        """The preparation of what is made: one shot each, its own depth, tracks and prompts."""
        own = self.model is None and self.fps is None and self.size is None and self.segment_length is None
        return PrepareOptions(
            inputs=(f"{self.source}/manifest.jsonl",),
            out=self.out,
            model="tiny" if own else self.model,
            fps=self.fps,
            size=self.size,
            segment_length=self.segment_length,
            cuts=False,
            min_frames=1,
            depth="supplied",
            keep_depth=self.keep_depth,
            strict=True,
            restart=self.restart,
            prune=True,
            workers=self.workers,
            address=self.address,
            wait_for_nodes=self.wait_for_nodes,
        )

    def category(self, index: int) -> Category:
        """Of the split's seed with this number."""
        if self.balanced:
            return BALANCED[index % len(BALANCED)]
        return Category(place=self.place, light=self.light, camera=self.camera)  # type: ignore[arg-type]  # checked above

    def plan(self) -> list[ScenePlan]:
        """One a video, in the order of seeds."""
        fps, height, width, length = self.prepare().sizes()
        if height * width > MAX_PIXELS:
            raise UserError(f"--size {width}x{height} has more than {MAX_PIXELS:,} pixels; give a smaller one")
        num_frames = self.num_frames or NUM_FRAMES
        if self.seconds is not None:
            exact = self.seconds * fps
            num_frames = math.floor(exact + 1e-3) if math.isfinite(exact) else MAX_FRAMES + 1
            if not MIN_FRAMES <= num_frames <= MAX_FRAMES:
                raise UserError(
                    f"--seconds {self.seconds:g}: give {MIN_FRAMES} to {MAX_FRAMES:,} frames at {fps:g} a second"
                )
        return [
            ScenePlan(
                split=self.split,
                seed=SPLITS[self.split][index],
                category=self.category(index),
                fps=fps,
                height=height,
                width=width,
                segment_length=length,
                num_frames=num_frames,
            )
            for index in range(self.start, self.start + self.count)
        ]


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """All that decides one video."""

    split: str
    seed: int
    category: Category
    fps: float
    height: int
    width: int
    segment_length: int
    num_frames: int

    @property
    def stem(self) -> str:
        """Names its files: the seed, and what it is made to be."""
        said = (self.category.place, self.category.light, self.category.camera)
        return "-".join(["scene", str(self.seed), *(word for word in said if word is not None)])

    @property
    def points(self) -> Any:
        """The pixels (x, y) whose points are tracked."""
        return default_grid(self.height, self.width)

    @property
    def segments(self) -> list[Segment]:
        return plan_segments(self.num_frames, self.segment_length)

    def decides(self) -> list[Any]:
        return [WORLD, asdict(self)]


def settings_of(plans: Sequence[ScenePlan]) -> dict[str, Any]:
    """What may not change within one OUT: a split's data are not mixed with another's."""
    names = ("split", "fps", "height", "width", "segment_length")
    return {"format": FORMAT, **{name: getattr(plans[0], name) for name in names}}
