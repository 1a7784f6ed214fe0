"""Neural point trackers: CoTracker3 and SpatialTracker, run with their authors' code.

Neither is on a package index: FOLDER is a checkout of the code that also holds the weights as safetensors (what is
published is a pickle; `weights.py` converts it). Code is imported only when a tracker is loaded.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray

from longvie.controls.tracks import PIXEL_CENTRE, TrackError, Tracks, inside
from longvie.controls.weights import WeightsError, find_weights, fingerprint, load_weights, torch_dtype

WHITE = 255.0  # the dense control's grey at the far end


class CoTracker3:
    """CoTracker3, offline: all frames of a segment at once."""

    WINDOW = 60  # frames its time embedding was made for; it interpolates for others (facebookresearch/co-tracker)
    PUBLISHED = "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth"

    def __init__(self, where: str, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Load code and weights from `where`, a checkout with scaled_offline.safetensors; see `load_point_tracker`."""
        self.name, self.needs_torch = "cotracker3", True
        self._device = torch.device(device)
        try:
            self._dtype = torch_dtype(dtype)
            weights = find_weights(where, "scaled_offline", published=self.PUBLISHED)
            code = _import("cotracker.predictor", where, "https://github.com/facebookresearch/co-tracker")
            self._predictor = code.CoTrackerPredictor(checkpoint=None, offline=True, v2=False, window_len=self.WINDOW)
            load_weights(self._predictor.model, weights)
        except WeightsError as error:
            raise TrackError(f"tracker cotracker3: {error}") from error
        self._predictor.eval().to(device=self._device, dtype=self._dtype)
        self.fingerprint = fingerprint(self._predictor.model, self.name, self.WINDOW, dtype)

    @torch.inference_mode()
    def __call__(
        self,
        frames: UInt8[ndarray, "t h w 3"],
        points: Float[ndarray, "n 2"],
        depth: Shaped[ndarray, "t h w"] | None = None,
    ) -> Tracks:
        """Track `points` of frame 0; see `PointTracker`."""
        video, queries = _inputs(frames, points, self._device, self._dtype)
        tracks, visibility = self._predictor(video, queries=queries)
        return _tracks(tracks, visibility, frames, depth)


class SpatialTracker:
    """SpatialTracker, what the paper used (P1 App. C); it takes the segment's dense control as depth."""

    WINDOW = 12  # frames at once: its authors' demo
    SHAPE = (384, 512)  # height, width it works at
    STRIDE, LAYERS = 4, 6  # of its feature maps; of its transformer in space and in time
    PUBLISHED = "spaT_final.pth (linked from https://github.com/henry123-boy/SpaTracker)"

    def __init__(self, where: str, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Load code and weights from `where`, a checkout with spaT_final.safetensors; see `load_point_tracker`."""
        self.name, self.needs_torch = "spatialtracker", True
        self._device = torch.device(device)
        try:
            self._dtype = torch_dtype(dtype)
            weights = find_weights(where, "spaT_final", published=self.PUBLISHED)
            home = "https://github.com/henry123-boy/SpaTracker"
            predictor = _import("models.spatracker.predictor", where, home).SpaTrackerPredictor
            network = _import("models.spatracker.models.core.spatracker.spatracker", where, home).SpaTracker
            model = network(
                stride=self.STRIDE,
                S=self.WINDOW,
                add_space_attn=True,
                space_depth=self.LAYERS,
                time_depth=self.LAYERS,
            )
            # Its authors' loader, too, takes the model's keys and leaves the file's others.
            load_weights(model, weights, leftovers=("",))
        except WeightsError as error:
            raise TrackError(f"tracker spatialtracker: {error}") from error
        # Its constructor would unpickle a file; this sets what it sets.
        self._predictor = predictor.__new__(predictor)
        torch.nn.Module.__init__(self._predictor)
        self._predictor.interp_shape, self._predictor.support_grid_size = self.SHAPE, 6
        self._predictor.model = model
        self._predictor.eval().to(device=self._device, dtype=self._dtype)
        self.fingerprint = fingerprint(model, self.name, self.WINDOW, dtype)

    @torch.inference_mode()
    def __call__(
        self,
        frames: UInt8[ndarray, "t h w 3"],
        points: Float[ndarray, "n 2"],
        depth: Shaped[ndarray, "t h w"] | None = None,
    ) -> Tracks:
        """Track `points` of frame 0; see `PointTracker`. It needs `depth`."""
        if depth is None:
            raise TrackError("spatialtracker needs depth; give the segment's dense control")
        video, queries = _inputs(frames, points, self._device, self._dtype)
        # The release's z is near-large: 255 minus the grey (see render.py).
        z = torch.from_numpy(WHITE - np.asarray(depth, np.float32))[:, None].to(self._device, self._dtype)
        tracks, visibility, _ = self._predictor(video, video_depth=z, queries=queries, wind_length=self.WINDOW)
        return _tracks(tracks[..., :2], visibility, frames, depth)


def _import(module: str, where: str, home: str) -> ModuleType:
    """Import from the checkout `where` if it holds the module's package, otherwise from what is installed."""
    package = module.partition(".")[0]
    folder = Path(where).expanduser().resolve()
    if (folder / package).is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WeightsError(f"its code cannot be imported ({error}); give a checkout of {home} as FOLDER") from error


def _inputs(
    frames: UInt8[ndarray, "t h w 3"], points: Float[ndarray, "n 2"], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames as (1, t, 3, h, w), 0..255, and points of frame 0 as (1, n, 3): t, x, y with pixel centres at 0, 1, ..."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].to(device, dtype)
    xy = torch.from_numpy(np.asarray(points, np.float32) - np.float32(PIXEL_CENTRE))
    queries = torch.cat([torch.zeros(len(xy), 1), xy], dim=1)[None].to(device, dtype)
    return video, queries


def _tracks(
    tracks: torch.Tensor,
    visibility: torch.Tensor,
    frames: UInt8[ndarray, "t h w 3"],
    depth: Shaped[ndarray, "t h w"] | None,
) -> Tracks:
    positions = tracks[0].float().cpu().numpy() + np.float32(PIXEL_CENTRE)
    seen = visibility[0].reshape(positions.shape[:2]).bool().cpu().numpy()
    made = Tracks(points=positions, visibility=seen & inside(positions, *frames.shape[1:3]))
    return made if depth is None else made.with_depth(depth[0])
