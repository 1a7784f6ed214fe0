"""Depth: the protocol of estimators, and from a name to one that is loaded.

Estimators give float depth in any scale; `polarity` says whether large is far. Normalising is `normalize.py`'s. This
file needs no torch; the adapters that do are imported when one is asked for.
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.controls.normalize import Polarity

# Hub names of the spec's short names; all have safetensors.
DEPTH_ANYTHING_V2 = {
    f"depth-anything-v2-{size}": f"depth-anything/Depth-Anything-V2-{size.capitalize()}-hf"
    for size in ("small", "base", "large")
}
CONTROLNET_AUX = ("midas", "zoe", "leres")
SPECS = (
    f"builtin, {', '.join(DEPTH_ANYTHING_V2)}, transformers:REPO_OR_FOLDER, "
    f"{', '.join(f'{name}:FOLDER' for name in CONTROLNET_AUX)}"
)


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


def load_depth_estimator(
    spec: str = "builtin",
    *,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 8,
    polarity: Polarity | None = None,
) -> DepthEstimator:
    """Load the estimator that `spec` names.

    Args:
        spec: one of `SPECS`.
        device, dtype: where the model runs and in which precision; "float32", "float16" or "bfloat16".
        batch_size: frames the model is given at once.
        polarity: of a transformers model whose kind does not tell it; otherwise leave it None.

    Raises:
        DepthError: if there is no such estimator, or its weights cannot be had.
    """
    name, _, where = spec.partition(":")
    if spec == "builtin":
        from longvie.controls.builtin_depth import BuiltinDepth

        return BuiltinDepth()  # on the CPU: it is small
    if spec in DEPTH_ANYTHING_V2 or (name == "transformers" and where):
        from longvie.controls.depth_adapters import TransformersDepth

        source = DEPTH_ANYTHING_V2.get(spec, where)
        return TransformersDepth(source, device=device, dtype=dtype, batch_size=batch_size, polarity=polarity)
    if name in CONTROLNET_AUX:
        from longvie.controls.depth_adapters import ControlNetAuxDepth

        return ControlNetAuxDepth(name, where, device=device, dtype=dtype, batch_size=batch_size)
    if name == "video-depth-anything":
        raise DepthError(
            "video-depth-anything is not among transformers' models; run its authors' code with --save_exr and give "
            "the folder it writes as the video's depth, with polarity disparity"
        )
    raise DepthError(f"there is no depth estimator {spec!r}; give one of: {SPECS}")
