"""What the report says of answers, against loops over videos."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from dynvid.calibration import Reject, listing_of, share_interval
from dynvid.report import render_report, summarise
from dynvid.report.figures import risk_figure

REJECT = Reject(0.3, 0.95, 0.6, "val", 400, 400, answered=0.5, error=0.1)


def answers_of(outputs):
    """Video by video: the probability of its answer, and whether it is wrong."""
    found = []
    for n, k in enumerate(outputs.taken.tolist()):
        p = (outputs.logits[k, n] / outputs.policy.temperatures[k]).softmax(0)
        found.append((float(p.max()), int(p.argmax()) != int(outputs.labels[n])))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_and_its_area_are_those_of_loops(make_outputs, seed):
    outputs = make_outputs(seed, videos=30)
    ordered = sorted(answers_of(outputs), reverse=True)
    risks = [sum(wrong for _, wrong in ordered[:m]) / m for m in range(1, 31)]
    risk = summarise(outputs)["answers"]["risk"]["dynamic"]
    assert risk["curve"] == [pytest.approx([m / 30, risks[m - 1]]) for m in range(1, 31)]
    assert risk["area"] == pytest.approx(sum(risks) / 30)


def test_videos_of_one_probability_are_answered_together(make_outputs):
    outputs = make_outputs(videos=30)
    same = replace(outputs, logits=outputs.logits.argsort(-1).float())
    risk = summarise(same)["answers"]["risk"]["full"]
    wrong = (same.predicted[-1] != same.labels).double().mean().item()
    assert risk == {"curve": [[1.0, pytest.approx(wrong)]], "area": pytest.approx(wrong)}


def test_what_is_answered_is_counted_and_judged(make_outputs):
    outputs = make_outputs(videos=200, reject=REJECT)
    found = [(p, wrong) for p, wrong in answers_of(outputs) if p >= 0.6]
    said = summarise(outputs)["answers"]
    errors = torch.tensor([wrong for _, wrong in found])
    assert said["answered"] == pytest.approx(len(found) / 200)
    assert said["error"] == pytest.approx(errors.double().mean().item())
    assert said["kept"] == (said["error"] <= 0.3)
    low, high = share_interval(errors)
    assert f"({100 * low:.1f} % to {100 * high:.1f} % of all to come)" in said["words"]
    for max_error, kept, word in ((0.9, True, "was kept"), (0.001, False, "was broken")):
        said = summarise(replace(outputs, reject=replace(REJECT, max_error=max_error)))["answers"]
        assert (said["kept"], word in said["words"]) == (kept, True)


def test_no_verdict_is_given_where_there_is_none(make_outputs):
    outputs = make_outputs(videos=200, reject=REJECT)
    for change, word in (
        ({"reject": None}, None),
        ({"reject": replace(REJECT, threshold=None)}, "nothing was withheld"),
        ({"reject": replace(REJECT, threshold=1.0)}, "none could be wrong"),
        ({"split": "val"}, "no test"),
        ({"reject": replace(REJECT, listing=listing_of(outputs.paths))}, "no test"),
        ({"labels": torch.full((200,), -1)}, "without labels"),
    ):
        said = summarise(replace(outputs, **change))["answers"]
        assert said["kept"] is None
        assert said["words"] is None if word is None else word in said["words"]


def test_recordings_count_alike(make_outputs):
    """A recording of which every answer is wrong and one of which none is: half of the answers, however many clips."""
    outputs = make_outputs(videos=10, reject=replace(REJECT, threshold=0.0))
    labels = outputs.predicted.gather(0, outputs.taken[None])[0]
    labels[:8] = (labels[:8] + 1) % 6
    said = summarise(replace(outputs, labels=labels, recordings=["a"] * 8 + ["b"] * 2))["answers"]
    assert "50.0 % of these wrongly" in said["words"]
    assert said["error"] == pytest.approx(0.8)  # on the curve, by video


def test_false_alarms_and_misses_of_the_background(make_outputs):
    outputs = make_outputs(videos=200, background="class 2", reject=REJECT)
    alarms = missed = truly = 0
    for n, k in enumerate(outputs.taken.tolist()):
        said, given = int(outputs.predicted[k, n]), bool(outputs.answered[n])
        if int(outputs.labels[n]) == 2:
            truly += 1
            alarms += given and said != 2
        else:
            missed += given and said == 2
    found = summarise(outputs)["answers"]["background"]
    assert found == {
        "class": "class 2",
        "videos": truly,
        "false_alarms": pytest.approx(alarms / truly),
        "missed": pytest.approx(missed / (200 - truly)),
    }
    files = render_report(outputs, gallery=False).files
    for name in ("report.html", "report.md"):
        page = files[name].decode()
        assert "false alarms" in page
        assert "class 2 (background)" in page
    assert "(background)" not in render_report(make_outputs(), gallery=False).files["report.html"].decode()


def test_the_mark_lies_on_the_curve_at_what_is_answered(make_outputs):
    summary = summarise(make_outputs(videos=150, reject=REJECT))
    svg = ElementTree.fromstring(risk_figure(summary))
    (curve, *_) = [p.get("d") for p in svg.iter("path") if p.get("class") == "curve" and "L" in p.get("d")]
    places = [tuple(map(float, point.split())) for point in curve[1:].split("L")]
    mark = next(p.get("d") for p in svg.iter("path") if p.get("class") == "point")
    x, y = map(float, mark[1 : mark.index("l")].split())
    assert min(abs(x - px) + abs(y + 7 - py) for px, py in places) < 0.5
    width = places[-1][0] - 38
    assert (x - 38) / width == pytest.approx(summary["answers"]["answered"], abs=0.01)


def test_a_set_is_withheld_by_the_probability_of_all_of_it_and_wrong_if_any_name_is(make_sets):
    outputs = make_sets(videos=800)
    outputs.logits[:, :400] += 3 * (2 * outputs.labels[:400] - 1)  # half of them are easy
    found = outputs.rejected(0.1, 0.95)
    assert found.promised
    given = replace(outputs, reject=found)
    sure, errors = [], []
    for n, k in enumerate(outputs.taken.tolist()):  # one video and one name at a time
        p = (outputs.logits[k, n].double() / outputs.policy.temperatures[k]).sigmoid().tolist()
        sure.append(math.prod(max(x, 1 - x) for x in p))
        errors.append([x > 0.5 for x in p] != [bool(y) for y in outputs.labels[n]])
    apart = [abs(x - found.threshold) > 1e-6 for x in sure]  # those at the threshold round as they like
    said = given.answered.tolist()
    assert all(is_given == (x >= found.threshold) for x, is_given, far in zip(sure, said, apart, strict=True) if far)
    wrong = [error for error, is_given in zip(errors, said, strict=True) if is_given]
    assert 0 < len(wrong) < 800
    assert found.error == pytest.approx(sum(wrong) / len(wrong))
    reported = summarise(given)["answers"]
    assert reported["error"] == pytest.approx(found.error)
    assert reported["background"] is None
