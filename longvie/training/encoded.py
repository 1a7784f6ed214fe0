"""Reads encoded training data: one sample is one segment, read alone from wherever it lies.

A plain map-style dataset: `len()`, `dataset[i]`. It holds no open file, so that processes of a loader may have a copy
each. In what order samples are taken, and what is left out of them, is the trainer's business.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from safetensors.torch import load
from torch import Tensor

from longvie.media.files import first_line
from longvie.training.encoded_layout import EMPTY, META, SAMPLES, EncodedError, EncodedMeta, bytes_tensor
from longvie.types import Image

Latents = Float[Tensor, "z f h w"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One segment of training data, tensors in the stored dtype; None: absent, or not asked for.

    Args:
        num_valid: frames that exist; past them the last frame is repeated, in the last segment of a video only.
        video, dense, sparse: latents.
        image, dense_image, sparse_image: latents of their first frame followed by grey (see conditioning.py).
        history: by number of frames, latents of as many frames that generation would hand on to this segment: the last
            of them is the segment's own first frame. None of the first segment.
        dense_degraded, dense_degraded_image: the dense control with less detail (see degradation.py), a few variants.
        text: the prompt's own tokens; see `padded_text`.
        first_frame: of the video, uint8.
    """

    index: int
    video_id: str
    segment: int
    num_segments: int
    num_valid: int
    caption: str
    video: Latents | None = None
    dense: Latents | None = None
    sparse: Latents | None = None
    image: Latents | None = None
    dense_image: Latents | None = None
    sparse_image: Latents | None = None
    history: Mapping[int, Latents] = field(default_factory=dict)
    dense_degraded: tuple[Latents, ...] = ()
    dense_degraded_image: tuple[Latents, ...] = ()
    text: Float[Tensor, "tokens text_dim"] | None = None
    image_embeds: Float[Tensor, "tokens image_dim"] | None = None
    first_frame: Image | None = None


@dataclass(frozen=True, kw_only=True)
class Empty:
    """What stands for what is left out.

    Args:
        text: of the empty prompt.
        image: latents of grey frames alone.
        image_embeds: of a grey image; None without an image encoder.
    """

    text: Float[Tensor, "tokens text_dim"]
    image: Latents
    image_embeds: Float[Tensor, "tokens image_dim"] | None


