"""The reject threshold against exact fractions, all outcomes of small populations, and strangers' plain data."""

from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement
from math import comb, factorial, prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import Reject, find_reject, reject_level
from dynvid.errors import InputError


def names(videos, per_recording=1):
    return [f"recording {n // per_recording}" for n in range(videos)]


def draw(videos, seed=0, error=0.3, levels=None):
    """Probabilities and whether the answer is wrong: the surer, the less often."""
    rng = np.random.default_rng(seed)
    probability = rng.random(videos, dtype=np.float32)
    if levels:
        probability = (levels * probability).round() / levels
    return torch.from_numpy(probability), torch.from_numpy(rng.random(videos) < 3 * error * (1 - probability) ** 2)


def at_most(errors, answered, risk):
    """P(X <= errors) for X binomial, exact."""
    terms = (comb(answered, k) * risk**k * (1 - risk) ** (answered - k) for k in range(errors + 1))
    return sum(terms, Fraction(0))


def reference(probability, wrong, max_error, confidence):
    """The method as its docstring tells it, in fractions: the number of videos that are answered."""
    risk, error, count = Fraction(max_error), 1 - Fraction(confidence), len(probability)
    begins = []
    for parts in range(1, count + 1):
        first = next(m for m in range(1, 10_000) if (1 - risk) ** m <= error / parts)
        doubled = [first * 2**j for j in range(parts)]
        if doubled[-1] > count:
            break
        begins = doubled
    surest = sorted(zip(probability, wrong, strict=True), key=lambda pair: -pair[0])
    held, best = Fraction(0), 0
    for m in range(1, count + 1):
        held += sum(begin == m for begin in begins) * error / max(len(begins), 1)
        if m < count and surest[m][0] == surest[m - 1][0]:
            continue  # answered together with the next
        if at_most(sum(w for _, w in surest[:m]), m, risk) <= held:
            best = m
        else:
            held = Fraction(0)
    return best


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 9999),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([0.8, 0.95]),
    st.sampled_from([None, 8, 32]),
    st.sampled_from([0.02, 0.1, 0.3]),
)
def test_the_threshold_is_the_lowest_that_an_exact_test_clears(seed, max_error, confidence, levels, error):
    probability, wrong = draw(int(np.random.default_rng(seed).integers(5, 120)), seed, error, levels)
    found = find_reject(probability, wrong, max_error, names(len(probability)), confidence)
    answered = reference(probability.tolist(), wrong.tolist(), max_error, confidence)
    assert int((probability >= reject_level(found)).sum()) == (answered or len(probability))
    assert (found.threshold is None) == (answered == 0)
    if answered:
        assert found.threshold == probability.sort(descending=True).values[answered - 1].item()  # to the bit
        assert found.answered == pytest.approx(answered / len(probability))
        assert found.error == pytest.approx(wrong[probability >= found.threshold].double().mean().item())


@pytest.mark.parametrize(
    ("shares", "errors"),
    [
        ((0.3, 0.3, 0.4), (0.501, 0.501, 0.501)),  # just above: whatever is answered is too much
        ((0.5, 0.3, 0.2), (0.1, 0.9, 0.95)),
        ((0.2, 0.4, 0.4), (0.0, 0.7, 1.0)),
        ((0.1, 0.1, 0.8), (0.4, 0.6, 0.6)),
    ],
)
def test_the_promise_is_kept_over_all_outcomes_of_a_small_calibration(shares, errors):
    """Seven videos of three probabilities, right or wrong: the chance of each outcome is known."""
    videos, max_error, confidence = 7, 0.5, 0.7
    kinds = [(p, w) for p in range(3) for w in (False, True)]
    chance = [share * (e if w else 1 - e) for share, e in zip(shares, errors, strict=True) for w in (False, True)]
    levels = (0.9, 0.6, 0.3)
    risk = [
        np.dot(shares[: n + 1], errors[: n + 1]) / sum(shares[: n + 1]) for n in range(3)
    ]  # of what reaches a level
    broken = whole = answers = 0.0
    for outcome in combinations_with_replacement(range(6), videos):
        counts = Counter(outcome)
        likely = factorial(videos) / prod(map(factorial, counts.values())) * prod(chance[k] for k in outcome)
        probability = torch.tensor([levels[kinds[k][0]] for k in outcome])
        found = find_reject(
            probability, torch.tensor([kinds[k][1] for k in outcome]), max_error, names(videos), confidence
        )
        whole += likely
        if found.threshold is not None:
            answers += likely
            broken += likely * (risk[min(range(3), key=lambda n: abs(levels[n] - found.threshold))] > max_error)
    assert whole == pytest.approx(1)
    assert broken <= 1 - confidence
    assert answers > 0


