"""Sets of labels: against all sets there are, against torchmetrics, and against single labels where these are sets."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multilabel_average_precision,
    multilabel_f1_score,
    multilabel_recall,
)

from dynvid.multilabel import average_precision, mistakes, multi_hot, plain_labels, set_figures
from dynvid.policy import SCORE_NAMES, ThresholdPolicy

SEEDS = st.integers(0, 10**6)


def draw(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_sets(logits):
    """Every set of classes with its probability by these logits, the most probable first; in float64."""
    p = logits.double().sigmoid()
    found = []
    for chosen in itertools.product([True, False], repeat=len(p)):
        held = torch.tensor(chosen)
        found.append((float(torch.where(held, p, 1 - p).prod()), [n for n, x in enumerate(chosen) if x]))
    return sorted(found, reverse=True)


@settings(deadline=None)
@given(st.integers(1, 7), SEEDS, st.floats(0.05, 20), st.sampled_from([0.3, 3.0, 12.0]))
def test_scores_are_those_of_the_distribution_over_all_sets(classes, seed, temperature, scale):
    logits = draw(seed, classes, scale=scale)
    sets = all_sets(logits / temperature)
    assert sum(p for p, _ in sets) == pytest.approx(1)
    entropy = sum(p * math.log(p) for p, _ in sets if p > 0)
    expected = {"max_probability": sets[0][0], "margin": sets[0][0] - sets[1][0], "negative_entropy": entropy}
    for score, value in expected.items():
        policy = ThresholdPolicy(1, score=score, temperatures=[temperature], multi_label=True)
        assert policy.score(logits[None, None]).item() == pytest.approx(value, rel=1e-4, abs=1e-6), score
        assert policy.probability(0, logits[None]).item() == pytest.approx(sets[0][0], rel=1e-4)
        assert policy.answers(logits).nonzero().flatten().tolist() == sets[0][1]
    torch.testing.assert_close(policy.probabilities(logits[None, None])[0, 0], (logits / temperature).sigmoid())


@given(
    exits=st.integers(1, 5),
    videos=st.integers(1, 5),
    classes=st.sampled_from([1, 2, 4, 37, 400]),
    seed=st.integers(0, 99),
    score=st.sampled_from(SCORE_NAMES),
    temperatures=st.lists(st.floats(0.05, 20), min_size=5, max_size=5),
)
def test_offline_choice_equals_the_online_walk(exits, videos, classes, seed, score, temperatures):
    logits = draw(seed, exits, videos, classes)
    policy = ThresholdPolicy(exits, score=score, temperatures=temperatures[:exits], multi_label=True)
    policy.thresholds.copy_(policy.score(logits).median(dim=1).values)  # scores that occur: to the bit, or not at all
    answers = policy.answers(logits)
    walked = []
    for video in range(videos):
        k, one = 0, slice(video, video + 1)
        while k < exits - 1 and not policy.confident(k, logits[k, one], answers[:k, one]):
            k += 1
        walked.append(k)
    assert policy.choose(logits).tolist() == walked


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 3), SEEDS)
def test_patience_counts_the_exits_before_that_gave_the_same_set(exits, videos, classes, seed):
    logits = draw(seed, exits, videos, classes)
    policy = ThresholdPolicy(exits, score="patience", multi_label=True)
    sets = [plain_labels(policy.answers(row)) for row in logits]
    found = policy.score(logits).floor().long()
    for k, n in itertools.product(range(exits), range(videos)):
        before = list(itertools.takewhile(lambda j, k=k, n=n: sets[j][n] == sets[k][n], reversed(range(k))))
        assert found[k, n] == len(before)


def test_a_policy_at_other_thresholds_reads_logits_in_the_same_way():
    policy = ThresholdPolicy(thresholds=[0.5, 0.0], score="margin", temperatures=[2.0, 3.0], multi_label=True)
    other = policy.at([0.1, 0.2])
    assert (other.multi_label, other.score_name, other.temperatures) == (True, "margin", (2.0, 3.0))
    assert other.thresholds.tolist() == pytest.approx([0.1, 0.2])
    assert policy.at().thresholds.isposinf().all()


@given(st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_labels_go_to_tensors_and_back(videos, classes, seed):
    hot = draw(seed, videos, classes) > 0
    labels = plain_labels(hot)
    assert all(isinstance(label, tuple) and list(label) == sorted(label) for label in labels)
    assert torch.equal(multi_hot(labels, classes), hot.long())
    policy = ThresholdPolicy(1, multi_label=True)
    assert [policy.label(row) for row in hot.double().tolist()] == labels
    assert plain_labels(multi_hot([-1, *labels], classes)) == [None, *labels]


@given(st.integers(2, 6), st.integers(1, 20), SEEDS)
def test_mistakes_of_sets_of_one_are_those_of_single_labels(classes, videos, seed):
    generator = torch.Generator().manual_seed(seed)
    answers, labels = torch.randint(classes, (2, videos), generator=generator)
    single = mistakes(answers, labels)
    assert single.tolist() == [int(a != b) for a, b in zip(answers.tolist(), labels.tolist(), strict=True)]
    hot = torch.eye(classes, dtype=torch.bool)
    assert torch.equal(mistakes(hot[answers], hot[labels].long()), 2 * single)  # one name missing, one too many


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), SEEDS, st.booleans())
def test_figures_are_those_of_torchmetrics(videos, classes, seed, tied):
    scores = draw(seed, 3, videos, classes, scale=1.5)
    scores = scores.round() if tied else scores
    labels = (draw(seed + 1, videos, classes) > 1).long()
    there = labels.any(0)
    found = set_figures(scores, scores > 0, labels)
    for k in range(3):
        p, said = scores[k].sigmoid(), (scores[k] > 0).long()
        of_classes = {
            "map": multilabel_average_precision(p, labels, classes, average="none") if classes > 1 else None,
            "f1": multilabel_f1_score(said, labels, classes, average="none") if classes > 1 else None,
            "macro_recall": multilabel_recall(said, labels, classes, average="none") if classes > 1 else None,
        }
        for name, value in of_classes.items():
            if value is not None:
                torch.testing.assert_close(found[name][k], value[there].mean(), equal_nan=True, msg=name)
        if classes > 1 and (said.any() or there.any()):
            micro = multilabel_f1_score(said, labels, classes, average="micro")
            torch.testing.assert_close(found["micro_f1"][k], micro)


def test_a_class_that_no_video_has_counts_nothing():
    labels = torch.tensor([[1, 0], [0, 0]])
    scores = torch.tensor([[2.0, 3.0], [-1.0, -1.0]])
    assert average_precision(scores, labels)[1].isnan()
    found = set_figures(scores, scores > 0, labels)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"map": 1.0, "f1": 1.0, "macro_recall": 1.0, "micro_f1": 2 / 3}
    )
    nothing = set_figures(scores, scores > 5, torch.zeros(2, 2, dtype=torch.long))
    assert all(math.isnan(value) for value in nothing.values())
