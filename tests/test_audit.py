"""Audits: bounds that hold at all times, alarms that are seldom false, and drift that is found."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import Audit, OperatingPoint, anytime_interval, share_interval
from dynvid.errors import InputError

PROMISED = OperatingPoint("max_disagreement", 0.02, 0.95, "val", 400, 400, lost=0.0, gmacs=1.0, differing=0.0)


def fed(audit, differs):
    for one in differs:
        audit.add(bool(one))
    return audit


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_what_a_bet_on_all_shares_has_not_refuted(hits, misses, confidence):
    low, high = anytime_interval(hits, hits + misses, confidence)
    # The prior of Krichevsky and Trofimov is uniform in the angle, so the bet is a mean over angles.
    shares = np.sin((np.arange(200_000) + 0.5) / 200_000 * math.pi / 2) ** 2

    def won(share):
        of_all = hits * np.log(shares) + misses * np.log1p(-shares)
        lost = (hits * math.log(share) if hits else 0) + (misses * math.log1p(-share) if misses else 0)
        return float(np.log(np.exp(of_all - lost).mean()))

    level = math.log(1 / (1 - confidence))
    assert low <= hits / max(hits + misses, 1) <= high
    for edge, inside, outside in [(low, 1.001, 0.999), (high, 0.999, 1.001)]:
        if 0 < edge < 0.999:
            assert won(edge * inside) < level < won(edge * outside)


def test_intervals_hold_at_all_times_at_once():
    rng, missed = np.random.default_rng(0), 0
    for _ in range(200):
        hits = np.cumsum(rng.random(400) < 0.1)
        missed += any(
            not low <= 0.1 <= high for low, high in (anytime_interval(int(hits[n]), n + 1) for n in range(0, 400, 7))
        )
    assert missed <= 10  # 5 % of 200, and far fewer as a rule


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.sampled_from([0.02, 0.1, 0.4]))
def test_the_alarm_is_the_sum_of_a_bet_begun_before_each_video(differs, limit):
    audit, expected = Audit(1.0, limit=limit), False
    begins = [1 / math.log2(2 + n) - 1 / math.log2(3 + n) for n in range(len(differs))]
    odds = [limit / (1 - limit) * 2**i for i in range(1, 20)]
    shares = [s for s in (o / (1 + o) for o in odds) if s < 0.98] or [odds[0] / (1 + odds[0])]
    for count in range(1, len(differs) + 1):
        audit.add(differs[count - 1])
        money = 1 - sum(begins[:count])
        for start in range(count):
            hits = sum(differs[start:count])
            misses = count - start - hits
            won = [(s / limit) ** hits * ((1 - s) / (1 - limit)) ** misses for s in shares]
            money += begins[start] * sum(won) / len(won)
        expected = expected or money >= 20
        assert (audit.status == "broken") == expected


def test_false_alarms_are_at_most_five_in_a_hundred():
    rng = np.random.default_rng(1)
    alarms = sum(fed(Audit(1.0, PROMISED), rng.random(600) < 0.02).status == "broken" for _ in range(150))
    assert alarms <= 7


@pytest.mark.parametrize(("good", "within"), [(0, 120), (3000, 400)])
def test_drift_is_found_after_a_long_good_time_too(good, within):
    rng, delays = np.random.default_rng(2), []
    for _ in range(15):
        audit = fed(Audit(1.0, PROMISED), rng.random(good) < 0.005)
        assert audit.status == ("kept" if good else "not yet known")
        delay = 0
        while audit.status != "broken":
            audit.add(bool(rng.random() < 0.1))
            delay += 1
        delays.append(delay)
    assert np.median(delays) < within
    assert fed(audit, [False] * 2000).status == "broken"  # what was found is not forgotten


def test_a_promise_with_labels_is_kept_by_its_target_and_broken_by_what_calibration_allows():
    point = OperatingPoint("max_drop", 0.02, 0.95, "val", 400, 400, lost=0.0, gmacs=1.0, differing=0.05)
    audit = Audit(1.0, point)
    assert audit.permitted == 0.02
    assert audit.limit == pytest.approx(share_interval(torch.arange(400) < 20).high)
    assert "calibration videos allow 7." in str(fed(audit, [True] * 20))
    assert fed(Audit(1.0, point), [False] * 600).status == "kept"
    clips = OperatingPoint("max_drop", 0.02, 0.95, "val", 400, 20, lost=0.0, gmacs=1.0, differing=0.05)
    assert Audit(1.0, clips).limit > audit.limit  # clips of one recording differ together
    older = OperatingPoint("max_drop", 0.02, 0.95, "val", 400, 400, lost=0.0, gmacs=1.0)
    assert fed(Audit(1.0, older), [True] * 100).status == "not yet known"


def test_without_a_promise_only_the_share_is_told():
    for point in (None, OperatingPoint("budget", 20.0, None, "val", 10, 10, lost=0.0, gmacs=1.0)):
        audit = fed(Audit(0.5, point), [True, False])
        assert audit.status == "nothing promised"
        assert str(audit).startswith("nothing promised: 1 of 2 audited videos were given another label")


def test_about_the_share_is_drawn_and_nobody_can_tell_which_without_the_seed():
    audit = Audit(0.1, PROMISED, seed=0)
    assert 60 < sum(audit.draw() for _ in range(1000)) < 140
    assert audit.videos == 1000
    one, other = Audit(0.5, PROMISED), Audit(0.5, PROMISED)
    assert [one.draw() for _ in range(64)] != [other.draw() for _ in range(64)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.lists(st.booleans(), max_size=40))
def test_it_goes_on_in_another_process(before, after):
    through = fed(Audit(0.5, PROMISED), before + after)
    first = fed(Audit(0.5, PROMISED), before)
    second = fed(Audit(0.5, PROMISED).resume(first.plain()), after)
    assert second.plain() == through.plain()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"audited": -1}, "other parts"),
        ({"bets": [math.nan]}, "other parts"),
        ({"status": "fine"}, "other parts"),
        ({"videos": 3, "audited": 2, "differing": 3}, "other parts"),
        ({"videos": 1, "audited": 2, "differing": 0}, "other parts"),
        ({"videos": 10**400, "audited": 10**400}, "other parts"),
        ({"limit": 0.5}, "of a limit of 0.5, this promise has 0.02"),
    ],
)
def test_what_is_resumed_is_of_the_same_promise(change, said):
    with pytest.raises(InputError, match=said):
        Audit(0.5, PROMISED).resume(Audit(0.5, PROMISED).plain() | change)


@pytest.mark.parametrize("rule", ["max_drop", "max_disagreement"])
@pytest.mark.parametrize("target", [0.0, 1.0, 5.0])
def test_a_promise_of_all_or_nothing_is_refused(rule, target):
    point = replace(PROMISED, rule=rule, target=target)
    with pytest.raises(InputError, match=r"operating_point: .* no share that can be asked for"):
        OperatingPoint.from_plain(point.plain())
    with pytest.raises(InputError, match="what is promised must lie above 0 and below 1"):
        Audit(1.0, point)
    if target <= 1:  # what these videos show may be all or nothing
        assert OperatingPoint.from_plain(replace(point, confidence=None).plain()).target == target


@pytest.mark.parametrize("recordings", [10**9 - 1, 10**8])
def test_an_audit_takes_no_memory_for_the_videos_of_its_promise(recordings):
    point = replace(PROMISED, rule="max_drop", videos=10**9 - 1, recordings=recordings, differing=0.05)
    audit = Audit(1.0, OperatingPoint.from_plain(point.plain()))
    assert 0.05 < audit.limit < 0.0502
    with pytest.raises(InputError, match="videos of another type or out of range"):
        OperatingPoint.from_plain(point.plain() | {"videos": 10**14})


@pytest.mark.parametrize("arguments", [{"share": 0.0}, {"share": 1.5}, {"share": math.nan}, {"share": 0.1, "limit": 1}])
def test_shares_out_of_range_are_named(arguments):
    with pytest.raises(InputError, match=r"audit=|limit="):
        Audit(**arguments)
