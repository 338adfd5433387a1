"""Thresholds for a budget or for an observed loss: the best of few sets on a calibration split."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynvid.calibration.operate import operate
from dynvid.errors import InputError

# MSDNet's grid: exit k is given a share of the videos proportional to q**k.
SHARE_RATIOS = tuple(round(0.05 * step, 2) for step in range(1, 40))
SHARED_LEVELS = 80  # thresholds that all exits in use have in common


def num_candidates(exits: int) -> int:
    """How many sets of thresholds `candidate_thresholds` gives for a net of so many exits."""
    return len(SHARE_RATIOS) + max(exits - 1, 0) * SHARED_LEVELS + 1


def candidate_thresholds(scores: Tensor) -> Tensor:
    """The sets of thresholds that calibration chooses from: scores (K, N) -> (M, K), M = `num_candidates(K)`.

    Few sets along K lines, since a finer search fits the calibration split and not the videos to come:

    - MSDNet's budgeted batch rule (Huang et al., ICLR 2018). For each q of `SHARE_RATIOS`, exit k shall be taken by a
      share of the videos proportional to q**k: among those still there, the surest floor(N * share) leave, and the
      threshold is the score of the last that left. A quota of 0 switches the exit off.
    - One threshold for all exits, at `SHARED_LEVELS` quantiles of the scores. A weak exit then lets few videos go,
      where a quota makes it let go of wrong ones. Likewise with the first exit switched off, the first two, and so on:
      an exit may be sure and wrong.

    The last set is full inference.

    Example:
        >>> candidate_thresholds(torch.rand(3, 100)).shape
        torch.Size([200, 3])
    """
    exits, videos = scores.shape
    table = scores.float().cpu().numpy()
    rows = []
    for ratio in SHARE_RATIOS:
        shares = torch.tensor([ratio**k for k in range(1, exits + 1)], dtype=torch.float64)
        quotas = (videos * shares / shares.sum()).floor().long().tolist()
        rows.append(_fill_quotas(table, quotas))
    for off in range(exits - 1):
        ascending = torch.from_numpy(np.sort(table[off:-1], axis=None))
        levels = ascending[torch.linspace(0, len(ascending) - 1, SHARED_LEVELS).long()]
        shared = levels[:, None].repeat(1, exits)
        shared[:, :off] = torch.inf
        rows += shared
    rows.append(torch.full((exits,), torch.inf))
    thresholds = torch.stack(rows)
    thresholds[:, -1] = -torch.inf
    return thresholds


class Frontier(NamedTuple):
    """The candidates that no cheaper one beats, from cheap to dear.

    There are `num_candidates(K)` rows; one that is beaten repeats the row before it.

    Attributes:
        thresholds: (M, K).
        gmacs: Mean GMACs per video, (M,), ascending.
        lost: Share of the videos lost, (M,), descending to 0.
    """

    thresholds: Tensor
    gmacs: Tensor
    lost: Tensor


def frontier(scores: Tensor, correct: Tensor, gmacs: Sequence[float]) -> Frontier:
    """What a calibration split says about cost and loss.

    Lost is a video that the last exit gets right and the exit taken gets wrong. Videos won the other way are not set
    against it: on a small calibration split they are luck, and would let thresholds through that lose on new videos.

    Args: See `operate`.

    Example:
        >>> scores, correct = torch.rand(2, 100), torch.rand(2, 100) < 0.8
        >>> frontier(scores, correct, [1.0, 3.0]).lost[-1]
        tensor(0.)
    """
    thresholds, cost, lost = _outcomes(scores, correct, gmacs)
    ascending = sorted(range(len(thresholds)), key=lambda m: (float(cost[m]), float(lost[m])))
    rows = ascending[:1]
    for m in ascending[1:]:
        rows.append(m if lost[m] < lost[rows[-1]] else rows[-1])
    return Frontier(thresholds[rows], cost[rows], lost[rows])


def whole_curve(scores: Tensor, correct: Tensor, gmacs: Sequence[float]) -> Tensor:
    """The thresholds of a curve from the cheapest point to full inference, (M, K), M = `num_candidates(K)`.

    First the `frontier`, which ends where this calibration split loses nothing. On other videos something may be lost
    there, and what lies between it and full inference is reached by one threshold for all exits, raised step by step.

    Args: See `operate`.

    Example:
        >>> scores, correct = torch.rand(2, 100), torch.rand(2, 100) < 0.8
        >>> whole_curve(scores, correct, [1.0, 3.0])[-1]
        tensor([inf, -inf])
    """
    found = frontier(scores, correct, gmacs).thresholds
    best = torch.unique_consecutive(found, dim=0)
    if len(best) == len(found):
        return found
    ascending = torch.from_numpy(np.sort(scores[:-1].float().cpu().numpy(), axis=None))
    steps = len(found) - len(best)
    levels = ascending[torch.linspace(0, len(ascending) - 1, steps).long()] if len(ascending) else torch.empty(steps)
    levels[-1] = torch.inf
    raised = torch.maximum(best[-1], levels[:, None])
    raised[:, -1] = -torch.inf
    return torch.cat([best, raised])


def thresholds_for_budget(
    scores: Tensor, correct: Tensor, gmacs: Sequence[float], budget: float, unit: str = "GMACs"
) -> Tensor:
    """The candidate (K,) that loses least within a budget per video, in GMACs or whatever unit the costs are in.

    Among equals it is the dearest one: on a small calibration split many candidates lose nothing, and the one that
    spends the budget is the one to trust with new videos. So a budget of full inference saves nothing; and videos that
    are harder than those of the calibration split cost more.

    Args: See `operate`; `unit` is for errors.

    Raises:
        ValueError: Even leaving everything at the first exit costs more, or scores are NaN.
    """
    if gmacs[0] > budget:
        raise InputError(f"a budget of {budget:g} {unit} is below the first exit, which costs {gmacs[0]:g}")
    thresholds, cost, lost = _outcomes(scores, correct, gmacs)
    affordable = [m for m in range(len(cost)) if cost[m] <= budget * (1 + 1e-6)]  # 1e-6: rounding of the means
    return thresholds[min(affordable, key=lambda m: (float(lost[m]), -float(cost[m])))]


def thresholds_for_drop(scores: Tensor, correct: Tensor, gmacs: Sequence[float], max_drop: float) -> Tensor:
    """The cheapest thresholds (K,) that lose at most `max_drop` of the videos, so top-1 falls by no more.

    Args: See `operate`; `max_drop` is in [0, 1], 0.01 is one point.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2, 0.3, 0.1], [0.8, 0.7, 0.9, 0.8]])
        >>> correct = torch.tensor([[True, False, False, False], [True, True, True, True]])
        >>> thresholds_for_drop(scores, correct, [1.0, 3.0], max_drop=0.0)
        tensor([0.9000,   -inf])
    """
    found = frontier(scores, correct, gmacs)
    return found.thresholds[int((found.lost > max_drop + 1e-6).sum())]  # 1e-6: rounding of the means


def _outcomes(scores: Tensor, correct: Tensor, gmacs: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates (M, K), what each costs (M,) and the share of the videos that it loses (M,)."""
    if scores.isnan().any():
        raise InputError("scores are not numbers (NaN): training has diverged, lower the learning rate")
    scores = scores.float()  # as the thresholds, so that both are rounded alike
    thresholds = candidate_thresholds(scores)
    # Operating on "right at the end, wrong here" gives the share that is lost, where "right here" gives the accuracy.
    lost, cost, _ = operate(scores, correct[-1] & ~correct, gmacs, thresholds)
    return thresholds, cost, lost


def _fill_quotas(scores: NDArray[np.float32], quotas: list[int]) -> Tensor:
    exits, videos = scores.shape
    inside = np.ones(videos, dtype=bool)
    thresholds = torch.full((exits,), torch.inf)
    for k in range(exits - 1):
        staying = scores[k][inside]
        quota = min(quotas[k], len(staying))
        if quota:
            leaving = np.partition(staying, -quota)[-quota]
            thresholds[k] = float(leaving)
            inside &= scores[k] < leaving
    return thresholds
