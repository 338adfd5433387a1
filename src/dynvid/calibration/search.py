"""The route that saves most: where the exits should be, found in what all cells of the grid answered.

Every route shares one threshold between its exits, lowered as far as the permitted loss allows, which is what the
promise does with it later. So a route has one figure, its mean cost. Routes are grown exit by exit from full inference,
and the best few of each length go on: exits are worth something together, so the best one alone may lead nowhere.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dynvid.calibration.promise import shared_threshold
from dynvid.costs import CellCosts
from dynvid.errors import InputError
from dynvid.policy import choose_exits
from dynvid.routes import Exit, Route


class FoundRoute(NamedTuple):
    """A route, and what it does on the videos that chose it: better than on new ones.

    Attributes:
        route: K exits, the last one full inference.
        thresholds: (K,).
        gmacs: Mean GMACs per video.
        lost: Share of the videos lost.
    """

    route: Route
    thresholds: Tensor
    gmacs: float
    lost: float


def best_route(
    scores: Tensor, lost: Tensor, costs: CellCosts, max_risk: float, max_exits: int = 4, beam: int = 50
) -> FoundRoute:
    """The cheapest route that loses at most `max_risk` of these videos, and its thresholds.

    They promise nothing: the best of many routes looks better on the videos that chose it than it is. For a promise,
    give `thresholds_for_risk` the found route and other videos. Permit here the share that these other videos will
    permit, which is less than what they promise: 400 videos promise 1 % if none of them is lost. For the net along the
    found route give `ExitNet` both, `route=found.route, pretrained=CHECKPOINT`; or train it anew on that route.

    Args:
        scores: How sure each cell is of each video, float (T, D, N): after 1, ..., T frames, at the D depths of
            `costs`; as the policy computes them from `ExitNet.cells`.
        lost: Whether a video is lost if it leaves there, bool (T, D, N); see `thresholds_for_risk`.
        costs: What the cells cost, `ExitNet.cell_costs`.
        max_risk: Permitted share of the videos, in [0, 1).
        max_exits: Exits that the route may have, full inference among them.
        beam: Routes of each length that go on; with a very large number no route is left out.

    Raises:
        ValueError: Shapes do not fit, a number is out of range, scores are not finite, or full inference loses videos.

    Example:
        >>> costs = CellCosts(depths=(1, 2), segments=(1.0, 3.0), embeddings=(0.0, 0.0), heads=(0.0, 0.0))
        >>> scores = torch.tensor([[[0.9, 0.3], [0.8, 0.4]], [[0.7, 0.8], [0.9, 0.9]]])  # of 2 videos
        >>> lost = torch.tensor([[[False, True], [False, False]], [[False, False], [False, False]]])
        >>> found = best_route(scores, lost, costs, max_risk=0.0)
        >>> [tuple(e) for e in found.route], found.gmacs
        ([(1, 1), (2, 1), (2, 2)], 1.5)
    """
    _check(scores, lost, costs, max_risk, max_exits, beam)
    scores, lost = scores.float().cpu(), lost.cpu()
    frames, _, videos = scores.shape
    permitted = int(max_risk * videos + 1e-6)  # 1e-6: rounding of the product
    cells = [Exit(n, depth) for n in range(1, frames + 1) for depth in costs.depths]

    def measured(route: Route) -> FoundRoute:
        at = torch.tensor([[n - 1, costs.depths.index(depth)] for n, depth in route]).unbind(1)
        score, loss = scores[at], lost[at]
        thresholds = torch.full((len(route),), -torch.inf)
        if len(route) > 1:
            thresholds[:-1] = shared_threshold(score, loss, permitted)
        taken = choose_exits(score, thresholds)
        cost = torch.tensor(costs.of(route), dtype=torch.float64)[taken].mean()
        return FoundRoute(route, thresholds, float(cost), float(loss.gather(0, taken[None]).double().mean()))

    best = measured((cells[-1],))
    level = [best]
    for _ in range(max_exits - 1):
        longer = sorted({route for found in level for route in _with_one_more(found.route, cells)})
        if not longer:
            break
        level = sorted(map(measured, longer), key=lambda found: found.gmacs)[:beam]
        best = min(best, level[0], key=lambda found: found.gmacs)  # of equals the shorter one
    return best


def _with_one_more(route: Route, cells: list[Exit]) -> Iterator[Route]:
    """The routes that pass one cell more; frames and depth may only grow along each."""
    for cell in cells:
        longer = tuple(sorted({*route, cell}))
        if len(longer) > len(route) and all(a.depth <= b.depth for a, b in itertools.pairwise(longer)):
            yield longer


def _check(scores: Tensor, lost: Tensor, costs: CellCosts, max_risk: float, max_exits: int, beam: int) -> None:
    if scores.dim() != 3 or lost.shape != scores.shape or scores.shape[1] != len(costs.depths):
        shapes = f"scores {tuple(scores.shape)}, lost {tuple(lost.shape)}, costs of {len(costs.depths)} depths"
        raise InputError(f"{shapes}: they must be (T, D, N), (T, D, N) and of D")
    if lost.dtype != torch.bool:
        raise InputError(f"lost is {lost.dtype}: bool")
    if lost[-1, -1].any():
        raise InputError("lost[-1, -1] is not all False: full inference loses nothing against itself")
    if not scores.isfinite().all():
        raise InputError("scores are not finite (NaN or infinity): training has diverged, lower the learning rate")
    if not 0 <= max_risk < 1:  # so written, it refuses NaN too
        raise InputError(f"max_risk={max_risk}: a share from 0 to below 1")
    for name, number in (("max_exits", max_exits), ("beam", beam)):
        if number < 1:
            raise InputError(f"{name}={number}: 1 or more")
