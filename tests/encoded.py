"""Encoded training data of the toy pipeline, made by the real encoders from a few moving frames. A fixture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file

from longvie.pipeline import LongViePipeline
from longvie.training.encoded_layout import (
    EMPTY,
    META,
    SAMPLE_ROWS,
    SAMPLES,
    SHARDS,
    EncodedMeta,
    LatentShape,
    tensor_bytes,
)
from longvie.training.encoding import SegmentEncoder
from longvie.types import Frames

LENGTH, HEIGHT, WIDTH = 9, 32, 48
HISTORY = (1, 5, 8)


def moving(count: int, seed: int) -> Frames:
    """Smooth frames that differ from each other, uint8 (count, 32, 48, 3)."""
    phase = torch.rand(3, generator=torch.Generator().manual_seed(seed)) * 6
    t, y, x = (torch.arange(n).float() for n in (count, HEIGHT, WIDTH))
    wave = x.view(1, 1, -1, 1) / 7 + y.view(1, -1, 1, 1) / 9 + t.view(-1, 1, 1, 1) / 5
    return (127 + 120 * torch.sin(wave + phase)).to(torch.uint8)


def write_encoded(folder: Path, pipe: LongViePipeline, sha256: str, videos: int = 3, segments: int = 2) -> Path:
    """As `longvie encode` writes it: `videos` videos of `segments` segments; video 1 has no sparse control."""
    meta = EncodedMeta(
        encoder={"sha256": sha256, "dtype": "float32", "device": "cpu", "threads": 1},
        height=HEIGHT,
        width=WIDTH,
        fps=8.0,
        segment_length=LENGTH,
        latent=LatentShape(channels=4, frames=3, height=4, width=6),
        temporal=4,
        text_dim=16,
        max_text_tokens=8,
        image_dim=None,
        image_tokens=0,
        history_frames=HISTORY,
        dtype="float32",
        segments_per_shard=segments,
    )
    encoder = SegmentEncoder(pipe, meta)
    (folder / SHARDS).mkdir(parents=True)
    (folder / META).write_text(json.dumps({**meta.to_json(), "fingerprint": "toy"}))
    save_file({name: value.contiguous() for name, value in encoder.empty().items()}, folder / EMPTY)
    samples = []
    for video in range(videos):
        shard, step = f"{SHARDS}/v{video}.parquet", LENGTH - 1
        frames, dense, sparse = (moving(segments * step + 1, 10 * video + kind) for kind in range(3))
        with pyarrow.parquet.ParquetWriter(folder / shard, meta.schema()) as writer:
            for k in range(segments):
                part = slice(k * step, k * step + LENGTH)
                png = io.BytesIO()
                PILImage.fromarray(frames[k * step].numpy()).save(png, format="PNG")
                history = frames[: k * step + 1] if k else frames[:0]
                known = {"video_id": f"v{video}", "segment": k, "num_segments": segments, "num_valid": LENGTH}
                made = encoder.segment(
                    frames[part], history, dense[part], None if video == 1 else sparse[part], "a red ball"
                )
                row = {**known, "caption": "a red ball", "first_frame": png.getvalue()}
                row |= {name: tensor_bytes(tensor, meta.torch_dtype) for name, tensor in made.items()}
                writer.write_table(pa.Table.from_pylist([row], meta.schema()))
                samples.append({**known, "shard": shard, "row": k, "has_dense": True, "has_sparse": video != 1})
    pyarrow.parquet.write_table(pa.Table.from_pylist(samples, SAMPLE_ROWS), folder / SAMPLES)
    return folder
