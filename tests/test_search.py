"""The search against every route and threshold there is, by plain loops, on grids small enough for that."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import best_route, operate, thresholds_for_risk
from dynvid.costs import CellCosts
from dynvid.routes import check_route

LEVELS = [0.1, 0.3, 0.5, 0.7, 0.9]  # few, so that many videos share a score
EVERY_ROUTE = 10**9


@st.composite
def recorded(draw):
    """Scores and losses (T, D, N) of all cells, and their costs; whole numbers of eighths add up exactly."""
    frames, depths, videos = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    shape = (frames, depths, videos)
    scores = torch.tensor(LEVELS)[torch.randint(len(LEVELS), shape, generator=generator)]
    lost = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.05, 0.3]))
    lost[-1, -1] = False
    eighths = torch.randint(1, 9, (3, depths), generator=generator) / 8
    segments, embeddings, heads = eighths[0].cumsum(0), eighths[1] / 4, eighths[2] / 8
    at = tuple(sorted(draw(st.sets(st.integers(1, 5), min_size=depths, max_size=depths))))
    return scores, lost, CellCosts(at, *(tuple(part.tolist()) for part in (segments, embeddings, heads)))


def every_route(frames, depths, max_exits):
    cells = list(itertools.product(range(1, frames + 1), depths))
    for size in range(1, max_exits + 1):
        for chosen in itertools.combinations(cells, size):
            try:
                yield check_route(chosen, frames, depths[-1])
            except ValueError:
                continue


def walked(scores, lost, costs, route, threshold):
    """Each video on its own: the mean cost and the videos lost. Work is paid cell by cell, when it is first done."""
    spent, losses = 0.0, 0
    for video in range(scores.shape[2]):
        done, embedded = set(), set()
        for n, depth in route:
            d = costs.depths.index(depth)
            for frame, segment in itertools.product(range(n), range(d + 1)):
                if (frame, segment) not in done:
                    done.add((frame, segment))
                    spent += costs.segments[segment] - (costs.segments[segment - 1] if segment else 0.0)
            for frame in range(n):
                if (frame, d) not in embedded:
                    embedded.add((frame, d))
                    spent += costs.embeddings[d]
            spent += costs.heads[d]
            if (n, depth) == route[-1] or scores[n - 1, d, video] >= threshold:
                losses += int(lost[n - 1, d, video])
                break
    return spent / scores.shape[2], losses


def brute_force(scores, lost, costs, permitted, max_exits):
    """The least cost over all routes, each with the threshold that falls until more than `permitted` are lost."""
    least = math.inf
    for route in every_route(scores.shape[0], costs.depths, max_exits):
        for threshold in [math.inf, *sorted(LEVELS, reverse=True)]:
            cost, losses = walked(scores, lost, costs, route, torch.tensor(threshold))
            if losses > permitted:
                break
            least = min(least, cost)
    return least


@settings(max_examples=100, deadline=None)
@given(recorded(), st.integers(0, 2), st.integers(1, 4))
def test_no_route_is_cheaper(found, permitted, max_exits):
    scores, lost, costs = found
    videos = scores.shape[2]
    risk = min(permitted / videos, 0.99)
    best = best_route(scores, lost, costs, risk, max_exits, beam=EVERY_ROUTE)
    assert best.gmacs == pytest.approx(brute_force(scores, lost, costs, int(risk * videos + 1e-6), max_exits), rel=1e-6)
    check_route(best.route, scores.shape[0], costs.depths[-1])
    assert len(best.route) <= max_exits
    assert best.lost <= risk + 1e-9


@settings(max_examples=50, deadline=None)
@given(recorded(), st.integers(1, 4), st.sampled_from([1, 3]))
def test_a_narrow_beam_gives_a_route_that_does_what_it_says(found, max_exits, beam):
    scores, lost, costs = found
    best = best_route(scores, lost, costs, 0.2, max_exits, beam)
    shared = best.thresholds[0] if len(best.route) > 1 else torch.tensor(math.inf)
    cost, losses = walked(scores, lost, costs, check_route(best.route, len(scores), costs.depths[-1]), shared)
    assert (best.gmacs, best.lost) == pytest.approx((cost, losses / scores.shape[2]), rel=1e-6)
    assert set(best.thresholds[:-1].tolist()) <= {shared.item()}
    assert best.thresholds[-1] == -math.inf
    full = costs.of([(len(scores), costs.depths[-1])])[0]
    assert cost <= full * (1 + 1e-6)  # full inference alone is a route too


def sure_at(shape, sure):
    """Videos that are sure and right at the cells given for them, (frames, depth) -> videos, and lost elsewhere."""
    scores = torch.full(shape, 0.1)
    for (n, depth), videos in sure.items():
        scores[n - 1, depth - 1, videos] = 0.9
    lost = scores < 0.5
    lost[-1, -1] = False
    return scores, lost


def test_exits_that_are_worth_more_together_than_the_best_one_are_found():
    """Alone (1, 3) saves most, and no route passes it and either of the two that save more together."""
    scores, lost = sure_at((3, 3, 10), {(1, 3): [0, 1, 2, 3], (2, 1): [4, 5, 6], (3, 2): [7, 8, 9]})
    costs = CellCosts((1, 2, 3), (1.0, 2.0, 3.0), (0.0,) * 3, (0.0,) * 3)
    found = best_route(scores, lost, costs, 0.0, max_exits=3, beam=2)
    assert (found.route, found.gmacs) == (((2, 1), (3, 2), (3, 3)), pytest.approx((3 * 2 + 3 * 6 + 4 * 9) / 10))
    assert best_route(scores, lost, costs, 0.0, max_exits=3, beam=1).gmacs == pytest.approx((4 * 3 + 6 * 9) / 10)


def test_a_route_never_gives_back_depth():
    """Both videos would leave early if (2, 1) could follow (1, 2)."""
    scores, lost = sure_at((2, 2, 2), {(1, 2): [0], (2, 1): [1]})
    costs = CellCosts((1, 2), (1.0, 2.0), (0.0, 0.0), (0.0, 0.0))
    assert best_route(scores, lost, costs, 0.0).gmacs == pytest.approx((2 + 4) / 2)


def test_a_trap_is_left_out():
    """The first cell is sure of everything and wrong on one in ten; any route with it leaves nobody early."""
    scores = torch.full((2, 1, 100), 0.5)
    scores[0] = 1.0
    lost = torch.zeros(2, 1, 100, dtype=torch.bool)
    lost[0, 0, ::10] = True
    costs = CellCosts((3,), (1.0,), (0.0,), (0.1,))
    assert best_route(scores, lost, costs, 0.05).route == ((2, 3),)
    assert best_route(scores, lost, costs, 0.1).route == ((1, 3), (2, 3))


def test_thresholds_are_what_a_promise_would_take_for_the_same_losses():
    """Only the number of permitted losses differs: 473 videos promise 1 % with one loss, where 0.3 % is one too."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(4, 2, 473, generator=generator)
    lost = (torch.rand(4, 2, 473, generator=generator) < 0.3) & (scores < 0.9)
    lost[-1, -1] = False
    costs = CellCosts((1, 2), (1.0, 2.0), (0.0, 0.0), (0.01, 0.01))
    found = best_route(scores, lost, costs, 1 / 473)
    at = torch.tensor([[n - 1, d - 1] for n, d in found.route]).unbind(1)
    promised = thresholds_for_risk(scores[at], lost[at], costs.of(found.route), 0.01)
    assert torch.equal(found.thresholds, promised)
    assert found.gmacs == pytest.approx(
        operate(scores[at], ~lost[at], costs.of(found.route), promised[None]).gmacs.item()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lost": torch.zeros(2, 1, 5)}, "bool"),
        ({"lost": torch.ones(2, 1, 5, dtype=torch.bool)}, "full inference loses nothing"),
        ({"lost": torch.zeros(2, 1, 4, dtype=torch.bool)}, r"they must be \(T, D, N\)"),
        ({"costs": CellCosts((1, 2), (1.0, 2.0), (0.0, 0.0), (0.0, 0.0))}, "costs of 2 depths"),
        ({"scores": torch.full((2, 1, 5), math.nan)}, "not finite"),
        ({"max_risk": math.nan}, "max_risk=nan"),
        ({"max_risk": 1.0}, "max_risk=1.0"),
        ({"max_exits": 0}, "max_exits=0"),
        ({"beam": 0}, "beam=0"),
    ],
)
def test_what_cannot_be_searched_says_why(change, reason):
    arguments = {
        "scores": torch.rand(2, 1, 5),
        "lost": torch.zeros(2, 1, 5, dtype=torch.bool),
        "costs": CellCosts((1,), (1.0,), (0.0,), (0.0,)),
        "max_risk": 0.1,
    }
    with pytest.raises(ValueError, match=reason):
        best_route(**(arguments | change))
