"""From what is asked for to an operating point, and the point as plain data from strangers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import (
    Offer,
    OperatingPoint,
    Target,
    find_point,
    kept_apart,
    measured,
    thresholds_for_budget,
    thresholds_for_drop,
    thresholds_for_risk,
)

GMACS = (1.0, 2.0, 4.0)


def outcomes(videos, seed=0):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.random((3, videos), dtype=np.float32))
    lost = torch.from_numpy(rng.random((3, videos)) < 0.3 * (1 - scores.numpy()) ** 2)
    lost[-1] = False
    return scores, lost


def names(videos, per_recording=1):
    return [f"recording {n // per_recording}" for n in range(videos)]


def test_each_target_is_the_rule_that_it_names():
    scores, lost = outcomes(800)
    cases = {
        Target(max_drop=0.05): thresholds_for_risk(scores, lost, GMACS, 0.05),
        Target(max_disagreement=0.05, confidence=0.9): thresholds_for_risk(scores, lost, GMACS, 0.05, 0.9),
        Target(max_drop=0.05, confidence=None): thresholds_for_drop(scores, ~lost, GMACS, 0.05),
        Target(budget=2.5): thresholds_for_budget(scores, ~lost, GMACS, 2.5),
    }
    for target, expected in cases.items():
        thresholds, point = find_point(scores, lost, GMACS, target, names(800))
        assert torch.equal(thresholds, expected), target
        assert (point.rule, point.target) == (target.rule, target.value)


def test_a_point_says_what_its_thresholds_cost_and_lose_on_its_videos():
    scores, lost = outcomes(800)
    thresholds, point = find_point(scores, lost, GMACS, Target(max_drop=0.05), names(800, 4), "val")
    cost = missed = 0.0
    for n in range(800):
        taken = next((k for k in range(2) if scores[k, n] >= thresholds[k]), 2)
        cost += GMACS[taken]
        missed += bool(lost[taken, n])
    assert point.gmacs == pytest.approx(cost / 800)
    assert point.lost == pytest.approx(missed / 800)
    assert point.interval.low < point.gmacs < point.interval.high
    assert (point.videos, point.recordings, point.split) == (800, 200, "val")
    assert not point.full_inference
    assert point.offers == ()


def test_recordings_are_the_unit_where_several_clips_are_of_one():
    scores, lost = outcomes(800)
    groups = names(800, 40)  # 20 recordings can promise 14 %
    thresholds, point = find_point(scores, lost, GMACS, Target(max_drop=0.1), groups)
    assert thresholds.tolist() == [torch.inf, torch.inf, -torch.inf]
    assert point.full_inference
    assert [(offer.risk, offer.saved is None, offer.needed) for offer in point.offers] == [
        (0.01, True, 299),
        (0.02, True, 149),
        (0.05, True, 59),
        (0.1, True, 29),
        (0.14, False, 20),  # the least that they can
    ]
    assert "800 videos of 20 recordings" in str(point)
    assert "needs 29 recordings" in point.offered()


def test_too_few_videos_are_offered_what_they_can_promise():
    scores, lost = outcomes(200)
    lost[:] = False
    _, point = find_point(scores, lost, GMACS, Target(max_drop=0.01), names(200), full_gmacs=5.0)
    saved = {offer.risk: offer.saved for offer in point.offers}
    assert saved[0.01] is None
    assert saved[0.02] == pytest.approx(1 - 1 / 5)  # nothing is lost anywhere, so all leave at the first exit
    assert "needs 299 videos" in point.offered()
    assert "80.0 %" in point.offered()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([f"val/class {n % 7}/{n}.mp4" for n in range(300)])), st.data())
def test_a_recording_stays_on_its_side_whichever_others_could_be_read(names, data):
    side = dict(zip(names, kept_apart(names).tolist(), strict=True))
    part = data.draw(st.permutations(names))[: len(names) // 2]
    assert kept_apart(part).tolist() == [side[name] for name in part]
    elsewhere = [f"/another/place/{name}" for name in part]
    assert kept_apart(elsewhere).tolist() == kept_apart(part).tolist()


def test_about_two_thirds_calibrate():
    assert 6500 < int(kept_apart([f"{n}.mp4" for n in range(10_000)]).sum()) < 6830  # three standard deviations
    clips = [f"v_Lunges_g{n // 4:02d}" for n in range(100)]
    assert len(set(zip(clips, kept_apart(clips).tolist(), strict=True))) == 25  # all clips of a recording


def test_videos_that_chose_promise_nothing_however_many_they_are():
    scores, lost = outcomes(400)
    lost[:] = False
    thresholds, point = find_point(scores, lost, GMACS, Target(max_drop=0.01), names(400), chosen_by="these")
    assert thresholds.tolist() == [torch.inf, torch.inf, -torch.inf]
    assert (
        str(point)
        == "full inference: 400 videos of val chose the checkpoint, so they cannot promise anything of new ones"
    )
    needed = {offer.risk: (offer.saved is None, offer.needed) for offer in point.offers}
    assert needed == {0.01: (True, 449), 0.02: (False, 224), 0.05: (False, 89), 0.1: (False, 44)}
    assert "what two thirds of 400 videos can promise" in point.offered()
    loose, _ = find_point(scores, lost, GMACS, Target(max_drop=0.01, confidence=None), names(400), chosen_by="these")
    assert loose[0] < torch.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "none: give one of"),
        ({"max_drop": 0.1, "budget": 2.0}, "max_drop=0.1 beside budget=2"),
        ({"max_drop": 0.0}, "max_drop=0.0: what is promised must lie above 0"),
        ({"max_drop": 1.5, "confidence": None}, r"max_drop=1.5: a share in \[0, 1\]"),
        ({"max_disagreement": float("nan")}, "max_disagreement=nan"),
        ({"budget": 0.0}, "budget=0.0: GMACs above 0"),
        ({"budget": float("inf")}, "budget=inf: GMACs above 0, and below"),
        ({"max_drop": 0.1, "confidence": 1.0}, "confidence=1.0: above 0 and below 1"),
    ],
)
def test_targets_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Target(**arguments)


def some_point():
    scores, lost = outcomes(100)
    return find_point(scores, lost, GMACS, Target(max_drop=0.01), names(100))[1]


def test_a_point_survives_as_plain_data():
    point = some_point()
    assert point.offers
    assert OperatingPoint.from_plain(point.plain()) == point
    assert OperatingPoint.from_plain(OperatingPoint("thresholds").plain()) == OperatingPoint("thresholds")


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "magic"},
        {"target": "0.01"},
        {"target": float("nan")},
        {"confidence": 2.0},
        {"videos": -1},
        {"videos": True},
        {"split": ["val"]},
        {"interval": [1.0]},
        {"interval": [1.0, "2"]},
        {"offers": [[0.1, None]]},
        {"offers": [[0.1, 3.0, 4]]},
        {"full_inference": 1},
        {"chosen_by": None},
        {"more": 1},
        {"target": None},
        {"rule": "budget", "gmacs": None},
        {"lost": None},
    ],
)
def test_a_point_of_strangers_is_checked(change):
    with pytest.raises(ValueError, match="operating_point"):
        OperatingPoint.from_plain(some_point().plain() | change)


def test_the_words_of_each_kind_of_point():
    base = OperatingPoint("max_drop", 0.02, 0.95, "val", 300, 300, lost=0.004, gmacs=1.0)
    assert str(base).startswith("promised with 95 % confidence: at most 2 % of new videos lost (0.4 % of 300 videos")
    loose = OperatingPoint("max_drop", 0.02, None, "val", 300, 300, lost=0.004)
    assert str(loose).startswith("no promise: 0.4 % of 300 videos of val are lost")
    other = OperatingPoint("max_disagreement", 0.02, 0.95, "val", 300, 100, lost=0.004)
    assert "another label than full inference gives" in str(other)
    assert "300 videos of 100 recordings" in str(other)
    assert str(OperatingPoint("budget", 2.0, 0.95, "val", 9, 9, gmacs=1.5)).startswith("no promise on accuracy: 1.5 GM")
    assert Offer(0.1, None, 29).needed == 29


def test_what_is_measured_is_of_the_videos_given():
    scores, lost = outcomes(50)
    point = measured(OperatingPoint("thresholds"), torch.tensor([-torch.inf] * 3), scores, lost, GMACS, names(50))
    assert point.gmacs == 1.0
    assert point.lost == pytest.approx(lost[0].float().mean().item())
