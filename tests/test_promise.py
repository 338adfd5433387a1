"""The promise against exact fractions, loops over all thresholds, and draws from populations whose risk is known."""

import json
import sys
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import ThresholdPolicy
from dynvid.calibration import (
    operate,
    smallest_risk,
    thresholds_for_drop,
    thresholds_for_risk,
    videos_needed,
)
from dynvid.policy import choose_exits

GMACS = (1.0, 2.0, 3.0, 6.0)
FULL = [torch.inf, torch.inf, torch.inf, -torch.inf]


def draw(rng, videos, loss=0.1, ties=False):
    """Scores and losses of four exits; surer exits lose less, later exits may lose what earlier ones did not."""
    scores = rng.random((4, videos), dtype=np.float32)
    if ties:
        scores = (16 * scores).round() / 16
    lost = rng.random((4, videos)) < loss * (1 - scores)
    lost[-1] = False
    return torch.from_numpy(scores), torch.from_numpy(lost)


def at_most(losses, videos, risk):
    """P(X <= losses) for X binomial, exact."""
    risk = Fraction(risk)
    terms = (comb(videos, k) * risk**k * (1 - risk) ** (videos - k) for k in range(losses + 1))
    return sum(terms, Fraction(0))


def reference(scores, lost, max_risk, confidence):
    """The method as its docstring tells it: video by video, one threshold after the other."""
    exits, videos = scores.shape
    scores, lost = scores.tolist(), lost.tolist()

    def outcome(row):
        taken = [next((k for k in range(exits - 1) if scores[k][n] >= row[k]), exits - 1) for n in range(videos)]
        return sum(lost[k][n] for n, k in enumerate(taken)), sum(GMACS[k] for k in taken)

    def search(off, error):
        best = [np.inf] * (exits - 1)
        for level in sorted({s for row in scores[off:-1] for s in row}, reverse=True):
            row = [np.inf] * off + [level] * (exits - 1 - off)
            if at_most(outcome(row)[0], videos, max_risk) > error:
                break
            best = row
        return best

    error = 1 - Fraction(confidence)
    rows = [search(0, error)]
    used = max((p for k in range(videos + 1) if (p := at_most(k, videos, max_risk)) <= error), default=error)
    rows += [search(off, (error - used) / (exits - 2)) for off in range(1, exits - 1)]
    return min(rows, key=lambda row: outcome(row)[1])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9999), st.sampled_from([0.05, 0.1, 0.2]), st.sampled_from([0.8, 0.95]), st.booleans())
def test_thresholds_are_the_last_that_an_exact_test_clears(seed, max_risk, confidence, ties):
    rng = np.random.default_rng(seed)
    scores, lost = draw(rng, int(rng.integers(10, 60)), rng.choice([0.1, 0.3]), ties)
    found = thresholds_for_risk(scores, lost, GMACS, max_risk, confidence)
    assert found.tolist() == [*reference(scores, lost, max_risk, confidence), -np.inf]
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("losses", "videos"), [(0, 299), (1, 473), (2, 628), (3, 773), (5, 1049), (10, 1693)])
def test_one_percent_takes_so_many_videos(losses, videos):
    assert videos_needed(0.01, 0.95, losses) == videos
    assert at_most(losses, videos, 0.01) <= 0.05 < at_most(losses, videos - 1, 0.01)
    lost = torch.zeros(2, videos, dtype=torch.bool)
    lost[0, :losses] = True
    scores = torch.ones(2, videos)
    assert thresholds_for_risk(scores, lost, (1.0, 3.0), 0.01).tolist() == [1.0, -torch.inf]
    assert thresholds_for_risk(scores[:, 1:], lost[:, 1:], (1.0, 3.0), 0.01).isinf().all() == (losses == 0)
    assert thresholds_for_risk(scores[:, :-1], lost[:, :-1], (1.0, 3.0), 0.01).isinf().all()


def test_smallest_risk():
    assert smallest_risk(12) == pytest.approx(0.2209, abs=1e-4)
    assert smallest_risk(0) == 1.0
    for videos in (1, 12, 66, 299):
        risk = smallest_risk(videos)
        assert videos_needed(risk * 1.0001) <= videos < videos_needed(risk * 0.9999)


def broken_and_saved(scores, lost, max_risk, rule, videos, draws=200):
    """Share of calibrations that lose more than permitted on the population they are drawn from, and GMACs saved."""
    rng = np.random.default_rng(0)
    thresholds = [rule(torch.from_numpy(rng.integers(scores.shape[1], size=videos))) for _ in range(draws)]
    true = operate(scores, lost, GMACS, torch.stack(thresholds))
    return (true.accuracy > max_risk).float().mean().item(), 1 - true.gmacs.mean().item() / GMACS[-1]


