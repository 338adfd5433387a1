"""Every figure against plain loops over the recorded table, and against what must hold whatever the answers are."""

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import Interval, OperatingPoint
from dynvid.errors import InputError
from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.report import summarise, write_report
from dynvid.report.bounds import height, oracle_exit, random_exit
from dynvid.routes import Exit

from .conftest import make_outputs, make_sets


class Recorded:
    """A table as somebody else would read it: rows of numbers, softmax by hand."""

    def __init__(self, path):
        table = pq.read_table(path)
        self.rows, self.about = table.to_pylist(), json.loads(table.schema.metadata[b"dynvid"])
        self.exits = [f"{frames}x{depth}" for frames, depth in self.about["route"]]
        self.gmacs, self.full_gmacs = self.about["gmacs"], self.about["full_gmacs"]

    def answer(self, row, k):
        logits = row[f"logits_{self.exits[k]}"]
        return max(range(len(logits)), key=lambda label: logits[label])

    def probability(self, row, k):
        warm = [x / self.about["temperatures"][k] for x in row[f"logits_{self.exits[k]}"]]
        return 1 / sum(math.exp(x - max(warm)) for x in warm)

    def exit(self, row, thresholds):
        for k in range(len(self.exits) - 1):
            if self.probability(row, k) >= float(thresholds[k]):
                return k
        return len(self.exits) - 1

    def right(self, row, k):
        truth = row["label"] if row["label"] >= 0 else self.answer(row, len(self.exits) - 1)
        return self.answer(row, k) == truth

    def mean(self, measured):
        return sum(map(measured, self.rows)) / len(self.rows)

    def calibration_error(self, k):
        error = 0.0
        for low, high in itertools.pairwise(n / 15 for n in range(16)):
            inside = [row for row in self.rows if low < self.probability(row, k) <= high]
            error += abs(sum(self.right(row, k) - self.probability(row, k) for row in inside))
        return error / len(self.rows)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 999),
    videos=st.integers(1, 40),
    exits=st.integers(1, 4),
    labelled=st.booleans(),
    per_recording=st.integers(1, 3),
)
@pytest.mark.slow
def test_the_json_is_what_loops_over_the_table_give(tmp_path_factory, seed, videos, exits, labelled, per_recording):
    folder = tmp_path_factory.mktemp("report")
    make_outputs(seed, videos, 6, exits, labelled, per_recording).save(folder / "outputs.parquet")
    write_report(Outputs.read(folder / "outputs.parquet"), folder, gallery=False)
    report = json.loads((folder / "report.json").read_text())
    table, last, name = Recorded(folder / "outputs.parquet"), exits - 1, "accuracy" if labelled else "agreement"
    taken = [row["exit"] - 1 for row in table.rows]
    assert taken == [table.exit(row, table.about["thresholds"]) for row in table.rows]

    def at_exit(row):
        return table.right(row, row["exit"] - 1)

    assert report["videos"] == videos
    assert report["recordings"] == -(-videos // per_recording)
    full, dynamic = table.mean(lambda row: table.right(row, last)), table.mean(at_exit)
    cost = table.mean(lambda row: table.gmacs[row["exit"] - 1])
    recalls = {}
    if labelled:
        of = {label: [row for row in table.rows if row["label"] == label] for label in {r["label"] for r in table.rows}}
        for kind, right in (("full", lambda row: table.right(row, last)), ("dynamic", at_exit)):
            recalls[kind] = {"macro_recall": sum(sum(map(right, rows)) / len(rows) for rows in of.values()) / len(of)}
    assert report["full"] == pytest.approx({name: full, "gmacs": table.full_gmacs} | recalls.get("full", {}))
    assert report["dynamic"] == pytest.approx({name: dynamic, "gmacs": cost} | recalls.get("dynamic", {}))
    assert (report["saved"], report["points"]) == pytest.approx((1 - cost / table.full_gmacs, dynamic - full))
    for k, e in enumerate(report["exits"]):
        leaving = [table.right(row, k) for row in table.rows if row["exit"] == k + 1]
        assert (e["frames"], e["depth"], e["gmacs"]) == (*table.about["route"][k], table.gmacs[k])
        assert e[name] == pytest.approx(table.mean(lambda row, k=k: table.right(row, k)))
        assert e["interval"][0] <= e[name] <= e["interval"][1]
        assert e["share"] == pytest.approx(taken.count(k) / videos)
        assert e["of_those_leaving"] == (pytest.approx(sum(leaving) / len(leaving)) if leaving else None)
        spoilt = sum(table.right(row, k) and not table.right(row, last) for row in table.rows)
        mended = sum(table.right(row, last) and not table.right(row, k) for row in table.rows)
        assert (e["right_then_wrong"], e["wrong_then_right"]) == (spoilt, mended)
        if labelled:
            assert e["calibration_error"] == pytest.approx(table.calibration_error(k), abs=1e-5)
            better = table.mean(
                lambda row, x=f"logits_{table.exits[k]}": sum(v > row[x][row["label"]] for v in row[x]) < 5
            )
            assert e["top5"] == pytest.approx(better)
    assert sum(e["share"] for e in report["exits"]) == pytest.approx(1)

    labels = [row["label"] if labelled else table.answer(row, last) for row in table.rows]
    assert [c["class"] for c in report["classes"]] == [f"class {label}" for label in sorted(set(labels))]
    for c, label in zip(report["classes"], sorted(set(labels)), strict=True):
        rows = [row for row, own in zip(table.rows, labels, strict=True) if own == label]
        assert c["videos"] == len(rows)
        assert c["full"] == pytest.approx(sum(table.right(row, last) for row in rows) / len(rows))
        assert c["dynamic"] == pytest.approx(sum(map(at_exit, rows)) / len(rows))
        assert c["gmacs"] == pytest.approx(sum(row["gmacs"] for row in rows) / len(rows))
        assert sum(c["shares"]) == pytest.approx(1)
        assert c["shares"][0] == pytest.approx(sum(row["exit"] == 1 for row in rows) / len(rows))

    pairs = [(table.right(row, last), at_exit(row)) for row in table.rows]
    if labelled:
        kinds = {"both_right": (1, 1), "only_full": (1, 0), "only_dynamic": (0, 1), "neither": (0, 0)}
    else:
        kinds = {"same": (1, 1), "other": (1, 0)}
    counted = {kind: pairs.count(pair) for kind, pair in kinds.items()}
    assert {kind: report["confusion"][kind] for kind in kinds} == counted
    assert sum(counted.values()) == videos
    changes = [
        (f"class {table.answer(row, last)}", f"class {table.answer(row, row['exit'] - 1)}")
        for row in table.rows
        if table.answer(row, last) != table.answer(row, row["exit"] - 1)
    ]
    listed = [(pair["full"], pair["dynamic"], pair["videos"]) for pair in report["confusion"]["changed"]]
    assert all(changes.count((a, b)) == count for a, b, count in listed)
    assert [count for _, _, count in listed] == sorted(map(changes.count, set(changes)), reverse=True)[:10]

    wrong = [row for row in table.rows if not at_exit(row)]
    sure = sorted((table.probability(row, row["exit"] - 1) for row in wrong), reverse=True)[:10]
    assert [v["probability"] for v in report["wrong"]] == pytest.approx(sure, rel=1e-5)
    assert {v["path"] for v in report["wrong"]} <= {row["path"] for row in wrong}
    slowest = sorted((-row["exit"], table.probability(row, row["exit"] - 1)) for row in table.rows)[:10]
    assert [v["probability"] for v in report["slowest"]] == pytest.approx([p for _, p in slowest], rel=1e-5)
    assert [v["exit"] for v in report["slowest"]] == sorted((row["exit"] for row in table.rows), reverse=True)[:10]

    rows = table.about["run"]["curve_thresholds"]
    expected = []
    for row in rows:
        exits_taken = [table.exit(video, row) for video in table.rows]
        hits = sum(table.right(video, k) for video, k in zip(table.rows, exits_taken, strict=True))
        expected.append((sum(table.gmacs[k] for k in exits_taken) / videos, hits / videos))
    found = [(p["gmacs"], p[name]) for p in report["curve"]]
    assert found == sorted(found, key=lambda point: point[0])
    for point in found:
        assert any(point == pytest.approx(one) for one in expected)
    assert all(p["interval"][0] <= p[name] + 1e-9 and p[name] <= p["interval"][1] + 1e-9 for p in report["curve"])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9999), st.integers(1, 4), st.integers(1, 5))
