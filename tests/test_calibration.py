"""Threshold search against loops in numpy."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import (
    candidate_thresholds,
    frontier,
    operate,
    thresholds_for_budget,
    thresholds_for_drop,
)
from dynvid.policy import choose_exits

GMACS = (1.0, 2.0, 5.0)


def outcomes(seed, videos=60, exits=3):
    rng = np.random.default_rng(seed)
    scores = rng.random((exits, videos), dtype=np.float32)
    correct = rng.random((exits, videos)) < 0.3 + 0.6 * scores  # surer exits are right more often
    return torch.from_numpy(scores), torch.from_numpy(correct)


def msdnet_rule(scores, ratio):
    """The rule as method.md states it, video by video."""
    exits, videos = scores.shape
    p = np.array([ratio**k for k in range(1, exits + 1)])
    p = p / p.sum()
    gone, thresholds = set(), []
    for k in range(exits - 1):
        quota = int(np.floor(videos * p[k]))
        inside = sorted((n for n in range(videos) if n not in gone), key=lambda n: -scores[k, n])[:quota]
        thresholds.append(scores[k, inside[-1]] if inside else np.inf)
        gone |= set(inside)
    return thresholds


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
def test_candidates_are_the_published_rule_and_one_threshold_for_the_exits_in_use(seed):
    scores, _ = outcomes(seed)
    found = candidate_thresholds(scores)
    for row, ratio in zip(found, np.arange(1, 40) * 0.05, strict=False):
        assert row[:-1].tolist() == pytest.approx(msdnet_rule(scores.numpy(), round(ratio, 2)))
    assert len(found) == 39 + 2 * 80 + 1
    both, second = found[39:119], found[119:199]
    assert torch.equal(both[:, 0], both[:, 1])
    assert torch.isinf(second[:, 0]).all()
    for shared, considered in ((both, scores[:2]), (second, scores[1:2])):
        below = [(considered.numpy() < level).mean() for level in shared[:, 1].tolist()]  # share of the scores
        assert below == pytest.approx(np.linspace(0, 1, 80), abs=2 / considered.numel())
    assert found[-1].tolist() == [torch.inf, torch.inf, -torch.inf]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
@pytest.mark.slow
def test_no_candidate_beats_the_frontier(seed):
    scores, correct = outcomes(seed)
    found = frontier(scores, correct, GMACS)
    taken = [[next((k for k in range(2) if scores[k, n] >= row[k]), 2) for n in range(60)] for row in found.thresholds]
    lost = [sum(bool(correct[2, n] and not correct[k, n]) for n, k in enumerate(row)) / 60 for row in taken]
    assert found.lost.tolist() == pytest.approx(lost)
    assert found.gmacs.tolist() == pytest.approx([sum(GMACS[k] for k in row) / 60 for row in taken])
    assert (found.gmacs.diff() >= 0).all()
    assert (found.lost.diff() <= 0).all()
    for row in candidate_thresholds(scores):
        one = operate(scores, correct[-1] & ~correct, GMACS, row[None])
        assert ((found.gmacs <= one.gmacs) & (found.lost <= one.accuracy)).any()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_operation_equals_a_loop(seed, thresholds):
    scores, correct = outcomes(seed)
    spent, right, taken = 0.0, 0, [0, 0, 0]
    for n in range(scores.shape[1]):
        k = next((k for k in range(2) if scores[k, n] >= np.float32(thresholds[k])), 2)
        spent, right = spent + GMACS[k], right + int(correct[k, n])
        taken[k] += 1
    found = operate(scores, correct, GMACS, torch.tensor([thresholds]))
    assert found.gmacs.item() == pytest.approx(spent / 60, rel=1e-5)
    assert found.accuracy.item() == pytest.approx(right / 60, rel=1e-5)
    assert found.share[0].tolist() == pytest.approx([t / 60 for t in taken])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_count_what_the_policy_chooses(dtype):
    for seed in range(30):
        exits, videos = 1 + seed % 5, (1, 7, 200)[seed % 3]
        scores, correct = outcomes(seed, videos, exits)
        scores = ((10 * scores).round() / 10).to(dtype)  # many ties
        thresholds = candidate_thresholds(scores)
        found = operate(scores, correct, range(1, exits + 1), thresholds)
        taken = torch.stack([choose_exits(scores, row) for row in thresholds])  # (M, N), as the policy chooses
        share = torch.stack([(taken == k).float().mean(1) for k in range(exits)], dim=1)
        assert torch.equal(found.share, share)
        assert torch.equal(found.accuracy, correct[taken, torch.arange(videos)].float().mean(1))
        assert torch.allclose(found.gmacs, (taken + 1).float().mean(1))


@pytest.mark.slow
def test_memory_grows_with_the_videos_and_not_with_the_candidates():
    """1,240 sets of thresholds times 20,000 videos would be 200 MB as int64."""
    code = """
