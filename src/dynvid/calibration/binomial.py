"""The binomial distribution, exact."""

import math

import torch
from torch import Tensor


def binomial_cdf(trials: int, chance: float) -> Tensor:
    """P(X <= k) for k = 0, 1, ..., trials; float64 (trials + 1,)."""
    k = torch.arange(trials + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    return (ways + k * math.log(chance) + (trials - k) * math.log1p(-chance)).exp().cumsum(0)
