"""Depth: the protocol of estimators.

Estimators give float depth in any scale; `polarity` says whether large is far. Normalising is `normalize.py`'s. This
file needs no torch.
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.controls.normalize import Polarity


class DepthError(ValueError):
    """Depth or an estimator that cannot be used; one line that names the file or spec and the remedy."""


class DepthEstimator(Protocol):
    """Estimates depth of frames; weights are loaded once, in the constructor."""

    @property
    def name(self) -> str: ...

    @property
    def polarity(self) -> Polarity: ...

    @property
    def fingerprint(self) -> str:
        """Of everything its result depends on: the weights and the settings."""
        ...

    def __call__(self, frames: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, "t h w"]:
        """Depth of each frame at the frames' size, float32, in any scale (the same for all frames of a video)."""
        ...
