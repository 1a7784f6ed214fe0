"""From a name to what estimates depth or follows points. Modules that need torch are imported when one is asked for."""

from __future__ import annotations

from longvie.controls.depth import DepthError, DepthEstimator
from longvie.controls.normalize import Polarity
from longvie.controls.tracks import PointTracker, TrackError

# Hub names of the spec's short names; all have safetensors.
DEPTH_ANYTHING_V2 = {
    f"depth-anything-v2-{size}": f"depth-anything/Depth-Anything-V2-{size.capitalize()}-hf"
    for size in ("small", "base", "large")
}
CONTROLNET_AUX = ("midas", "zoe", "leres")
DEPTH_SPECS = (
    f"builtin, {', '.join(DEPTH_ANYTHING_V2)}, transformers:REPO_OR_FOLDER, "
    f"{', '.join(f'{name}:FOLDER' for name in CONTROLNET_AUX)}"
)
TRACKER_SPECS = "lucas-kanade, cotracker3:FOLDER, spatialtracker:FOLDER"


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
        spec: one of `DEPTH_SPECS`.
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
    raise DepthError(f"there is no depth estimator {spec!r}; give one of: {DEPTH_SPECS}")


def load_point_tracker(spec: str = "lucas-kanade", *, device: str = "cpu", dtype: str = "float32") -> PointTracker:
    """Load the tracker that `spec` names, one of `TRACKER_SPECS`.

    Args:
        device, dtype: where a neural tracker runs and in which precision.

    Raises:
        TrackError: if there is no such tracker, or its code or weights cannot be had.
    """
    name, _, where = spec.partition(":")
    if spec == "lucas-kanade":
        from longvie.controls.lucas_kanade import LucasKanade

        return LucasKanade()
    if name in ("cotracker3", "spatialtracker"):
        from longvie.controls import track_adapters

        adapter = track_adapters.CoTracker3 if name == "cotracker3" else track_adapters.SpatialTracker
        return adapter(where, device=device, dtype=dtype)
    raise TrackError(f"there is no tracker {spec!r}; give one of: {TRACKER_SPECS}")
