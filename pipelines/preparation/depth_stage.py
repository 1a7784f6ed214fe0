"""The stage that makes depth: frames of one stretch of a shot through an estimator, stored as float16 with a histogram.

Depth lies in one .npy (t, h, w) a stretch, compressed without loss; its histogram beside it travels as a file, never
through Ray's object store.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float16
from numpy import ndarray

from longvie.controls.depth import DepthEstimator
from longvie.controls.depth_files import SuppliedDepth
from longvie.controls.loading import load_depth_estimator
from longvie.controls.normalize import DepthHistogram, store_depth
from longvie.media import Video, resampled, timeline
from pipelines.fetch import LocalCopies
from pipelines.preparation.recipe import Recipe
from pipelines.preparation.stages import BATCH
from pipelines.storage import Storage

COMPRESSION = "zstd"
HISTOGRAM = ".hist.zst"  # what a histogram's file ends in
_HISTOGRAM_BYTES = 65536 * 8


class DepthStage:
    """Depth of `start .. stop-1` on a source's resampled timeline.

    Task: `uri`, `stamp`, `start`, `stop`, `name` (of the files, without ending); `supplied`, None or the user's own
    depth (`uri`, `stamp`, `polarity`). Result: `num_frames`.
    """

    name: ClassVar[str] = "depth"

    def __init__(self, recipe: Recipe, storage: Storage) -> None:
        self._recipe = recipe
        self._copies = LocalCopies()
        self._supplied = LocalCopies()
        self._estimator: DepthEstimator | None = None

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        histogram = DepthHistogram.empty()
        target = folder / depth_file(task["name"])
        target.parent.mkdir(parents=True)
        shape = (task["stop"] - task["start"], self._recipe.height, self._recipe.width)
        with target.open("wb") as file, pa.CompressedOutputStream(file, COMPRESSION) as stream:
            stream.write(_header(shape))
            for depth in self._depth(task):
                stored = store_depth(depth)
                histogram.add(stored)
                stream.write(np.ascontiguousarray(stored))
        write_histogram(folder, task["name"], histogram)
        return {"num_frames": shape[0]}

    def _depth(self, task: Mapping[str, Any]) -> Iterator[Float[ndarray, "t h w"]]:
        """Depth, a batch at a time."""
        if task["supplied"] is not None:
            return self._read_supplied(task)
        if self._estimator is None:  # loaded once a worker, by the first unit that needs it
            dense = self._recipe.dense
            self._estimator = load_depth_estimator(
                dense.spec, device=dense.device, dtype=dense.dtype, batch_size=dense.batch_size
            )
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(dense.threads)
        return self._estimate(self._estimator, task)

    def _estimate(self, estimator: DepthEstimator, task: Mapping[str, Any]) -> Iterator[Float[ndarray, "t h w"]]:
        with self._copies.opened(task["uri"], task["stamp"]) as path:
            for frames in resampled(path, **self._recipe.frames(), start=task["start"], stop=task["stop"], batch=BATCH):
                yield estimator(frames)

    def _read_supplied(self, task: Mapping[str, Any]) -> Iterator[Float[ndarray, "t h w"]]:
        supplied = task["supplied"]
        recipe = self._recipe
        with self._copies.opened(task["uri"], task["stamp"]) as path:
            video = Video(path)
            shown = timeline(video.times, video.info.duration, recipe.fps)
            num_source_frames = video.info.num_frames
            del video
        with self._supplied.opened(supplied["uri"], supplied["stamp"]) as path:
            depth = SuppliedDepth(path, polarity=supplied["polarity"]).for_video(num_source_frames, shown.tolist())
            for start in range(task["start"], task["stop"], BATCH):
                stop = min(start + BATCH, task["stop"])
                yield depth.read(start, stop, recipe.height, recipe.width, recipe.fit)


def depth_file(name: str) -> str:
    return f"depth/{name}.npy.zst"


def histogram_file(name: str) -> str:
    return f"depth/{name}{HISTOGRAM}"


def segment_histogram(video_id: str, index: int) -> str:
    """The name of a segment's own histogram, where depth is scaled per segment."""
    return f"{video_id}/segment_{index:05d}"


def write_histogram(folder: Path, name: str, histogram: DepthHistogram) -> None:
    """Into a local folder; `folder/depth` is made if it is not there."""
    path = folder / histogram_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pa.compress(histogram.to_bytes(), codec=COMPRESSION, asbytes=True))


def read_histogram(storage: Storage, name: str) -> DepthHistogram:
    """The histogram of one stretch or segment."""
    return DepthHistogram.from_bytes(
        pa.decompress(
            storage.read(histogram_file(name)), decompressed_size=_HISTOGRAM_BYTES, codec=COMPRESSION, asbytes=True
        )
    )


def read_depth(storage: Storage, name: str, start: int, out: Float16[ndarray, "t h w"]) -> None:
    """Read frames of one stretch, from `start` on, into `out`; those before are decompressed and dropped one by one."""
    with (
        storage.open(depth_file(name)) as file,
        pa.CompressedInputStream(pa.PythonFile(file, mode="r"), COMPRESSION) as stream,
    ):
        shape = _read_header(stream)
        if start + len(out) > shape[0] or out.shape[1:] != shape[1:]:
            raise ValueError(f"{depth_file(name)} is {shape}; frames from {start} on as {out.shape} were asked for")
        frame_bytes = shape[1] * shape[2] * 2
        for _ in range(start):
            stream.read(frame_bytes)
        for frame in out:
            frame[...] = np.frombuffer(stream.read(frame_bytes), "<f2").reshape(shape[1:])


def _header(shape: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _read_header(stream: pa.NativeFile) -> tuple[int, ...]:
    magic = stream.read(8)
    length = stream.read(2)
    header = stream.read(int.from_bytes(length, "little"))
    shape, _, _ = np.lib.format.read_array_header_1_0(io.BytesIO(length + header))
    if np.lib.format.read_magic(io.BytesIO(magic)) != (1, 0):
        raise ValueError("not a version 1.0 .npy")
    return shape
