"""What sets of thresholds lead to, on recorded scores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Operation(NamedTuple):
    """What M sets of thresholds lead to on N videos.

    Attributes:
        accuracy: Top-1 in [0, 1], (M,).
        gmacs: Mean GMACs per video, (M,).
        share: Share of the videos that take each exit, (M, K).
    """

    accuracy: Tensor
    gmacs: Tensor
    share: Tensor


def operate(scores: Tensor, correct: Tensor, gmacs: Sequence[float], thresholds: Tensor) -> Operation:
    """Apply sets of thresholds to recorded scores.

    Args:
        scores: How sure each exit is of each video, float (K, N).
        correct: Whether it is right, bool (K, N).
        gmacs: Cumulative cost of each exit, K numbers.
        thresholds: Float (M, K).

    Example:
        >>> scores = torch.tensor([[0.9, 0.2], [0.8, 0.7]])
        >>> correct = torch.tensor([[True, False], [True, True]])
        >>> operate(scores, correct, [1.0, 3.0], torch.tensor([[0.5, 0.0]]))
        Operation(accuracy=tensor([1.]), gmacs=tensor([2.]), share=tensor([[0.5000, 0.5000]]))
    """
    exits, videos = scores.shape
    levels = thresholds.to(scores)  # both rounded alike
    exact = torch.promote_types(scores.dtype, torch.float32)  # numpy knows no bfloat16
    # numpy compares and counts several times faster than torch does, and nothing of M x N is ever held.
    score, right, level = scores.to(exact).cpu().numpy(), correct.cpu().numpy(), levels.to(exact).cpu().numpy()
    taken = np.zeros((len(level), exits), dtype=np.int64)
    hits = np.zeros(len(level), dtype=np.int64)
    sure = np.empty(videos, dtype=bool)
    for m, row in enumerate(level):
        inside = np.ones(videos, dtype=bool)
        for k in range(exits - 1):
            np.greater_equal(score[k], row[k], out=sure)
            sure &= inside
            taken[m, k] = np.count_nonzero(sure)
            if taken[m, k]:
                inside ^= sure
                sure &= right[k]
                hits[m] += np.count_nonzero(sure)
        taken[m, -1] = np.count_nonzero(inside)
        inside &= right[-1]
        hits[m] += np.count_nonzero(inside)
    share = torch.from_numpy(taken).to(scores.device).float() / videos
    accuracy = torch.from_numpy(hits).to(scores.device).float() / videos
    # In float64, since a product of one row is not rounded as one of many rows on every processor.
    mean = share.double() @ torch.tensor(gmacs, dtype=torch.float64, device=share.device)
    return Operation(accuracy, mean.to(share), share)
