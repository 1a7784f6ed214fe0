"""What a user asks `longvie prepare` for, checked at the door; and the recipe that it comes to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from longvie.config import MAX_SIDE, Fit
from longvie.shots import THRESHOLD
from pipelines.errors import UserError
from pipelines.preparation.estimators import is_depth, is_tracker
from pipelines.preparation.recipe import Estimator, Recipe, Scope
from pipelines.storage import scheme_of

if TYPE_CHECKING:
    from pipelines.captions.captioners import Captioner

# LongVie 2's own (METHOD: 81 frames at 352x640, 16 fps)
FPS, SIZE, SEGMENT_LENGTH = 16.0, "640x352", 81
PROMPT = "a video"  # without any caption: it says nothing that is not there
DTYPES = ("float32", "bfloat16", "float16")
MAX_FPS = 240.0
MAX_SEGMENT_LENGTH = 1024


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """All a run is asked for. Out-of-range values raise `UserError` naming the flag.

    Args:
        inputs: files, folders, globs, URIs and manifests, see sources.py.
        out: where prepared data goes, any of storage.py's URIs.
        model: takes size, fps and segment length from a model ("tiny": the embedded one); what is given here wins.
        cuts: whether sources are cut into shots; else each is one shot.
        min_frames: of a shot that is kept; None for half a segment.
        depth: a depth estimator, or another dense control (see controls/edges.py).
        sparse: a point tracker, or a pose detector.
        prompt: of all segments; sidecars: prompts lie beside the videos; captioner: asks a vision model.
        keep_depth: whether depth files stay once the controls are made.
        strict: whether any error is a failure of the run.
        prune: whether what was made of sources that are no longer named is removed.
        workers: of each stage; None for as many as fit; 0 for this process, without Ray.
        depth_gpus, sparse_gpus: of each worker of the depth and control stages; a part of one is shared.
    """

    inputs: tuple[str, ...]
    out: str
    model: str | None = None
    fps: float | None = None
    size: str | None = None
    fit: str = "crop"
    segment_length: int | None = None
    cuts: bool = True
    cut_threshold: float = THRESHOLD
    min_frames: int | None = None
    black: float | None = None
    static: float | None = None
    min_motion: float | None = None
    max_motion: float | None = None
    depth: str = "builtin"
    sparse: str = "lucas-kanade"
    scope: str = "video"
    prompt: str | None = None
    sidecars: bool = False
    captioner: Captioner | None = None
    keep_depth: bool = True
    cond_json: bool = False
    report: bool = True
    strict: bool = False
    restart: bool = False
    prune: bool = False
    dtype: str = "float32"
    batch_size: int = 8
    workers: int | None = None
    threads_per_worker: int = 1
    depth_gpus: float = 0.0
    sparse_gpus: float = 0.0
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        for flag, value, low, high in (
            ("--fps", self.fps, 0.1, MAX_FPS),
            ("--segment-length", self.segment_length, 2, MAX_SEGMENT_LENGTH),
            ("--cut-threshold", self.cut_threshold, 0.1, 255),
            ("--min-frames", self.min_frames, 1, math.inf),
            ("--black", self.black, 0, 255),
            ("--static", self.static, 0, 255),
            ("--min-motion", self.min_motion, 0, 255),
            ("--max-motion", self.max_motion, 0, 255),
            ("--batch-size", self.batch_size, 1, 1024),
            ("--workers", self.workers, 0, math.inf),
            ("--threads-per-worker", self.threads_per_worker, 1, math.inf),
            ("--depth-gpus", self.depth_gpus, 0, math.inf),
            ("--sparse-gpus", self.sparse_gpus, 0, math.inf),
            ("--wait-for-nodes", self.wait_for_nodes, 0, math.inf),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"{flag} is {value}; give {low} or more" + (f", to {high:g}" if high < math.inf else "")
                )
        for flag, value, choices in (
            ("--fit", self.fit, get_args(Fit)),
            ("--scope", self.scope, get_args(Scope)),
            ("--dtype", self.dtype, DTYPES),
        ):
            if value not in choices:
                raise UserError(f"{flag} is {value}; choose one of {', '.join(choices)}")
        for flag, value in (("--depth-gpus", self.depth_gpus), ("--sparse-gpus", self.sparse_gpus)):
            if value > 1 and value != int(value):
                raise UserError(f"{flag} is {value}; give a part of one GPU, or whole ones")
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("--prompt is empty; give a text, or leave it out")
        chosen = [
            flag
            for flag, given in (
                ("--prompt", self.prompt is not None),
                ("--sidecars", self.sidecars),
                ("--captioner", self.captioner is not None),
            )
            if given
        ]
        if len(chosen) > 1:
            raise UserError(f"{' and '.join(chosen)} exclude each other; a segment has one prompt")
        if self.workers == 0 and (self.address or self.depth_gpus or self.sparse_gpus):
            raise UserError("--workers 0 works in this process, without Ray: leave out --address and GPUs a worker")
        if scheme_of(self.out) == "memory" and self.workers != 0:
            raise UserError("--out memory:// lives within one process; give --workers 0, or another place")
        if self.scope != "video" and not is_depth(self.depth):
            raise UserError(f"--scope {self.scope} says over what depth is scaled; --depth {self.depth} is not depth")
        is_tracker(self.sparse)  # an unknown name is refused

    def sizes(self) -> tuple[float, int, int, int]:
        """Frames a second, height, width and frames a segment: as given, else the model's, else LongVie 2's."""
        fps, size, length = FPS, SIZE, SEGMENT_LENGTH
        if self.model is not None:
            from longvie.models.loading import read_pipeline_config  # torch: only where a model is asked for

            config = read_pipeline_config(None if self.model == "tiny" else self.model)
            fps, size, length = float(config.fps), f"{config.width}x{config.height}", config.segment_length
        height, width = parse_size(self.size or size)
        return float(self.fps or fps), height, width, self.segment_length or length

    def recipe(self, dense: Estimator, sparse: Estimator) -> Recipe:
        """All that decides prepared data, with what makes the controls described."""
        fps, height, width, length = self.sizes()
        return Recipe(
            fps=fps,
            height=height,
            width=width,
            fit=self.fit,  # type: ignore[arg-type]  # checked above
            segment_length=length,
            min_frames=self.min_frames or max(1, length // 2),
            cut_threshold=float(self.cut_threshold) if self.cuts else None,
            black=_real(self.black),
            static=_real(self.static),
            min_motion=_real(self.min_motion),
            max_motion=_real(self.max_motion),
            dense=dense,
            measured=is_depth(self.depth),
            sparse=sparse,
            tracked=is_tracker(self.sparse),
            scope=self.scope,  # type: ignore[arg-type]
        )


def _real(value: float | None) -> float | None:
    """8 and 8.0 are the same setting, but not the same JSON."""
    return None if value is None else float(value)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of `WIDTHxHEIGHT`."""
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found:
        raise UserError(f"--size {text} is not WIDTHxHEIGHT, as in {SIZE}")
    width, height = int(found[1]), int(found[2])
    for name, side in (("width", width), ("height", height)):
        if not 16 <= side <= MAX_SIDE or side % 2:
            raise UserError(f"--size {text}: {name} is {side}; give an even number of pixels, 16 to {MAX_SIDE}")
    return height, width
