"""What a user asks `longvie encode` for, checked at the door; and what the encoded data will be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longvie.config import MAX_SEED, check_size
from longvie.models.encoders import EncoderConfig
from longvie.models.loading import PipelineConfig
from longvie.training.encoded_layout import DTYPES, EncodedMeta, LatentShape
from pipelines.encoding.prepared import PreparedData
from pipelines.errors import UserError
from pipelines.storage import local_path_of, scheme_of

# What is trained on is 0..16 frames (LongVie 2), in the numbers that give 1, 2, 3 or 4 latents; 8 is the release's own.
HISTORY_FRAMES = (1, 5, 8, 9, 13, 16)
MAX_HISTORY = 64
MAX_VARIANTS = 16
SEGMENTS_PER_SHARD = 8  # of the 14B model: some 170 MB


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """All a run is asked for. Out-of-range values raise `UserError` naming the flag.

    Args:
        prepared: a folder or URI that `longvie prepare` finished.
        out: where encoded data goes, any of storage.py's URIs.
        model: whose encoders are used: a diffusers folder or hub name; None or "tiny": the embedded one.
        dtype: of stored tensors; None for bfloat16 of a model as large as Wan's, else float16.
        encoder_dtype: of the text and image encoders, as of `longvie generate`; None for float32 on the CPU and
            bfloat16 on a GPU. The VAE is float32.
        history_frames: numbers of frames before a segment; None for `HISTORY_FRAMES`, as far as a segment has them.
        degraded_variants: of each dense control (data-level degradation, LongVie §2.3); seed: of their draws.
        workers: None for as many as fit; 0 for this process, without Ray.
        gpus_per_worker: a part of one is shared; None for 1 where there are GPUs, else 0.
        prune: whether what was made of videos that PREPARED no longer has is removed.
        strict: whether any error is a failure of the run.
    """

    prepared: str
    out: str
    model: str | None = None
    dtype: str | None = None
    encoder_dtype: str | None = None
    history_frames: tuple[int, ...] | None = None
    degraded_variants: int = 1
    seed: int = 0
    segments_per_shard: int = SEGMENTS_PER_SHARD
    strict: bool = False
    restart: bool = False
    prune: bool = False
    workers: int | None = None
    gpus_per_worker: float | None = None
    threads_per_worker: int = 1
    address: str | None = None
    wait_for_nodes: float = 0.0

    def __post_init__(self) -> None:
        for flag, value, low, high in (
            ("--degraded-variants", self.degraded_variants, 0, MAX_VARIANTS),
            ("--seed", self.seed, 0, MAX_SEED),
            ("--segments-per-shard", self.segments_per_shard, 1, 1024),
            ("--workers", self.workers, 0, math.inf),
            ("--gpus-per-worker", self.gpus_per_worker, 0, math.inf),
            ("--threads-per-worker", self.threads_per_worker, 1, math.inf),
            ("--wait-for-nodes", self.wait_for_nodes, 0, math.inf),
            *(("--history-frames", count, 1, MAX_HISTORY) for count in self.history_frames or ()),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"{flag} is {value}; give {low} or more" + (f", to {high:g}" if high < math.inf else "")
                )
        for flag, value in (("--dtype", self.dtype), ("--encoder-dtype", self.encoder_dtype)):
            if value is not None and value not in DTYPES:
                raise UserError(f"{flag} is {value}; choose one of {', '.join(DTYPES)}")
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UserError(f"--gpus-per-worker is {gpus}; give a part of one GPU, or whole ones")
        if self.workers == 0 and (self.address or gpus):
            raise UserError("--workers 0 works in this process, without Ray: leave out --address and --gpus-per-worker")
        if scheme_of(self.out) == "memory" and self.workers != 0:
            raise UserError("--out memory:// lives within one process; give --workers 0, or another place")
        if _place(self.out) == _place(self.prepared):
            raise UserError(f"--out {self.out} is the prepared folder itself; choose another place")

    def meta(
        self, prepared: PreparedData, model: PipelineConfig, encoders: EncoderConfig, sha256: str, device: str
    ) -> EncodedMeta:
        """What the encoded data is; `UserError` unless the model takes what was prepared."""
        frames = prepared.frames
        height, width, fps = frames["height"], frames["width"], float(frames["fps"])
        remedy = "prepare it with --model of that model"
        if prepared.segment_length != model.segment_length:
            raise UserError(
                f"{self.prepared} has segments of {prepared.segment_length} frames, the model makes "
                f"{model.segment_length}; {remedy}"
            )
        if fps != model.fps:
            raise UserError(f"{self.prepared} has {fps:g} frames a second, the model makes {model.fps}; {remedy}")
        try:
            check_size(height, width, model.size_multiple)
        except ValueError as error:
            raise UserError(f"{self.prepared}: {error}; {remedy}") from error
        return EncodedMeta(
            encoder={
                "sha256": sha256,
                "dtype": self.encoder_dtype or ("float32" if device == "cpu" else "bfloat16"),
                "device": device,
                "threads": self.threads_per_worker,
            },
            height=height,
            width=width,
            fps=fps,
            segment_length=model.segment_length,
            latent=LatentShape(
                channels=encoders.z_dim,
                frames=1 + (model.segment_length - 1) // encoders.temporal,
                height=height // encoders.spatial,
                width=width // encoders.spatial,
            ),
            temporal=encoders.temporal,
            text_dim=encoders.text_dim,
            max_text_tokens=encoders.max_text_tokens,
            image_dim=encoders.image_dim,
            image_tokens=encoders.image_tokens,
            history_frames=self._history(model.segment_length),
            dtype=self.dtype or encoders.dtype,
            segments_per_shard=self.segments_per_shard,
            degraded_variants=self.degraded_variants,
            seed=self.seed,
        )

    def _history(self, segment_length: int) -> tuple[int, ...]:
        if self.history_frames is None:
            return tuple(count for count in HISTORY_FRAMES if count <= segment_length)
        if max(self.history_frames, default=0) > segment_length:
            raise UserError(
                f"--history-frames {max(self.history_frames)}: a segment of {segment_length} frames hands on no more"
            )
        return tuple(sorted(set(self.history_frames)))


def parse_history(text: str | None) -> tuple[int, ...] | None:
    """`1,5,8` as numbers; `none` as no number."""
    if text is None:
        return None
    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--history-frames {text}: give numbers of frames as in 1,5,8, or none")
    return tuple(int(part) for part in parts)


def _place(uri: str) -> str:
    return str(local_path_of(uri).resolve()) if scheme_of(uri) == "file" else uri.rstrip("/")