@pytest.mark.parametrize("ties", [False, True])
def test_the_promise_holds_where_the_observed_loss_does_not(ties):
    scores, lost = draw(np.random.default_rng(1), 5000, loss=0.2, ties=ties)

    def promise(n):
        return thresholds_for_risk(scores[:, n], lost[:, n], GMACS, 0.05)

    def observed(n):
        return thresholds_for_drop(scores[:, n], ~lost[:, n], GMACS, 0.05)

    broken, saved = broken_and_saved(scores, lost, 0.05, promise, 200)
    assert broken <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert saved > 0.4
    assert broken_and_saved(scores, lost, 0.05, observed, 200, 50)[0] > 0.2


def test_recordings_are_the_unit():
    rng = np.random.default_rng(2)
    scores, lost = draw(rng, 500, loss=0.2)
    scores, lost = scores.repeat_interleave(8, dim=1), lost.repeat_interleave(8, dim=1)  # eight clips fail together

    def rule(grouped):
        def thresholds(recordings):
            n = (8 * (recordings % 500)[:, None] + torch.arange(8)).flatten()
            groups = torch.arange(len(n)) // 8 if grouped else None
            return thresholds_for_risk(scores[:, n], lost[:, n], GMACS, 0.05, groups=groups)

        return thresholds

    assert broken_and_saved(scores, lost, 0.05, rule(True), 100)[0] <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert broken_and_saved(scores, lost, 0.05, rule(False), 100)[0] > 0.15


def test_twelve_recordings_promise_22_percent_and_no_less():
    scores, lost = torch.ones(4, 66), torch.zeros(4, 66, dtype=torch.bool)
    for groups in (torch.arange(66) % 12, [f"g{n % 12}" for n in range(66)]):
        assert thresholds_for_risk(scores, lost, GMACS, 0.22, groups=groups).tolist() == FULL
        assert thresholds_for_risk(scores, lost, GMACS, 0.221, groups=groups).tolist()[0] == 1.0
    assert thresholds_for_risk(scores, lost, GMACS, 0.05).tolist()[0] == 1.0  # 66 videos of their own


def test_recordings_of_one_clip_are_videos():
    scores, lost = draw(np.random.default_rng(3), 300)
    alone = thresholds_for_risk(scores, lost, GMACS, 0.05)
    assert torch.equal(thresholds_for_risk(scores, lost, GMACS, 0.05, groups=range(300)), alone)


def test_clips_of_a_recording_count_by_their_share():
    """Every recording loses one of its four clips: a quarter is lost, whichever clips are drawn."""
    lost = torch.zeros(2, 4000, dtype=torch.bool)
    lost[0, ::4] = True
    scores, groups = torch.ones(2, 4000), torch.arange(4000) // 4
    assert thresholds_for_risk(scores, lost, (1.0, 3.0), 0.2, groups=groups).tolist() == [torch.inf, -torch.inf]
    assert thresholds_for_risk(scores, lost, (1.0, 3.0), 0.3, groups=groups).tolist() == [1.0, -torch.inf]


@pytest.mark.parametrize("score", ["max_probability", "margin", "negative_entropy"])
def test_the_promise_is_about_what_the_policy_compares(score):
    logits = 3 * torch.randn(4, 400, 5)
    policy = ThresholdPolicy(4, score=score)
    labels = logits.argmax(-1)
    labels[:-1] = torch.where(torch.rand(3, 400) < policy.score(logits)[:-1].exp() - 0.1, labels[-1], labels[:-1])
    lost = labels != labels[-1]
    policy.thresholds.copy_(thresholds_for_risk(policy.score(logits), lost, GMACS, 0.3))
    assert policy.thresholds[:-1].isfinite().any()
    taken = policy.choose(logits)
    assert at_most(int(lost[taken, torch.arange(400)].sum()), 400, 0.3) <= 0.05


def test_no_scale_is_built_in():
    scores, lost = draw(np.random.default_rng(4), 500, ties=True)
    taken = choose_exits(scores, thresholds_for_risk(scores, lost, GMACS, 0.05))
    assert len(taken.unique()) > 1
    for other in (scores - 1, 1000 * scores, scores.double() ** 3 - 7):
        assert torch.equal(choose_exits(other.float(), thresholds_for_risk(other, lost, GMACS, 0.05)), taken)


def test_an_exit_that_is_sure_and_wrong_is_switched_off():
    scores, lost = draw(np.random.default_rng(5), 1000, loss=0.02)
    scores[0], lost[0] = 2.0, True
    found = thresholds_for_risk(scores, lost, GMACS, 0.05)
    assert found[0] == torch.inf
    assert found[1:3].isfinite().all()