def test_no_choice_of_exits_beats_the_oracle_and_no_mixture_the_random_exit(seed, exits, videos):
    """Against every choice there is: exits^videos of them for the oracle, all mixtures of two exits for chance."""
    rng = np.random.default_rng(seed)
    correct, gmacs = rng.random((exits, videos)) < 0.6, np.cumsum(rng.uniform(0.1, 2, exits)).tolist()
    oracle, chance = oracle_exit(gmacs, correct), random_exit(gmacs, correct.mean(1).tolist())
    choices = list(itertools.product(range(exits), repeat=videos))
    outcomes = [
        (sum(gmacs[k] for k in choice) / videos, sum(correct[k, n] for n, k in enumerate(choice)) / videos)
        for choice in choices
    ]
    for cost, accuracy in outcomes:
        assert accuracy <= height(oracle, cost) + 1e-9
    for corner in oracle:  # and each corner is had by one of them, or a cost where it is dear to say how
        assert any(corner == pytest.approx(one) for one in outcomes)

    for cost in np.linspace(gmacs[0], gmacs[-1], 7):
        best = 0.0
        for i, j in itertools.combinations_with_replacement(range(exits), 2):
            share = 1.0 if gmacs[j] <= cost else (cost - gmacs[i]) / (gmacs[j] - gmacs[i]) if gmacs[i] <= cost else None
            if share is not None:
                best = max(best, (1 - share) * correct[i].mean() + share * correct[j].mean(), correct[i].mean())
        assert height(chance, float(cost)) == pytest.approx(best)
        assert height(chance, float(cost)) <= height(oracle, float(cost)) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_for_the_curve(seed):
    summary = summarise(make_outputs(seed, videos=60, curve=30))
    oracle = [(c["gmacs"], c["accuracy"]) for c in summary["bounds"]["oracle_exit"]["corners"]]
    chance = [(c["gmacs"], c["accuracy"]) for c in summary["bounds"]["random_exit"]["corners"]]
    for p in [*summary["curve"], summary["dynamic"]]:
        assert p["accuracy"] <= np.interp(p["gmacs"], *zip(*oracle, strict=True)) + 1e-9
    for e in summary["exits"]:
        assert e["accuracy"] <= np.interp(e["gmacs"], *zip(*chance, strict=True)) + 1e-9
    assert summary["bounds"]["oracle_exit"]["at_equal_cost"] >= summary["dynamic"]["accuracy"] - 1e-9