class EncodedDataset:
    """The samples that `longvie encode` wrote at a path or fsspec URI, in the order of video_id and segment.

    Args:
        columns: the tensors that are read, by their names in `meta.columns()`, and `first_frame`; all if None.

    Raises:
        EncodedError: it is not there, unfinished, broken or of another version.
    """

    def __init__(self, uri: str, columns: Sequence[str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise EncodedError(f"{uri}: {first_line(error)}") from error
        self._root = root.rstrip("/")
        data = self._read(META)
        try:
            content = json.loads(data)
            self.meta = EncodedMeta.from_json(content)
        except EncodedError as error:
            raise EncodedError(f"{self.uri}/{META} {error}") from error
        except ValueError as error:
            raise EncodedError(f"{self.uri}/{META} is not a JSON file; encode anew with --restart") from error
        self.fingerprint: str = content["fingerprint"]
        names = {"first_frame", *self.meta.columns()}
        unknown = sorted(set(columns or ()) - names)
        if unknown:
            raise EncodedError(f"{self.uri} has no column {unknown[0]}; it has {', '.join(sorted(names))}")
        self._columns = names if columns is None else set(columns)
        self.samples: pa.Table = self._table(SAMPLES)
        if not len(self.samples):
            raise EncodedError(f"{self.uri} holds no sample; see its errors.parquet")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        place = self.samples.slice(index % len(self), 1).to_pylist()[0]
        names = ["video_id", "segment", "num_segments", "num_valid", "caption"]
        row = self._row_group(place["shard"], place["row"], [*names, *sorted(self._columns)])
        said = (row["video_id"], row["segment"])
        if said != (place["video_id"], place["segment"]):
            raise EncodedError(f"{self.uri}/{place['shard']} holds another sample than {SAMPLES} says; encode again")
        shapes = self.meta.columns()
        tensors: dict[str, Any] = {
            name: bytes_tensor(row[name], self.meta.torch_dtype, shapes[name])
            for name in self._columns - {"first_frame"}
            if row[name] is not None
        }
        history = {n: tensors.pop(f"history_{n}") for n in self.meta.history_frames if f"history_{n}" in tensors}
        degraded = {
            kind: tuple(
                tensors.pop(name) for k in range(self.meta.degraded_variants) if (name := f"{kind}_{k}") in tensors
            )
            for kind in ("dense_degraded", "dense_degraded_image")
        }
        return Sample(
            index=index % len(self),
            **{name: row[name] for name in names},
            history=history,
            **degraded,
            first_frame=_png(row["first_frame"]) if "first_frame" in row else None,
            **tensors,
        )

    @cached_property
    def empty(self) -> Empty:
        """What stands for an absent prompt and first frame."""
        tensors = load(self._read(EMPTY))
        return Empty(text=tensors["text"], image=tensors["image"], image_embeds=tensors.get("image_embeds"))

    def padded_text(self, text: Float[Tensor, "tokens text_dim"]) -> Float[Tensor, "1 padded text_dim"]:
        """A prompt as the model takes it: zero rows up to `max_text_tokens`."""
        padded = text.new_zeros(1, self.meta.max_text_tokens, self.meta.text_dim)
        padded[0, : len(text)] = text
        return padded

    def check_model(self, transformer_config: Mapping[str, Any], encoders: str | None = None) -> None:
        """Raise `EncodedError` unless a model can be trained on this data.

        Args:
            transformer_config: of its transformer.
            encoders: `encoder_fingerprint` of the model; None where only the transformer is known.
        """
        meta, config = self.meta, transformer_config
        channels = meta.latent.channels
        needed = {
            "in_channels": 2 * channels + meta.temporal,
            "out_channels": channels,
            "text_dim": meta.text_dim,
            "image_dim": meta.image_dim,
        }
        wrong = [
            f"{name} {config.get(name)} where the data needs {value}"
            for name, value in needed.items()
            if config.get(name) != value
        ]
        patch = tuple(config["patch_size"])
        shape = (meta.latent.frames, meta.latent.height, meta.latent.width)
        if any(size % side for size, side in zip(shape, patch, strict=True)):
            wrong.append(f"patch_size {patch} where latents are {shape}")
        if encoders is not None and encoders != meta.encoder["sha256"]:
            wrong.append(f"encoders {encoders[:12]} where the data was made by {meta.encoder['sha256'][:12]}")
        if wrong:
            raise EncodedError(
                f"{self.uri} was encoded for another model: this one has {'; '.join(wrong)}; encode with the model "
                "that is to be trained"
            )

    def _row_group(self, shard: str, row: int, columns: list[str]) -> dict[str, Any]:
        try:
            with self._files.open(f"{self._root}/{shard}", "rb") as file:
                table = pyarrow.parquet.ParquetFile(file).read_row_group(row, columns=columns)
            return table.to_pylist()[0]
        except FileNotFoundError as error:
            raise EncodedError(f"{self.uri}/{shard} does not exist; encode again") from error
        except (pa.ArrowException, OSError, IndexError) as error:
            raise EncodedError(f"{self.uri}/{shard} cannot be read ({first_line(error)}); encode again") from error

    def _table(self, name: str) -> pa.Table:
        try:
            return pyarrow.parquet.read_table(io.BytesIO(self._read(name)))
        except pa.ArrowException as error:
            raise EncodedError(f"{self.uri}/{name} is not a Parquet file; encode again") from error

    def _read(self, name: str) -> bytes:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError as error:
            raise EncodedError(
                f"{self.uri} has no {name}; give a folder that longvie encode finished (the same command again goes on)"
            ) from error


def _png(data: bytes) -> Image:
    return torch.from_numpy(np.array(PILImage.open(io.BytesIO(data)).convert("RGB")))
