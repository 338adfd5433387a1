"""Thresholds with a promise: new videos, too, are lost at no more than a given rate, with a given confidence.

Learn then test (Angelopoulos et al., 2021; for early exits Jazbec et al., 2024). All exits share one threshold, and
every float32 number is a candidate for it, tried from the largest (full inference) down. Each is tested for a risk
above the permitted one, and the first that is not cleared ends the search, so the whole search errs as seldom as one
test. This order is fixed before any video is seen and knows no scale of scores. Trying so many numbers costs nothing:
what is lost changes at the scores of videos only, and one pass over these is all of them.

A first exit may be sure and wrong. The same search therefore runs with the first exit off, the first two, and so on,
on the probability of error that the search with all exits leaves over, for losses are whole numbers and seldom use it
up. The probabilities of all searches add up to at most 1 - confidence; the cheapest of what they cleared is taken.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynvid.calibration.binomial import binomial_cdf
from dynvid.calibration.operate import operate
from dynvid.errors import InputError


def thresholds_for_risk(
    scores: Tensor,
    lost: Tensor,
    gmacs: Sequence[float],
    max_risk: float,
    confidence: float = 0.95,
    groups: Sequence[int | str] | Tensor | None = None,
) -> Tensor:
    """The cheapest thresholds (K,) of which these videos promise that at most `max_risk` of new ones are lost.

    The promise: with probability `confidence` over the draw of the videos given here, the thresholds lose at most the
    share `max_risk` of all videos to come. Where so few videos, or so bad exits, cannot promise that, the thresholds
    are full inference.

    It assumes that new videos come as these came: drawn from the same source, each independently of the others.
    It is broken

    - by another source: other cameras, other classes or another mix of them, frames prepared otherwise, a net run in
      another precision;
    - by videos that the net was trained on, or that chose the checkpoint or the temperature of the scores: the net is
      better on them than on new ones;
    - by clips of one recording that count as independent videos: give `groups`;
    - by looking first: several targets, scores or nets are tried on the same videos, and the one that came out best is
      kept.

    Args:
        scores: How sure each exit is of each video, float (K, N), as the policy computes them.
        lost: Whether a video is lost if it takes the exit, bool (K, N); the last row is all False. With labels: the
            last exit is right and this one is wrong. Without: it says something else than the last exit does, which
            happens at least as often, so accuracy falls by no more.
        gmacs: Cumulative cost of each exit, K numbers.
        max_risk: Permitted share of the videos, in (0, 1); 0.01 is one in a hundred.
        confidence: In (0, 1).
        groups: The recording that each video was cut from, N ints or strings; one that is its own needs a name of its
            own. Recordings are then what is drawn, and the share is the mean over recordings of the share lost in
            each. One video of each is used, drawn at random with a fixed seed: its loss is 0 or 1 with just that mean,
            and the test stays exact.

    Raises:
        ValueError: Shapes do not fit, a share is out of range, scores are not finite, or the last exit loses videos.

    Example:
        >>> scores = torch.tensor([[0.9, 0.3], [0.9, 0.8]]).repeat(1, 150)
        >>> labels = torch.tensor([[1, 2], [1, 1]]).repeat(1, 150)  # the exits differ on the second of each pair
        >>> lost = labels != labels[-1]
        >>> thresholds_for_risk(scores, lost, [1.0, 3.0], max_risk=0.01)
        tensor([0.9000,   -inf])
        >>> thresholds_for_risk(scores[:, 2:], lost[:, 2:], [1.0, 3.0], max_risk=0.01)  # 298 videos are one too few
        tensor([inf, -inf])
    """
    scores = _checked(scores, lost, gmacs, max_risk, confidence)
    lost = lost.cpu()
    if groups is not None:
        drawn = one_of_each(groups, scores.shape[1])
        scores, lost = scores[:, drawn], lost[:, drawn]
    exits, videos = scores.shape
    chance = binomial_cdf(videos, max_risk)  # of so few losses, or fewer, where the true risk is above the permitted
    found = [torch.tensor([torch.inf] * (exits - 1) + [-torch.inf])]
    error = 1 - confidence
    for off in range(exits - 1):
        permitted = int((chance <= error).sum()) - 1
        if permitted < 0:
            break
        thresholds = found[0].clone()
        thresholds[off:-1] = shared_threshold(scores[off:], lost[off:], permitted)
        found.append(thresholds)
        if off == 0:
            error = (error - float(chance[permitted])) / max(exits - 2, 1)  # left over, in equal parts
    return found[int(operate(scores, lost, gmacs, torch.stack(found)).gmacs.argmin())]


def videos_needed(max_risk: float, confidence: float = 0.95, losses: int = 0) -> int:
    """How many videos (with groups: recordings) a promise takes of which so many are lost.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> videos_needed(0.01), videos_needed(0.01, losses=3)
        (299, 773)
    """
    _check_shares(max_risk=max_risk, confidence=confidence)
    if losses < 0:
        raise InputError(f"losses={losses}: 0 or more")

    def enough(videos: int) -> bool:
        return float(binomial_cdf(videos, max_risk)[losses]) <= 1 - confidence

    few, many = losses, 2 * losses + 1  # with all of them lost nothing is promised
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def smallest_risk(videos: int, confidence: float = 0.95) -> float:
    """The least risk that so many videos (with groups: recordings) can promise: if none of them is lost.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> f"{smallest_risk(12):.0%}, {smallest_risk(299):.1%}"
        '22%, 1.0%'
    """
    _check_shares(confidence=confidence)
    if videos < 0:
        raise InputError(f"videos={videos}: 0 or more")
    return float(1 - (1 - confidence) ** (1 / videos)) if videos else 1.0


def shared_threshold(scores: Tensor, lost: Tensor, permitted: int) -> Tensor:
    """The lowest score that, as the threshold of all exits but the last, is reached before too many are lost.

    A video takes exit k for thresholds above all its scores before k and up to its score there. So while the threshold
    falls, a video moves from the last exit forward, through the exits that are surer than every one before them.
    """
    surest = torch.full_like(scores, -torch.inf)  # of the exits before
    for k in range(1, len(scores)):
        surest[k] = torch.maximum(surest[k - 1], scores[k - 1])
    levels, changes = [], []
    held = lost[-1]  # whether a video is lost at the exit that it comes from
    for k in reversed(range(len(scores) - 1)):
        moves = scores[k] > surest[k]
        changed = moves & (lost[k] != held)
        levels.append(scores[k][changed])
        changes.append(lost[k][changed].long() - held[changed].long())
        held = torch.where(moves, lost[k], held)
    level, order = torch.cat(levels).sort(descending=True)
    losses = torch.cat(changes)[order].cumsum(0)
    complete = torch.ones_like(level, dtype=torch.bool)
    complete[:-1] = level[1:] != level[:-1]  # all videos of one score move together
    failed = level[complete & (losses > permitted)][:1]
    cleared = scores[:-1][scores[:-1] > (failed if len(failed) else -torch.inf)]
    return cleared.min() if len(cleared) else torch.tensor(torch.inf)


def one_of_each(groups: Sequence[int | str] | Tensor, videos: int) -> Tensor:
    """The positions of one video of each group, drawn at random, always the same ones."""
    if len(groups) != videos:
        raise InputError(f"groups has {len(groups)} entries for {videos} videos: one each")
    shuffled = np.random.default_rng(0).permutation(videos)
    _, first = np.unique(np.asarray(groups)[shuffled], return_index=True)
    return torch.from_numpy(shuffled[first])


def _checked(scores: Tensor, lost: Tensor, gmacs: Sequence[float], max_risk: float, confidence: float) -> Tensor:
    """The scores as the policy compares them: float32."""
    _check_shares(max_risk=max_risk, confidence=confidence)
    if scores.dim() != 2 or lost.shape != scores.shape or len(gmacs) != len(scores):
        shapes = f"scores {tuple(scores.shape)}, lost {tuple(lost.shape)}, gmacs ({len(gmacs)},)"
        raise InputError(f"{shapes}: they must be (K, N), (K, N), (K,)")
    if lost.dtype != torch.bool:
        raise InputError(f"lost is {lost.dtype}: bool")
    if lost[-1].any():
        raise InputError("lost[-1] is not all False: the last exit is full inference and loses nothing against itself")
    scores = scores.float().cpu()
    if not scores.isfinite().all():
        raise InputError("scores are not finite (NaN or infinity): training has diverged, lower the learning rate")
    return scores


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:  # so written, it refuses NaN too
            raise InputError(f"{name}={value}: a share above 0 and below 1")
