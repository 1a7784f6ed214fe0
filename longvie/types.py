"""What flows between the rooms: segments, controls, the carry from one segment to the next.

Frames are uint8 RGB tensors `(t, h, w, 3)` on the CPU, 0..255, everywhere outside the model.
This file knows no codec, no model and no storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from longvie.segments import Segment as Segment

Frames = UInt8[Tensor, "t h w 3"]
Image = UInt8[Tensor, "h w 3"]


class VideoAutoencoder(Protocol):
    """What `AutoencoderKLWan` and our `BlockVAE` have in common: a causal video autoencoder as diffusers calls one.

    `config` has z_dim, scale_factor_spatial, scale_factor_temporal, latents_mean and latents_std.
    """

    @property
    def config(self) -> Any: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, x: Tensor) -> Any: ...
    def decode(self, z: Tensor) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class ControlMaps:
    """Dense and sparse control as frames, for one segment or a whole video; `None` where that control is absent."""

    dense: Frames | None = None
    sparse: Frames | None = None

    def __post_init__(self) -> None:
        if self.dense is not None and self.sparse is not None and self.dense.shape != self.sparse.shape:
            raise ValueError(
                f"dense control {tuple(self.dense.shape)} and sparse control {tuple(self.sparse.shape)} differ; "
                "give both the same number of frames and the same size"
            )

    def at(self, segment: Segment) -> ControlMaps:
        """The controls of one segment; past the end of the video the last frame is repeated."""

        def cut(frames: Frames | None) -> Frames | None:
            if frames is None:
                return None
            index = torch.arange(segment.start, segment.start + segment.num_frames).clamp(max=len(frames) - 1)
            return frames[index]

        return ControlMaps(dense=cut(self.dense), sparse=cut(self.sparse))


class ControlSource(Protocol):
    """Anything that can say the controls of a segment: `ControlMaps` in memory, or files read segment by segment."""

    def at(self, segment: Segment) -> ControlMaps: ...


@dataclass(frozen=True, kw_only=True)
class Carry:
    """All that passes from one segment to the next: a few MB, cheap to save, to send and to resume from."""

    next_index: int
    first_frame: Image  # the user's image, then the last frame made
    history: Frames  # the last frames made, oldest first; none at the start
    seed: int  # unified noise: every segment derives the same from it

    @staticmethod
    def start(first_frame: Image, seed: int) -> Carry:
        return Carry(
            next_index=0, first_frame=first_frame, history=first_frame.new_zeros(0, *first_frame.shape), seed=seed
        )

    def save(self, path: str | Path) -> None:
        """Write as safetensors."""
        tensors = {"first_frame": self.first_frame.contiguous(), "history": self.history.contiguous()}
        save_file(tensors, path, metadata={"next_index": str(self.next_index), "seed": str(self.seed)})

    @staticmethod
    def load(path: str | Path) -> Carry:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            return Carry(
                next_index=int(metadata["next_index"]),
                first_frame=file.get_tensor("first_frame"),
                history=file.get_tensor("history"),
                seed=int(metadata["seed"]),
            )


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """One finished segment: its new frames (the shared first frame is dropped from the second segment on)."""

    segment: Segment
    frames: Frames
    carry: Carry
    seconds: float  # wall time
