"""How encoded training data lies in files: its description, the columns of a shard, and rows to bytes and back.

    <uri>/encode.json           an `EncodedMeta`: what made it, its shapes, its dtype
          empty.safetensors     what stands for an absent prompt (`text`), first frame (`image`) and its `image_embeds`
          shards/<name>.parquet one row a segment, each a row group of its own, so that one is read alone
          samples.parquet       where each sample lies; written last: the folder is whole when it is there

A tensor is a column of raw little-endian bytes; the column's metadata says dtype and shape. It knows no model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

FORMAT = 1
META, EMPTY, SAMPLES, SHARDS = "encode.json", "empty.safetensors", "samples.parquet", "shards"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

# One row a sample, in the order of video_id and segment; a row's number is the sample's.
SAMPLE_ROWS = pa.schema(
    [
        ("shard", pa.string()),  # file below the folder
        ("row", pa.int64()),  # row group within it
        ("video_id", pa.string()),
        ("segment", pa.int64()),
        ("num_segments", pa.int64()),
        ("num_valid", pa.int64()),
        ("has_dense", pa.bool_()),
        ("has_sparse", pa.bool_()),
    ]
)


class EncodedError(ValueError):
    """Encoded data that is missing, unfinished, broken or another model's; one line that says the remedy."""


@dataclass(frozen=True, kw_only=True)
class LatentShape:
    """Of one segment's latents."""

    channels: int
    frames: int
    height: int
    width: int

    @property
    def whole(self) -> tuple[int, int, int, int]:
        return (self.channels, self.frames, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class EncodedMeta:
    """What encoded data is, and everything that decides its values.

    Args:
        encoder: `sha256` of the encoders' files, and how they were run: `dtype`, `device`, CPU `threads`.
        height, width, fps, segment_length: of the frames.
        latent: of one segment; temporal: frames a latent, as many as the mask has channels.
        max_text_tokens: prompts are padded to it with zero rows before a model sees them.
        image_dim, image_tokens: of the image encoder; None and 0 without one.
        history_frames: for which numbers of frames before a segment there are latents.
        dtype: of stored tensors.
        segments_per_shard: at most; a shard holds segments of one video.
        degraded_variants: degraded dense controls a segment; seed: that their degradation is drawn from.
    """

    encoder: Mapping[str, Any]
    height: int
    width: int
    fps: float
    segment_length: int
    latent: LatentShape
    temporal: int
    text_dim: int
    max_text_tokens: int
    image_dim: int | None
    image_tokens: int
    history_frames: tuple[int, ...]
    dtype: str
    segments_per_shard: int
    degraded_variants: int = 0
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def columns(self) -> dict[str, tuple[int, ...]]:
        """The tensor columns of a shard with their shapes; -1: as many tokens as the prompt has."""
        whole = ("video", "dense", "sparse", "image", "dense_image", "sparse_image")
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(whole, self.latent.whole)
        for count in self.history_frames:
            shapes[f"history_{count}"] = (
                self.latent.channels,
                1 + (count - 1) // self.temporal,
                self.latent.height,
                self.latent.width,
            )
        for number in range(self.degraded_variants):
            shapes[f"dense_degraded_{number}"] = shapes[f"dense_degraded_image_{number}"] = self.latent.whole
        shapes["text"] = (-1, self.text_dim)
        if self.image_dim is not None:
            shapes["image_embeds"] = (self.image_tokens, self.image_dim)
        return shapes

    def schema(self) -> pa.Schema:
        """Of a shard."""
        fields = [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("segment", pa.int64(), nullable=False),
            pa.field("num_segments", pa.int64(), nullable=False),
            pa.field("num_valid", pa.int64(), nullable=False, metadata={"meaning": "frames that exist"}),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("first_frame", pa.binary(), nullable=False, metadata={"meaning": "PNG"}),
        ]
        for name, shape in self.columns().items():
            count = math.prod(shape) * self.torch_dtype.itemsize
            kind = pa.binary(count) if count > 0 else pa.binary()
            fields.append(pa.field(name, kind, metadata={"dtype": self.dtype, "shape": json.dumps(shape)}))
        return pa.schema(fields)

    def to_json(self) -> dict[str, Any]:
        """The content of encode.json, but for its `fingerprint`."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> EncodedMeta:
        """The inverse; `EncodedError` if another version wrote it."""
        known = {field.name for field in dataclasses.fields(EncodedMeta)}
        if content.get("format") != FORMAT or not known <= set(content):
            raise EncodedError("was not written by this version of longvie; encode anew with --restart")
        values = {name: content[name] for name in known}
        values["latent"] = LatentShape(**values["latent"])
        values["history_frames"] = tuple(values["history_frames"])
        return EncodedMeta(**values)


def stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as it is kept; `ValueError` if a value does not fit the dtype or is no number."""
    kept = tensor.to("cpu", dtype).contiguous()
    if not kept.isfinite().all():
        if not tensor.isfinite().all():
            raise ValueError("the encoders gave values that are not numbers")
        raise ValueError(f"values do not fit {str(dtype).removeprefix('torch.')}; give --dtype bfloat16 or float32")
    return kept


def tensor_bytes(tensor: Tensor, dtype: torch.dtype) -> bytes:
    """Raw little-endian bytes of what is kept; errors as of `stored`."""
    return stored(tensor, dtype).view(torch.uint8).numpy().tobytes()


def bytes_tensor(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The inverse."""
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)
