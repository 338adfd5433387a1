"""Intervals against sums in whole numbers and against loops."""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import (
    bounded_interval,
    difference_interval,
    mean_interval,
    resampled_means,
    share_interval,
)


def at_most(count, videos, chance):
    """P(X <= count) for a binomial X, in exact arithmetic."""
    chance = Fraction(chance)
    return float(sum(comb(videos, k) * chance**k * (1 - chance) ** (videos - k) for k in range(count + 1)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_the_ends_of_a_share_are_where_the_exact_tails_are_a_fortieth(case):
    videos, count = case
    low, high = share_interval(torch.arange(videos) < count)
    assert low <= count / videos <= high
    if count:
        assert 1 - at_most(count - 1, videos, low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0
    if count < videos:
        assert at_most(count, videos, high) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1


def test_recordings_are_drawn_whole():
    """Two recordings, one all hits and one none: a draw of recordings gives 0, 1/2 or 1, never anything between."""
    hits = torch.tensor([True] * 10 + [False] * 10)
    groups = ["a"] * 10 + ["b"] * 10
    means = resampled_means(hits[None].double(), groups)
    assert set(means.flatten().tolist()) == {0.0, 0.5, 1.0}
    low, high = share_interval(hits)
    assert 0.25 < low < high < 0.75
    low, high = share_interval(hits, groups)
    assert low < 0.01
    assert high > 0.99


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.floats(0, 1))
def test_a_bound_on_a_mean_is_the_better_of_two(count, mean):
    """Hoeffding's in its binary form and Bentkus', from their formulas, in exact arithmetic where it is needed."""
    low, high = bounded_interval(mean, count)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    mirrored = bounded_interval(1 - mean, count)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-9)
    if high < 1:

        def chance(risk):
            kept = (mean / risk) ** mean * ((1 - mean) / (1 - risk)) ** (1 - mean)
            return min(kept**-count, math.e * at_most(math.ceil(count * mean - 1e-9), count, risk))

        assert chance(high + 1e-6 * (1 - high)) <= 0.025
        assert high - mean < 1e-6 or chance(high - 1e-3 * (high - mean)) > 0.025


@pytest.mark.slow
def test_means_of_recordings_are_covered_where_few_of_them_fail():
    """Where the bootstrap covers the true mean in three of four samples."""
    rng = np.random.default_rng(1)
    covered = [[], []]
    for _ in range(150):
        shares = np.where(rng.random(35) < 0.05, rng.random(35), 0.0)  # the mean of all is 2.5 %
        low, high = bounded_interval(shares.mean(), 35)
        covered[0].append(low <= 0.025 <= high)
        low, high = mean_interval(torch.from_numpy(shares))
        covered[1].append(low <= 0.025 <= high)
    assert np.mean(covered[0]) >= 0.95
    assert np.mean(covered[1]) < 0.9


def test_a_difference_is_covered_where_few_videos_differ():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(1000):
        differences = np.where(rng.random(100) < 0.01, -1.0, 0.0)
        low, high = difference_interval(torch.from_numpy(differences))
        covered.append(low <= -0.01 <= high)
    assert np.mean(covered) >= 0.94
    low, high = difference_interval(torch.tensor([1.0] * 30 + [-1.0] * 10 + [0.0] * 60))
    n, won, lost = 102, 30.5, 10.5  # Agresti and Min: half a pair more on either side, and one in each other cell
    half = 1.959964 * math.sqrt(won + lost - (won - lost) ** 2 / n) / n
    assert (low, high) == pytest.approx(((won - lost) / n - half, (won - lost) / n + half))
    by_recording = difference_interval(torch.tensor([1.0] * 30 + [0.0] * 70), [f"{n // 10}" for n in range(100)])
    assert by_recording.high - by_recording.low > 0.3  # ten recordings say less than a hundred videos


@pytest.mark.slow
def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        of_recording = rng.random(40)
        values = np.clip(of_recording[:, None] + rng.normal(0, 0.05, (40, 5)), -1, 2).flatten()
        low, high = mean_interval(torch.from_numpy(values), [str(n // 5) for n in range(200)])
        covered += low <= 0.5 <= high
    assert 180 <= covered <= 198  # 95 %, give or take


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="needs videos"):
        mean_interval(torch.zeros(0))
    with pytest.raises(ValueError, match="groups has 2 entries for 3 videos"):
        share_interval(torch.zeros(3, dtype=torch.bool), ["a", "a"])
