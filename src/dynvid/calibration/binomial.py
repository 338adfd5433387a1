"""The binomial distribution, exact."""

import math

import torch
from torch import Tensor


def binomial_cdf(trials: int, chance: float) -> Tensor:
    """P(X <= k) for k = 0, 1, ..., trials; float64 (trials + 1,)."""
    k = torch.arange(trials + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    return (ways + k * math.log(chance) + (trials - k) * math.log1p(-chance)).exp().cumsum(0)


def at_most(count: int, trials: int, chance: float) -> float:
    """P(X <= count), for a count not above the mean by more than 1, of which no array of all trials is made.

    >>> f"{at_most(3, 300, 0.03):.12f}" == f"{float(binomial_cdf(300, 0.03)[3]):.12f}"
    True
    """
    # The logarithm of P(X = k) bends by 4 / trials or more everywhere: what is left out is a part in 1e20 of the sum.
    k = torch.arange(max(0, count - 5 * math.isqrt(trials) - 5), count + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    return float((ways + k * math.log(chance) + (trials - k) * math.log1p(-chance)).exp().sum())
