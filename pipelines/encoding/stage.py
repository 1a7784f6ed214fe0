"""The stage that encodes a shard: segments of one video, one after the other, each a row group as soon as it is made.

Memory: the encoders, one segment's frames and controls, and what comes of them, however long the video is.
"""

from __future__ import annotations

import io
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import transformers
from PIL import Image as PILImage
from safetensors.torch import save_file

from longvie.media import Video, VideoError, resampled
from longvie.models.encoders import encoder_fingerprint, load_encoders
from longvie.training.degradation import degrade_dense
from longvie.training.encoded_layout import DTYPES, EMPTY, SHARDS, EncodedMeta, stored, tensor_bytes
from longvie.training.encoding import SegmentEncoder
from longvie.types import Frames, Image
from pipelines.encoding.units import EMPTY_UNIT, STAGE
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.fetch import LocalCopies
from pipelines.hashes import fingerprint, sha256_file
from pipelines.preparation.unit_worker import DATA_ERRORS, may_pass, one_line
from pipelines.storage import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """What every worker of a run is told.

    Args:
        prepared: URI of the prepared folder.
        frames: as of `PreparedData`.
        model: whose encoders are used; a path means the same on every node.
    """

    prepared: str
    frames: Mapping[str, Any]
    model: str | None
    meta: EncodedMeta


