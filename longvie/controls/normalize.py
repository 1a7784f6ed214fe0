"""From float depth to the dense control: one range for the whole video, near black, far white.

Percentiles per segment are the fault that LongVie's global normalisation cures (P1 §2.2): the range is an argument
here, and whoever calls takes it over the whole video before cutting segments. Depth is stored as float16, so all of a
video's values fit a histogram with one bin a bit pattern: `DepthHistogram` is exact, small, and merges in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float16, Int64, UInt8
from numpy import ndarray

LOW_PERCENTILE, HIGH_PERCENTILE = 5.0, 95.0  # P1 §2.2

Polarity = Literal["depth", "disparity"]  # depth: large is far; disparity (inverse depth): large is near

NUM_BINS = 1 << 16  # one for every float16 bit pattern
_BATCH = 1 << 20  # values counted at once: numpy.bincount widens its input to int64
_PATTERNS = np.arange(NUM_BINS, dtype=np.uint16).view(np.float16)
# The finite bit patterns in the order of their values, and those values; -0.0 comes right before 0.0.
_ORDER = np.lexsort((~np.signbit(_PATTERNS), _PATTERNS.astype(np.float64)))
_ORDER = _ORDER[np.isfinite(_PATTERNS[_ORDER])]
_VALUES = _PATTERNS[_ORDER].astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
_IS_NAN, _IS_INF = np.isnan(_PATTERNS), np.isinf(_PATTERNS)


def depth_range(depth: Float[ndarray, ...]) -> tuple[float, float]:
    """The 5th and 95th percentile of all finite depth values given; give those of the whole video."""
    finite = depth[np.isfinite(depth)]
    if not finite.size:
        raise ValueError("depth has no finite value; check the depth estimator's output")
    low, high = np.percentile(finite, (LOW_PERCENTILE, HIGH_PERCENTILE))
    return float(low), float(high)


def normalize_depth(
    depth: Float[ndarray, "t h w"], low: float, high: float, *, disparity: bool = False
) -> UInt8[ndarray, "t h w 3"]:
    """Clip to the video's range and scale to grey 0..255, near = 0 (black), far = 255 (white), truncated.

    Args:
        depth: metric depth (large is far), or disparity (large is near) as most estimators give it; infinite values
            are at the range's ends, NaN is drawn far.
        low, high: the 5th and 95th percentile over the whole video, of the same quantity.

    Released code: ((p95 - d) / (p95 - p5)) * 255 from disparity d, truncated to uint8.
    """
    scale = max(high - low, np.finfo(np.float32).tiny)
    clipped = np.clip(np.asarray(depth, np.promote_types(depth.dtype, np.float32)), low, high)
    far = (high - clipped) / scale if disparity else (clipped - low) / scale
    grey = (np.nan_to_num(far, nan=1.0) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def store_depth(depth: Float[ndarray, "*shape"]) -> Float16[ndarray, "*shape"]:
    """Depth as it is stored, float16 (11 significant bits); finite values beyond its range saturate at ±65504."""
    limit = float(np.finfo(np.float16).max)
    saturated = np.where(np.isfinite(depth), np.clip(depth, -limit, limit), depth)
    return saturated.astype(np.float16) + np.float16(0)  # -0.0 becomes 0.0


@dataclass(frozen=True, eq=False)
class DepthHistogram:
    """How often each float16 bit pattern occurs: exact percentiles of any number of values, in 512 KiB.

    `counts[i]` belongs to the value whose bits are `i`. Sums of histograms are histograms of the union, so percentiles
    do not depend on how values were divided, on their order or on the number of workers.
    """

    counts: Int64[ndarray, " 65536"]

    def __post_init__(self) -> None:
        if self.counts.shape != (NUM_BINS,) or self.counts.dtype != np.int64:
            raise ValueError(
                f"a depth histogram has {NUM_BINS} int64 counts, not {self.counts.dtype}{self.counts.shape}"
            )

    @staticmethod
    def empty() -> DepthHistogram:
        return DepthHistogram(np.zeros(NUM_BINS, np.int64))

    @staticmethod
    def of(depth: Float16[ndarray, ...]) -> DepthHistogram:
        """Count stored depth; every value, NaN and infinite ones too."""
        histogram = DepthHistogram.empty()
        histogram.add(depth)
        return histogram

    def add(self, depth: Float16[ndarray, ...]) -> None:
        """Count more stored depth in place."""
        if depth.dtype != np.float16:
            raise TypeError(f"a depth histogram counts stored (float16) depth, not {depth.dtype}; see store_depth")
        patterns = np.ascontiguousarray(depth).reshape(-1).view(np.uint16)
        for start in range(0, len(patterns), _BATCH):
            self.counts[...] += np.bincount(patterns[start : start + _BATCH], minlength=NUM_BINS)

    def __add__(self, other: DepthHistogram) -> DepthHistogram:
        return DepthHistogram(self.counts + other.counts)

    @property
    def count(self) -> int:
        """Number of finite values."""
        return int(self.counts[_ORDER].sum())

    @property
    def num_nan(self) -> int:
        return int(self.counts[_IS_NAN].sum())

    @property
    def num_inf(self) -> int:
        return int(self.counts[_IS_INF].sum())

    @property
    def min(self) -> float:
        return self._at([0])[0]

    @property
    def max(self) -> float:
        return self._at([self.count - 1])[0]

    def percentile(self, q: float) -> float:
        """The q-th percentile, 0..100, of all finite values; NaN and infinite ones are left out.

        Bit-identical to `numpy.percentile(values.astype(numpy.float64), q)` (linear interpolation). -0.0 counts as
        0.0; numpy's own choice between the two depends on their order.

        Raises:
            ValueError: if there is no finite value, or q is not in 0..100.
        """
        if not 0 <= q <= 100:
            raise ValueError(f"percentile {q} is not in 0..100")
        last = self.count - 1
        # As numpy does (`numpy.lib._function_base_impl`: _quantile, _get_indexes, _lerp), rounding for rounding: the
        # place in the sorted values is a float64, and interpolation starts from the nearer neighbour.
        place = np.float64(last) * (np.float64(q) / np.float64(100))
        if place >= last:
            return self.max
        below = int(np.floor(place))
        a, b = self._at([below, below + 1])
        t = place - np.floor(place)
        return float(b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t)

    def _at(self, ranks: list[int]) -> list[float]:
        """The values at places `ranks` (from 0) of all finite values in order."""
        ends = np.cumsum(self.counts[_ORDER])
        if not ends[-1]:
            raise ValueError("depth has no finite value; check the depth estimator's output")
        return _VALUES[np.searchsorted(ends, ranks, side="right")].tolist()

    def to_bytes(self) -> bytes:
        """The counts as 65,536 little-endian int64: 512 KiB whatever was counted; mostly zeros, so it compresses."""
        return self.counts.astype("<i8").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> DepthHistogram:
        if len(data) != NUM_BINS * 8:
            raise ValueError(f"a depth histogram has {NUM_BINS * 8} bytes, not {len(data)}")
        return DepthHistogram(np.frombuffer(data, "<i8").astype(np.int64))
