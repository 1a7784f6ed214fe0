"""What may be concluded from scores of several videos.

The video is what is resampled: frames of one video are not independent. Seeds are nested in videos: a resampled video
brings resampled seeds of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

RESAMPLES = 10_000
CONFIDENCE = 0.95
MIN_VIDEOS = 2  # below, nothing can be resampled: there is a value and no interval
MIN_VIDEOS_OF_EFFECT = 3  # two videos have the same spread in every resample


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over videos with its interval; low and high are None where there are too few videos for one."""

    mean: float
    low: float | None
    high: float | None
    num_videos: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One run less another over the same videos.

    Args:
        difference: mean of the paired differences, with its interval.
        effect: Cohen's d_z, the mean over the standard deviation of the paired differences, with its interval; None
            where the differences do not vary, or of fewer than three videos.
        p: two-sided, from the bootstrap; None with too few videos.
    """

    difference: Estimate
    effect: Estimate | None
    p: float | None


Values = Sequence[Float[ndarray, " s"]]  # a video's values, one a seed; seeds may differ in number


def _resampled(values: Values, rng: np.random.Generator, resamples: int) -> Float[ndarray, "r v"]:
    """Video means with seeds drawn anew: resample x video, of the videos that a resample drew."""
    count = len(values)
    drawn = rng.integers(count, size=(resamples, count))
    out = np.empty((resamples, count))
    for video, of_seeds in enumerate(values):
        at = drawn == video
        seeds = rng.integers(len(of_seeds), size=(int(at.sum()), len(of_seeds)))
        out[at] = np.asarray(of_seeds)[seeds].mean(axis=1)
    return out


def _interval(samples: Float[ndarray, " r"]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def estimate(values: Values, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over videos of their means over seeds, with a percentile bootstrap interval (Efron & Tibshirani 1993)."""
    mean = float(np.mean([np.mean(of_seeds) for of_seeds in values]))
    if len(values) < MIN_VIDEOS:
        return Estimate(mean=mean, low=None, high=None, num_videos=len(values))
    low, high = _interval(_resampled(values, np.random.default_rng(seed), resamples).mean(axis=1))
    return Estimate(mean=mean, low=low, high=high, num_videos=len(values))


def paired(one: Values, other: Values, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """`one` less `other`, whose videos are the same, in the same order.

    Seeds are paired where both have the same number of them; otherwise a video's mean over the other's seeds is taken.
    p is twice the smaller share of resampled means on either side of zero, counting the observed one (Davison & Hinkley
    1997, 4.2), so it is never zero. Of few videos that is far too sure of itself: all n resampled differences have one
    sign as soon as the n have. So p is at least 2 / 2^n, the least that flipping signs of n differences can give; below
    six videos nothing is significant at 0.05.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} videos and {len(other)} cannot be paired; give the same ones")
    differences = [
        np.asarray(a) - (np.asarray(b) if len(a) == len(b) else np.mean(b)) for a, b in zip(one, other, strict=True)
    ]
    means = np.array([difference.mean() for difference in differences])
    count = len(means)
    if count < MIN_VIDEOS:
        alone = Estimate(mean=float(means.mean()), low=None, high=None, num_videos=count)
        return Difference(difference=alone, effect=None, p=None)
    samples = _resampled(differences, np.random.default_rng(seed), resamples)
    centres = samples.mean(axis=1)
    low, high = _interval(centres)
    p = 2 * (1 + min(int((centres <= 0).sum()), int((centres >= 0).sum()))) / (resamples + 1)
    return Difference(
        difference=Estimate(mean=float(means.mean()), low=low, high=high, num_videos=count),
        effect=_effect(means, samples),
        p=min(1.0, max(p, 2.0 ** (1 - count))),
    )


def _effect(means: Float[ndarray, " v"], samples: Float[ndarray, "r v"]) -> Estimate | None:
    spread = means.std(ddof=1)
    if not spread > 0 or len(means) < MIN_VIDEOS_OF_EFFECT:
        return None
    spreads = samples.std(axis=1, ddof=1)
    varied = spreads > 0  # a resample of one video over and over has no spread
    low, high = _interval(samples[varied].mean(axis=1) / spreads[varied])
    return Estimate(mean=float(means.mean() / spread), low=low, high=high, num_videos=len(means))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: for all of a family, the chance of one false finding."""
    order = np.argsort(p_values)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