import resource, torch
from dynvid.calibration import frontier
scores, correct = torch.rand(16, 20_000), torch.rand(16, 20_000) < 0.7
frontier(scores[:, :100], correct[:, :100], range(1, 17))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
frontier(scores, correct, range(1, 17))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 50


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.floats(1, 6))
def test_budget_is_kept_and_spent(seed, budget):
    scores, correct = outcomes(seed)
    thresholds = thresholds_for_budget(scores, correct, GMACS, budget)
    lost, gmacs, _ = operate(scores, correct[-1] & ~correct, GMACS, thresholds[None])
    assert gmacs.item() <= budget + 1e-5
    for row in candidate_thresholds(scores):
        other = operate(scores, correct[-1] & ~correct, GMACS, row[None])
        assert (
            other.gmacs.item() > budget
            or other.accuracy.item() > lost.item()
            or (other.accuracy.item() == lost.item() and other.gmacs.item() <= gmacs.item())
        )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.floats(0, 0.2))
def test_drop_is_kept_and_no_other_candidate_is_cheaper(seed, drop):
    scores, correct = outcomes(seed)
    thresholds = thresholds_for_drop(scores, correct, GMACS, drop)
    found = operate(scores, correct, GMACS, thresholds[None])
    taken = [next((k for k in range(2) if scores[k, n] >= thresholds[k]), 2) for n in range(60)]
    lost = sum(bool(correct[2, n] and not correct[k, n]) for n, k in enumerate(taken))
    assert lost <= 60 * drop + 1e-4
    assert found.accuracy.item() >= correct[-1].float().mean().item() - drop - 1e-5
    for row in candidate_thresholds(scores):
        one = operate(scores, correct[-1] & ~correct, GMACS, row[None])
        if one.accuracy.item() <= drop:
            assert found.gmacs.item() <= one.gmacs.item() + 1e-5


def test_a_budget_below_the_first_exit_says_so():
    scores, correct = outcomes(0)
    with pytest.raises(ValueError, match=r"budget of 0.5 GMACs is below the first exit"):
        thresholds_for_budget(scores, correct, GMACS, 0.5)


def test_scores_that_are_no_numbers_say_so():
    scores, correct = outcomes(0)
    with pytest.raises(ValueError, match="training has diverged"):
        thresholds_for_budget(scores * torch.nan, correct, GMACS, 2.0)


def test_scores_in_double_precision_are_rounded_as_the_thresholds_are():
    for seed in range(50):
        scores, correct = outcomes(seed)
        thresholds = thresholds_for_budget(scores.double() / 3, correct, GMACS, GMACS[0])
        assert operate(scores / 3, correct, GMACS, thresholds[None]).gmacs == GMACS[0]


def test_one_exit_needs_no_thresholds():
    scores, correct = outcomes(0, exits=1)
    assert thresholds_for_drop(scores, correct, (1.0,), 0.0).tolist() == [-torch.inf]
