"""Macro recall against the one of torchmetrics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_recall,
    multilabel_average_precision,
    multilabel_f1_score,
)

from dynvid.policy import ThresholdPolicy
from dynvid.recall import exit_figures, macro_recall


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 10**6))
def test_it_is_the_mean_of_the_recalls_of_classes_that_are_there(videos, classes, seed):
    draw = torch.Generator().manual_seed(seed)
    labels, answers = torch.randint(classes, (2, videos), generator=draw)
    recalls = multiclass_recall(answers, labels, classes, average="none")
    expected = recalls[labels.unique()].mean()
    found = macro_recall(torch.stack([answers == labels, labels == labels]), labels)
    torch.testing.assert_close(found, torch.stack([expected, torch.tensor(1.0)]))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(2, 5), st.integers(0, 10**6))
def test_figures_of_what_is_taken_are_those_of_each_videos_own_exit(videos, classes, seed):
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, videos, classes, generator=draw)
    labels = torch.randint(2, (videos, classes), generator=draw)
    labels[0] = 1  # each class is there
    temperatures, thresholds = [0.5, 3.0, 1.0], [0.3, 0.2, 0.0]
    policy = ThresholdPolicy(None, thresholds, temperatures=temperatures, multi_label=True)
    of_exits, of_taken = exit_figures(policy, logits, labels)
    taken = policy.choose(logits).tolist()
    own = torch.stack([logits[k, n] / temperatures[k] for n, k in enumerate(taken)])
    for found, scores in zip([*of_exits, of_taken], [*logits, own], strict=True):
        p, said = scores.double().sigmoid(), (scores > 0).long()
        assert found["map"] == pytest.approx(multilabel_average_precision(p, labels, classes).item(), rel=1e-5)
        assert found["f1"] == pytest.approx(multilabel_f1_score(said, labels, classes).item(), rel=1e-5)
    single = exit_figures(ThresholdPolicy(None, thresholds), logits, labels.argmax(-1))
    right = logits.argmax(-1) == labels.argmax(-1)
    chosen = ThresholdPolicy(None, thresholds).choose(logits)
    assert single[0][1] == {"macro_recall": pytest.approx(macro_recall(right[1], labels.argmax(-1)).item())}
    here = right.gather(0, chosen[None])[0]
    assert single[1] == {"macro_recall": pytest.approx(macro_recall(here, labels.argmax(-1)).item())}