class EncodeStage:
    """Makes one shard, or what stands for an absent prompt and first frame.

    Task: `name`; of a shard `video_id`, `source` with its `stamp`, and `segments`. Result: the `shard`, its `rows` in
    order, and `errors` of segments that could not be read.
    """

    name: ClassVar[str] = STAGE

    def __init__(self, job: EncodeJob, storage: Storage) -> None:
        self._job = job
        self._prepared = open_storage(job.prepared)
        self._copies = LocalCopies()
        self._video: tuple[tuple[str, str | None], Video] | None = None  # the last source, opened
        self._none = torch.empty(0, job.frames["height"], job.frames["width"], 3, dtype=torch.uint8)
        self._read: tuple[int, Frames] = 0, self._none  # of it, the frames read last and the number of the first
        self._encoder: SegmentEncoder | None = None
        self._schema = job.meta.schema()

    def make(self, task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        torch.set_num_threads(self._job.meta.encoder["threads"])  # of one thread only, and Ray may call from another
        encoder = self._opened()
        if task["name"] == EMPTY_UNIT:
            dtype = self._job.meta.torch_dtype
            save_file({name: stored(made, dtype) for name, made in encoder.empty().items()}, folder / EMPTY)
            return {}
        shard = f"{SHARDS}/{task['name']}.parquet"
        (folder / SHARDS).mkdir()
        rows: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        # No dictionaries and no statistics: columns are single large values
        how: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
        with pyarrow.parquet.ParquetWriter(folder / shard, self._schema, write_statistics=False, **how) as writer:
            for segment in task["segments"]:
                try:
                    row = self._row(encoder, task, segment)
                except DATA_ERRORS as error:
                    if may_pass(error):
                        raise
                    errors.append({"segment": segment["segment"], "error": one_line(error)})
                    continue
                writer.write_table(pa.Table.from_pylist([row], self._schema))
                rows.append(
                    {
                        **{name: segment[name] for name in ("segment", "num_segments", "num_valid")},
                        "has_dense": segment["dense"] is not None,
                        "has_sparse": segment["sparse"] is not None,
                    }
                )
        if not rows:
            (folder / shard).unlink()
        return {"video_id": task["video_id"], "shard": shard, "rows": rows, "errors": errors}

    def _row(self, encoder: SegmentEncoder, task: Mapping[str, Any], segment: Mapping[str, Any]) -> dict[str, Any]:
        """A row of a shard; one of `DATA_ERRORS` if something of the segment is missing or broken."""
        meta, count = self._job.meta, segment["num_valid"]
        # The frames that generation would hand on: the last of the segment before, its last being this one's first
        before = max(meta.history_frames, default=1) - 1 if segment["segment"] else 0
        frames = self._frames(task, segment["start"] - before, segment["start"] + count)
        history = frames[: before + 1] if segment["segment"] else frames[:0]
        frames = _padded(frames[before:], meta.segment_length)
        dense, sparse = (self._control(segment[kind], count) for kind in ("dense", "sparse"))
        degraded = [] if dense is None else self._degraded(dense, task["video_id"], segment["segment"])
        made = encoder.segment(frames, history, dense, sparse, segment["prompt"], degraded)
        return {
            "video_id": task["video_id"],
            **{name: segment[name] for name in ("segment", "num_segments", "num_valid")},
            "caption": segment["prompt"],
            "first_frame": _png(frames[0]),
            **{name: tensor_bytes(tensor, meta.torch_dtype) for name, tensor in made.items()},
        }

    def _degraded(self, dense: Frames, video_id: str, segment: int) -> list[Frames]:
        """Degraded variants of a dense control; each is drawn from the run's seed and its own place, by no worker."""
        meta = self._job.meta
        variants = []
        for number in range(meta.degraded_variants):
            seed = int(fingerprint([meta.seed, video_id, segment, number])[:15], 16)  # 60 of its bits
            variants.append(degrade_dense(dense, torch.Generator().manual_seed(seed)))
        return variants

    def _frames(self, task: Mapping[str, Any], start: int, stop: int) -> Frames:
        """Those that the segment before had, too, are not read again: a video would be decoded from a key frame on."""
        with self._copies.opened(task["source"], task["stamp"]) as path:
            if self._video is None or self._video[0] != (task["source"], task["stamp"]):
                self._video, self._read = ((task["source"], task["stamp"]), Video(path)), (0, self._none)
            first, known = self._read
            shared = known[start - first :] if first <= start < first + len(known) < stop else self._none
            batches = list(resampled(self._video[1], **self._job.frames, start=start + len(shared), stop=stop))
        frames = torch.from_numpy(np.concatenate([shared.numpy(), *batches]))
        if len(frames) != stop - start:
            raise VideoError(f"{task['source']} breaks off after frame {start + len(frames) - 1}")
        self._read = start, frames
        return frames

    def _control(self, control: Mapping[str, str] | None, count: int) -> Frames | None:
        """A control's frames, its last repeated to the segment's length as generation does."""
        if control is None:
            return None
        meta, said = self._job.meta, f"{self._job.prepared}/{control['name']}"
        with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
            path = Path(folder) / "control.mp4"
            try:
                self._prepared.get(control["name"], path)
            except FileNotFoundError as error:
                raise VideoError(f"{said} does not exist; prepare again") from error
            except storage_errors() as error:
                raise OSError(f"{said} cannot be read ({first_line(error)})") from None
            if sha256_file(path) != control["sha256"]:
                raise VideoError(f"{said} is not what was prepared; prepare again with --restart")
            video = Video(path)
            info = video.info
            if (info.num_frames, info.height, info.width) != (count, meta.height, meta.width):
                raise VideoError(
                    f"{said} has {info.num_frames} frames of {info.width}x{info.height}, its segment {count} of "
                    f"{meta.width}x{meta.height}; prepare again with --restart"
                )
            return _padded(torch.from_numpy(video.read(range(count))), meta.segment_length)

    def _opened(self) -> SegmentEncoder:
        """The encoders, loaded once a worker."""
        if self._encoder is None:
            job = self._job
            if job.meta.encoder["device"] == "cuda" and not torch.cuda.is_available():
                raise UserError(
                    f"{socket.gethostname()}: the worker was given a GPU but torch sees none; install torch for CUDA "
                    "there, or give --gpus-per-worker 0"
                )
            diffusers.utils.logging.disable_progress_bar()
            transformers.utils.logging.disable_progress_bar()
            if encoder_fingerprint(job.model) != job.meta.encoder["sha256"]:
                raise UserError(f"{socket.gethostname()} has another model at {job.model} than the run began with")
            pipe = load_encoders(job.model, dtype=DTYPES[job.meta.encoder["dtype"]], device=job.meta.encoder["device"])
            self._encoder = SegmentEncoder(pipe, job.meta)
        return self._encoder


def _padded(frames: Frames, length: int) -> Frames:
    """The last frame repeated up to the segment's length."""
    missing = length - len(frames)
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames


def _png(image: Image) -> bytes:
    data = io.BytesIO()
    PILImage.fromarray(image.numpy()).save(data, format="PNG")
    return data.getvalue()
