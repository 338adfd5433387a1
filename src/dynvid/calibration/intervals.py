"""How sure a figure is: intervals by recording, since clips of one recording fail together."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynvid.calibration.binomial import at_most, binomial_cdf
from dynvid.errors import InputError

RESAMPLES = 1000


class Interval(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float


def share_interval(hits: Tensor, groups: Sequence[str] | None = None, confidence: float = 0.95) -> Interval:
    """An interval for the share of all videos that are hits, given those of a sample.

    Exact where every video is a recording of its own (Clopper and Pearson, 1934), else `bounded_interval` of as many
    means as there are recordings, which are taken to be of one size.

    Args:
        hits: Bool (N,).
        groups: The recording of each video, N strings; None where each is its own.
        confidence: In (0, 1).

    Raises:
        ValueError: There are no videos, or not one group each.

    Example:
        >>> import torch
        >>> low, high = share_interval(torch.arange(300) < 3)
        >>> f"{low:.4f} {high:.4f}"
        '0.0021 0.0289'
    """
    _check(len(hits), groups)
    videos, tail = len(hits), (1 - confidence) / 2
    recordings = videos if groups is None else len(set(groups))
    if recordings < videos:
        return bounded_interval(float(hits.double().mean()), recordings, confidence)
    count = int(hits.sum())
    low = crossing(lambda p: float(binomial_cdf(videos, p)[count - 1]) <= 1 - tail) if count else 0.0
    return Interval(low, highest_share(count, videos, confidence))


def highest_share(hits: int, count: int, confidence: float = 0.95) -> float:
    """Where `share_interval` ends, told by numbers alone: so many hits among so many videos, each its own recording.

    Example:
        >>> f"{highest_share(3, 300):.4f}"
        '0.0289'
    """
    if hits >= count:
        return 1.0
    tail = (1 - confidence) / 2
    return crossing(lambda p: p > hits / count and at_most(hits, count, p) <= tail)


def bounded_interval(mean: float, count: int, confidence: float = 0.95) -> Interval:
    """An interval for the mean of numbers in [0, 1], given that of a sample, whatever their distribution.

    Where a sample's mean would be too far off is told by the bounds of Hoeffding (1963) and Bentkus (2004), the better
    of the two. Unlike the bootstrap it does not shrink to a point where all numbers of a sample are alike.

    Args:
        mean: Of the sample.
        count: How many numbers it has.
        confidence: In (0, 1).

    Example:
        >>> low, high = bounded_interval(0.0, 12)  # nothing lost in 12 recordings
        >>> f"{low:.2f} {high:.2f}"
        '0.00 0.26'
    """
    tail = (1 - confidence) / 2

    def highest(mean: float) -> float:
        return 1.0 if mean >= 1 else crossing(lambda risk: risk > mean and _chance(mean, count, risk) <= tail)

    return Interval(1 - highest(1 - mean), highest(mean))


def difference_interval(differences: Tensor, groups: Sequence[str] | None = None) -> Interval:
    """A 95 % interval for the mean of differences in [-1, 1] of the same videos, such as right now less right before.

    The adjusted Wald interval for pairs (Agresti and Min, 2005), which adds half a video won and half a video lost, so
    that a sample without a difference does not pass for proof that there is none; here by recording.

    Args:
        differences: (N,).
        groups: The recording of each video, N strings; None where each is its own.

    Raises:
        ValueError: There are no videos, or not one group each.

    Example:
        >>> import torch
        >>> low, high = difference_interval(torch.zeros(100))
        >>> f"{low:.3f} {high:.3f}"
        '-0.019 0.019'
    """
    _check(len(differences), groups)
    _, recording = np.unique(np.arange(len(differences)) if groups is None else np.asarray(groups), return_inverse=True)
    recordings = int(recording.max()) + 1
    sums = np.bincount(recording, differences.double().cpu().numpy())
    shares = sums * recordings / len(differences)  # so that their mean is that over videos
    mean = shares.sum() / (recordings + 2)
    spread = np.sqrt(((shares**2).sum() + 1) / (recordings + 2) - mean**2)
    half = 1.959964 * spread / np.sqrt(recordings + 2)
    return Interval(float(mean - half), float(mean + half))


def mean_interval(values: Tensor, groups: Sequence[str] | None = None, confidence: float = 0.95) -> Interval:
    """An interval for the mean over videos, by the bootstrap: recordings are drawn anew, with a fixed seed.

    Args:
        values: (N,).
        groups: The recording of each video, N strings; None where each is its own.
        confidence: In (0, 1).

    Raises:
        ValueError: There are no videos, or not one group each.

    Example:
        >>> import torch
        >>> low, high = mean_interval(torch.linspace(0, 1, 101))
        >>> 0.4 < low < 0.5 < high < 0.6
        True
    """
    means = resampled_means(values[None], groups)[:, 0]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resampled_means(
    values: Tensor, groups: Sequence[str] | None = None, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Means over videos when recordings are drawn anew, with a fixed seed: values (M, N) -> (resamples, M)."""
    videos = values.shape[1]
    _check(videos, groups)
    _, recording = np.unique(np.arange(videos) if groups is None else np.asarray(groups), return_inverse=True)
    recordings = int(recording.max()) + 1
    sums = np.stack([np.bincount(recording, row, recordings) for row in values.double().cpu().numpy()], axis=1)
    sizes = np.bincount(recording, minlength=recordings)
    rng = np.random.default_rng(0)
    means = np.empty((resamples, len(values)))
    for draw in means:
        times = np.bincount(rng.integers(recordings, size=recordings), minlength=recordings)
        draw[:] = times @ sums / (times @ sizes)
    return means


def _chance(mean: float, count: int, risk: float) -> float:
    """At most how likely a mean that low, or lower, is where the true one is `risk`, above it."""
    apart = (1 - mean) * (math.log1p(-mean) - math.log1p(-risk)) if mean < 1 else 0.0
    apart += mean * math.log(mean / risk) if mean > 0 else 0.0
    bentkus = math.e * at_most(math.ceil(count * mean - 1e-9), count, risk)
    return min(math.exp(-count * apart), bentkus)


def crossing(holds: Callable[[float], bool]) -> float:
    """Where in [0, 1] something begins to hold, to the last bit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check(videos: int, groups: Sequence[str] | None) -> None:
    if not videos:
        raise InputError("an interval needs videos")
    if groups is not None and len(groups) != videos:
        raise InputError(f"groups has {len(groups)} entries for {videos} videos: one each")