def test_the_promise_holds_where_the_observed_error_does_not():
    probability, wrong = draw(20_000, 1, error=0.1)
    order = probability.argsort(descending=True)
    risk = wrong[order].cumsum(0) / torch.arange(1, 20_001)
    broken = {0.95: 0, None: 0}
    for seed in range(100):
        n = torch.from_numpy(np.random.default_rng(seed).integers(20_000, size=400))
        for confidence in broken:
            found = find_reject(probability[n], wrong[n], 0.05, names(400), confidence)
            if found.threshold is not None:
                broken[confidence] += bool(risk[int((probability >= found.threshold).sum()) - 1] > 0.05)
    assert broken[0.95] <= 5 + 3 * (0.05 * 0.95 * 100) ** 0.5
    assert broken[None] > 25


def test_recordings_are_the_unit():
    probability, wrong = torch.linspace(0.9, 0.5, 240), torch.zeros(240, dtype=torch.bool)
    assert find_reject(probability, wrong, 0.05, names(240)).threshold == pytest.approx(0.5)
    few = find_reject(probability, wrong, 0.05, names(240, 8))  # 30 recordings
    assert (few.threshold, few.videos, few.recordings, few.answered) == (None, 240, 30, 1.0)
    assert "240 videos of 30 recordings" in str(few)
    assert "recordings" in few.offered()
    some = find_reject(probability, wrong, 0.1, names(240, 8))
    assert some.threshold is not None
    assert some.answered < 1
    assert str(some) == str(find_reject(probability, wrong, 0.1, names(240, 8)))


def test_videos_that_chose_the_checkpoint_promise_nothing():
    probability, wrong = torch.linspace(0.9, 0.5, 240), torch.zeros(240, dtype=torch.bool)
    found = find_reject(probability, wrong, 0.05, names(240), chosen_by="these")
    assert found.threshold is None
    assert not found.promised
    assert "chose the checkpoint" in str(found)
    seen = find_reject(probability, wrong, 0.05, names(240), confidence=None, chosen_by="these")
    assert seen.threshold == pytest.approx(0.5)
    assert not seen.promised
    assert "no promise" in str(seen)


def test_what_else_can_be_promised_is_said():
    probability, wrong = draw(400, 3, error=0.3)
    found = find_reject(probability, wrong, 0.001, names(400))
    assert found.threshold is None
    assert "cannot promise" in str(found)
    lines = found.offered().splitlines()
    assert lines[2].split("   ")[-1] == "none: too many of the surest are wrong"
    assert "needs 299 videos" in find_reject(probability[:50], wrong[:50], 0.001, names(50)).offered()
    for error, answered, _ in found.offers:
        same = find_reject(probability, wrong, error, names(400))
        assert answered == (None if same.threshold is None else same.answered)
    assert any(offer.answered for offer in found.offers)
    assert not find_reject(probability, wrong, 0.2, names(400)).offered()


@pytest.mark.parametrize(
    ("probability", "wrong", "max_error", "said"),
    [
        ([0.5, 0.6], [True, False], 0.0, "max_error=0.0"),
        ([0.5, 0.6], [True, False], float("nan"), "max_error=nan"),
        ([0.5, 0.6], [True], 0.1, "must be"),
        ([], [], 0.1, "with videos"),
        ([0.5, float("nan")], [True, False], 0.1, "NaN"),
        ([0.5, 1.5], [True, False], 0.1, r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(probability, wrong, max_error, said):
    with pytest.raises(InputError, match=said):
        find_reject(
            torch.tensor(probability), torch.tensor(wrong, dtype=torch.bool), max_error, names(len(probability))
        )


@pytest.mark.parametrize("confidence", [0.95, None])
@pytest.mark.parametrize("max_error", [0.001, 0.1])
def test_plain_data_comes_back(confidence, max_error):
    probability, wrong = draw(300, 5)
    found = find_reject(probability, wrong, max_error, names(300, 2), confidence)
    assert Reject.from_plain(found.plain()) == found


@pytest.mark.parametrize(
    "change",
    [
        *({"threshold": x} for x in (1.5, -0.1, "0.5", True, float("nan"), [0.5])),
        *({"max_error": x} for x in (0, 1, None, float("inf"), "5 %")),
        *({"answered": x} for x in (None, 2, -1)),
        *({"confidence": x} for x in (0, 1, "high")),
        {"error": float("nan")},
        {"chosen_by": "me"},
        {"chosen_by": "these"},
        {"videos": 10**12},
        {"videos": 1.5},
        {"split": 3},
        {"listing": "x" * 101},
        {"offers": [[0.1, 0.5]]},
        {"offers": [[None, 0.5, 3]]},
        {"offers": [[0.1, 0.5, 3]] * 101},
        {"more": 1},
    ],
)
def test_what_a_stranger_says_is_checked(change):
    plain = Reject(0.05, 0.95, 0.7, "val", 400, 400, answered=0.87, error=0.03).plain()
    assert Reject.from_plain(plain).threshold == 0.7
    with pytest.raises(InputError, match="reject"):
        Reject.from_plain(plain | change)
    for missing in plain:
        with pytest.raises(InputError, match="other parts"):
            Reject.from_plain({name: value for name, value in plain.items() if name != missing})