def test_nothing_promised_is_full_inference():
    scores, lost = draw(np.random.default_rng(6), 298)
    assert thresholds_for_risk(scores, lost & False, GMACS, 0.01).tolist() == FULL  # one video too few
    lost[:-1] = True
    assert thresholds_for_risk(torch.ones_like(scores), lost, GMACS, 0.05).tolist() == FULL  # all are lost together
    assert thresholds_for_risk(scores[:, :0], lost[:, :0], GMACS, 0.05).tolist() == FULL
    assert thresholds_for_risk(scores[-1:], lost[-1:], GMACS[-1:], 0.05).tolist() == [-torch.inf]


def test_bad_input_says_so():
    scores, lost = draw(np.random.default_rng(7), 300)
    for bad, message in (
        ({"scores": scores.masked_fill(scores > 0.9, torch.nan)}, "not finite"),
        ({"scores": scores.masked_fill(scores > 0.9, torch.inf)}, "not finite"),  # would reach an exit that is off
        ({"lost": ~lost}, r"lost\[-1\] is not all False"),
        ({"lost": lost.float()}, "float32: bool"),
        ({"lost": lost[:, 1:]}, r"lost \(4, 299\)"),
        ({"gmacs": GMACS[1:]}, r"gmacs \(3,\)"),
        ({"max_risk": 0.0}, "max_risk=0.0: a share above 0"),
        ({"max_risk": float("nan")}, "max_risk=nan"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"groups": [1, 2]}, "groups has 2 entries for 300 videos"),
    ):
        with pytest.raises(ValueError, match=message):
            thresholds_for_risk(**({"scores": scores, "lost": lost, "gmacs": GMACS, "max_risk": 0.05} | bad))
    with pytest.raises(ValueError, match="losses=-1"):
        videos_needed(0.01, losses=-1)
    with pytest.raises(ValueError, match="videos=-1"):
        smallest_risk(-1)


def test_mapie_clears_the_same_thresholds():
    risk_control = pytest.importorskip("mapie.risk_control", reason="MAPIE is not installed")
    methods = pytest.importorskip("mapie.risk_control.methods")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, lost = draw(rng, 500, loss=0.15, ties=seed % 2 == 0)
        scores, lost = scores[[0, -1]], lost[[0, -1]]  # two exits: one search
        levels = scores[0].unique().flip(0)
        risk = [(lost[0] & (scores[0] >= level)).float().mean().item() for level in levels]
        p = methods.compute_hoeffding_bentkus_p_value(np.round(np.array(risk) * 500) / 500, 500, 0.05, binary=True)
        cleared = risk_control.control_fwer(p[:, 0], 0.05, "fixed_sequence")
        found = thresholds_for_risk(scores, lost, GMACS[:1] + GMACS[-1:], 0.05)
        # Hoeffding's bound is above the exact probability, so the smaller of the two is the exact one.
        assert found[0] == (levels[cleared[-1]] if len(cleared) else torch.inf)


def test_the_simulation_counts_broken_promises(tmp_path, monkeypatch):
    """A net that is always right at its last exit, and wrong on 3 % at all others, where it is as sure as elsewhere."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    for name in ("runs", "promise"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import promise

    labels = torch.arange(400) % 2  # two classes: equally sure to the last bit
    logits = torch.nn.functional.one_hot(labels, 2).float().repeat(3, 1, 1)
    logits[:2, :12] = logits[:2, :12].roll(1, dims=-1)
    outputs = {"logits": logits, "labels": labels, "noise": torch.rand(400), "gmacs": [1.0, 2.0, 4.0]}
    torch.save(outputs, tmp_path / "outputs.pt")
    monkeypatch.setattr(promise, "RESULTS", tmp_path)
    monkeypatch.setattr(promise, "COUNTS", (100, 1000))
    arguments = ["--name", "x", "--outputs", str(tmp_path / "outputs.pt"), "--draws", "4"]
    monkeypatch.setattr(sys, "argv", ["promise.py", *arguments])
    promise.main()
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["best"] == {kind: {"0.01": 0, "0.02": 0, "0.05": 0.75} for kind in ("with labels", "without labels")}
    rows = found["rows"]
    assert len(rows) == 3 * (2 * 2 + 2 + 2 * 2)
    for row in rows:  # all leave at the first exit, or none
        assert row["broken"] == pytest.approx(row["saved"] / 0.75 * (row["risk"] < 0.03), abs=1e-3)
        assert row["mean_loss"] == pytest.approx(row["saved"] / 0.75 * 0.03, abs=1e-4)
        assert row["top1_change"] == pytest.approx(-row["mean_loss"], abs=1e-4)
    assert all(row["saved"] == 0.75 for row in rows if row["risk"] == 0.05 and row["count"] == 1000)
    assert (
        "| with labels | 1,000 clips | promise | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 75.0 % |"
        in (tmp_path / "x.md").read_text().splitlines()
    )