def test_the_smallest_table_has_a_report(tmp_path):
    outputs = make_outputs(videos=3, classes=1, exits=1, curve=0)
    summary = write_report(outputs, tmp_path)
    assert summary["dynamic"] == {"accuracy": 1.0, "gmacs": 9.0, "macro_recall": 1.0}
    assert summary["curve"] == []
    assert [e["share"] for e in summary["exits"]] == [1.0]
    assert summary["top5"] is None


def test_no_videos_say_so():
    with pytest.raises(InputError, match="no videos"):
        summarise(make_outputs(videos=2).of(torch.tensor([False, False])))


def answers(lost, videos, point, recordings=None, labelled=True, split="test"):
    """Two exits and two classes: all leave at the first exit, where the first `lost` videos are wrong."""
    first = torch.tensor([[3.0, 0.0]]).repeat(videos, 1)
    first[:lost] = torch.tensor([0.0, 3.0])
    last = torch.tensor([[3.0, 0.0]]).repeat(videos, 1)
    last[videos // 2 :] = first[videos // 2 :] = torch.tensor([0.0, 3.0])
    labels = torch.tensor([0] * (videos // 2) + [1] * (videos - videos // 2))
    paths = [f"{n}.mp4" for n in range(videos)]
    return Outputs(
        torch.stack([first, last]),
        labels if labelled else torch.full((videos,), -1),
        paths,
        recordings or paths,
        (Exit(1, 1), Exit(2, 1)),
        (1.0, 3.0),
        2.9,
        ThresholdPolicy(thresholds=[0.5, 0.0]),
        point,
        split,
    )


PROMISE = OperatingPoint("max_drop", 0.02, 0.95, "val", 900, 900, lost=0.01, gmacs=1.0)


@pytest.mark.parametrize(
    ("lost", "kept", "words"),
    [
        (0, True, "The promise was kept: 0.0 % of 300 videos were lost (0.0 % to 1.2 %"),
        (3, True, "at most 2 % promised; whether that holds in the long run stays open."),  # 0.2 % to 2.9 %
        (6, True, "The promise was kept: 2.0 %"),
        (9, False, "The promise was broken: 3.0 % of 300 videos were lost (1.4 % to 5.6 %"),
        (30, False, "the luck of these videos does not explain that."),
    ],
)
def test_a_promise_is_kept_or_broken(lost, kept, words):
    found = summarise(answers(lost, 300, PROMISE))["verdict"]
    assert found["kept"] is kept
    assert words in found["words"]
    assert found["lost"] == pytest.approx(lost / 300)


def test_what_is_promised_is_the_mean_over_recordings():
    """One lost video that is half of its recording weighs more than one of a recording of many."""
    recordings = ["a", "a", *(["b"] * 18)]
    found = summarise(answers(1, 20, replace(PROMISE, target=0.1), recordings))["verdict"]
    assert found["lost"] == pytest.approx((1 / 2 + 0 / 18) / 2)
    assert found["kept"] is False  # though only one in twenty videos is lost
    low, high = found["interval"]
    assert low < 0.01  # two recordings say little
    assert high > 0.8
    assert "of the videos of a recording, in the mean, were lost" in found["words"]


def test_no_loss_in_few_recordings_is_no_certainty():
    """Ten recordings without a loss: 0 to 30.8 %, as for ten videos."""
    found = summarise(answers(0, 40, PROMISE, [f"{n // 4}" for n in range(40)]))["verdict"]
    assert found["interval"] == pytest.approx([0, 1 - 0.025**0.1])


@pytest.mark.parametrize(
    ("point", "kept", "words"),
    [
        (None, None, "1.0 % of 300 videos were lost"),
        (OperatingPoint("thresholds"), None, "1.0 % of 300 videos were lost"),
        (OperatingPoint("budget", 1.5, gmacs=1.4), True, "The budget was kept: 1 GMACs"),
        (OperatingPoint("budget", 0.5, gmacs=0.5, interval=Interval(0.4, 0.6)), False, "The budget was exceeded"),
        (replace(PROMISE, confidence=None), True, "The limit was kept"),
        (replace(PROMISE, full_inference=True), None, "Every video got full inference"),
        (replace(PROMISE, split="test"), None, "found on these very videos"),
        (replace(PROMISE, rule="max_disagreement"), True, "were given another label than full inference gives"),
    ],
)
def test_what_else_was_asked_for(point, kept, words):
    found = summarise(answers(3, 300, point))["verdict"]
    assert found["kept"] is kept
    assert words in found["words"]


@pytest.mark.parametrize(("lost", "kept"), [(3, True), (30, None)])
def test_without_labels_a_promise_can_be_seen_kept_and_not_broken(lost, kept):
    summary = summarise(answers(lost, 300, PROMISE, labelled=False))
    assert summary["verdict"]["kept"] is kept
    assert "Without labels" in summary["verdict"]["words"]
    assert "accuracy" not in json.dumps(summary)
    assert summary["dynamic"]["agreement"] == 1 - lost / 300


def test_savings_mean_nothing_beside_the_most_frequent_class():
    """Full inference that is right as often as whoever always says the same."""
    outputs = answers(0, 300, PROMISE)
    assert summarise(outputs)["headline"]["warning"] is None  # all right, either class half of the videos
    labels = torch.zeros(300, dtype=torch.long)
    labels[:60] = 1  # full inference says 0 for the first half and 1 for the second
    summary = summarise(replace(outputs, labels=labels, class_names=["run", "walk"]))
    assert summary["most_frequent"] == {"class": "run", "share": 0.8}
    warning = summary["headline"]["warning"]
    assert "“run” (80.0 %): savings mean nothing here" in warning
    assert "Full inference (30.0 %, 24.9 % to 35.5 %)" in warning
    labels = (torch.arange(300) >= 110).long()  # 260 right of 300: 82.2 % to 90.4 %
    assert summarise(replace(outputs, labels=labels))["headline"]["warning"] is None
    logits = outputs.logits.clone()
    logits[1, 150:200] = torch.tensor([3.0, 0.0])  # 210 of 300: 64.5 % to 75.1 %, and the class has 63.3 %
    assert summarise(replace(outputs, labels=labels, logits=logits))["headline"]["warning"] is None
    logits[1, 200:210] = torch.tensor([3.0, 0.0])  # 200 of 300: 61.0 % to 72.0 %
    assert "savings mean nothing" in summarise(replace(outputs, labels=labels, logits=logits))["headline"]["warning"]


def test_a_point_below_the_curve_is_explained():
    """The first exit loses 30 videos of 300, of which it is surest; the point lets these go and keeps a third back."""
    outputs = answers(30, 300, PROMISE)
    outputs.logits[0, :30] *= 2
    outputs.logits[0, 200:] *= 0.01
    outputs = replace(outputs, policy=ThresholdPolicy(thresholds=[0.9, 0.0]))
    on_it = [[0.5, 0.0], [0.9, 0.0], ["inf", 0.0]]
    assert summarise(outputs, on_it)["note"] is None
    above = [[0.5, 0.0], ["inf", 0.0]]  # from 90 % at 1 GMACs to 100 % at 3; at the point's 1.67 that is 93.3 %
    dynamic = summarise(outputs, above)["dynamic"]
    assert (dynamic["accuracy"], dynamic["gmacs"]) == (0.9, pytest.approx(5 / 3))
    note = summarise(outputs, above)["note"]
    assert note.startswith("The operating point lies 3.3 points below the curve at its cost.")
    assert "promise nothing; those of the operating point had to carry a promise." in note
    budget = replace(outputs, point=OperatingPoint("budget", 2.0, gmacs=2.0))
    assert "had to keep to a budget" in summarise(budget, above)["note"]
    assert "were given by hand" in summarise(replace(outputs, point=OperatingPoint("thresholds")), above)["note"]


@pytest.mark.parametrize("rows", [[[0.5]], [["high", 0.0]], 5.0, [[0.5, 0.1], [0.5]], [["nan", 0.0]], "inf"])
def test_thresholds_that_do_not_fit_say_so(rows):
    with pytest.raises(InputError, match="curve_thresholds"):
        summarise(answers(0, 10, None), rows)


def test_a_label_beyond_the_classes_says_so():
    outputs = make_outputs()
    with pytest.raises(InputError, match="label 6: the net knows 6 classes"):
        summarise(replace(outputs, labels=torch.full_like(outputs.labels, 6)))


def test_costs_that_do_not_grow_say_so():
    with pytest.raises(InputError, match="do not grow"):
        summarise(replace(make_outputs(), gmacs=(1.0, 1.0, 2.0, 3.0)))


def test_answers_that_are_no_numbers_give_null_and_not_a_crash(tmp_path):
    outputs = make_outputs()
    outputs.logits[0, 0] = torch.nan
    write_report(outputs, tmp_path, gallery=False)
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["exits"][0]["calibration_error"] is None
    assert report["exits"][1]["calibration_error"] is not None


def test_intervals_are_by_recording():
    """Clips of one recording that fail together say less than as many recordings."""
    outputs = answers(0, 40, None)
    outputs.logits[:, :10] = torch.tensor([0.0, 3.0])  # wrong at both exits
    alone = summarise(outputs)["intervals"]["full"]
    together = summarise(replace(outputs, recordings=[f"{n // 10}" for n in range(40)]))["intervals"]["full"]
    assert together[0] < alone[0] < 0.75 < alone[1] < together[1]


def test_the_cost_too_is_by_recording():
    """A quarter stays to the end, in one recording: drawn anew, any number of the four may be that one."""
    outputs = replace(answers(0, 40, None), policy=ThresholdPolicy(thresholds=[0.9, 0.0]))
    outputs.logits[0, :10] *= 0.01
    alone = summarise(outputs)["intervals"]
    together = summarise(replace(outputs, recordings=[f"{n // 10}" for n in range(40)]))["intervals"]
    assert together["gmacs"] == [1.0, 1.0 + 2 * 0.75]  # three of four drawings at most, with 97.5 %
    assert together["saved"] == pytest.approx([1 - 2.5 / 2.9, 1 - 1.0 / 2.9])
    assert 1.0 < alone["gmacs"][0] < 1.5 < alone["gmacs"][1] < 2.5


def test_the_difference_is_of_the_same_videos():
    """Both are wrong on the same ten of forty: what either has is uncertain, and that they are equal is hardly so."""
    outputs = answers(0, 40, None)
    outputs.logits[:, :10] = torch.tensor([0.0, 3.0])
    low, high = summarise(outputs)["intervals"]["points"]
    assert low == -high
    assert 0 < high < 0.06
    assert summarise(outputs)["intervals"]["full"][1] - summarise(outputs)["intervals"]["full"][0] > 0.2
    logits = outputs.logits.clone()
    logits[0, 10:14] = torch.tensor([0.0, 3.0])
    low, high = summarise(replace(outputs, logits=logits))["intervals"]["points"]
    assert low < -0.1 < high <= 0.01
    assert low >= -0.225


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.booleans())
def test_every_figure_of_sets_is_that_of_plain_loops(tmp_path_factory, seed, labelled):
    file = tmp_path_factory.mktemp("sets") / "outputs.parquet"
    outputs = make_sets(seed, labelled=labelled)
    outputs.save(file)
    rows, summary = pq.read_table(file).to_pylist(), summarise(Outputs.read(file))
    names, exits = outputs.class_names, ["2x1", "4x1", "4x2", "8x2"]
    last = exits[-1]
    truth = [set(row["label"] if labelled else row[f"label_{last}"]) for row in rows]
    full = [set(row[f"label_{last}"]) for row in rows]
    here = [set(row[f"label_{exits[row['exit'] - 1]}"]) for row in rows]
    for n, row in enumerate(rows):  # what is more probable than not, all together
        k = row["exit"] - 1
        p = [1 / (1 + math.exp(-x / outputs.policy.temperatures[k])) for x in row[f"logits_{exits[k]}"]]
        assert here[n] == {c for c, x in enumerate(p) if x > 0.5}
        assert row[f"probability_{exits[k]}"] == pytest.approx(math.prod(max(x, 1 - x) for x in p), rel=1e-4)
    measure = "accuracy" if labelled else "agreement"
    assert summary["measure_name"] == ("set accuracy" if labelled else "agreement")
    for name, answers in (("full", full), ("dynamic", here)):
        share = sum(a == b for a, b in zip(answers, truth, strict=True)) / len(rows)
        assert summary[name][measure] == pytest.approx(share)
        assert ("map" in summary[name]) == labelled
    found = {c["class"]: c for c in summary["classes"]}
    assert set(found) == {names[c] for labels in truth for c in labels}
    for c, name in enumerate(names):
        own = [n for n in range(len(rows)) if c in truth[n]]
        if own:
            assert found[name]["videos"] == len(own)
            assert found[name]["full"] == pytest.approx(sum(c in full[n] for n in own) / len(own))
            assert found[name]["dynamic"] == pytest.approx(sum(c in here[n] for n in own) / len(own))
            assert found[name]["gmacs"] == pytest.approx(sum(rows[n]["gmacs"] for n in own) / len(own))
            assert found[name]["shares"][0] == pytest.approx(sum(rows[n]["exit"] == 1 for n in own) / len(own))
    wrong = [n for n in range(len(rows)) if here[n] != truth[n]]
    said = {video["path"]: video for video in summary["wrong"]}
    assert len(said) == min(len(wrong), 10)
    for n in wrong:
        if video := said.get(rows[n]["path"]):
            assert video["dynamic"] == (";".join(names[c] for c in sorted(here[n])) or "none of them")
            assert (video["class"] is not None) == labelled
    if labelled:
        common = max(truth.count(one) for one in truth)
        assert summary["most_frequent"]["share"] == pytest.approx(common / len(rows))
        confusion = summary["confusion"]
        assert confusion["only_full"] == sum(a == t != b for a, b, t in zip(full, here, truth, strict=True))
    assert summary["top5"] is None


def test_the_page_of_sets_says_what_its_figures_are(tmp_path):
    summary = write_report(make_sets(1, videos=300), tmp_path)
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for text in (page, markdown):
        assert "mAP" in text
        assert "micro F1" in text
        assert "top-1" not in text.lower()
        assert f"Set accuracy is {100 * summary['dynamic']['accuracy']:.1f}" in text.replace("\u00a0", " ")
    tables = [list(group) for _, group in itertools.groupby(markdown.splitlines(), lambda line: line[:1] == "|")]
    tables = [table for table in tables if table[0][:1] == "|"]
    assert len(tables) > 5
    for table in tables:  # each row has as many cells as its head
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
