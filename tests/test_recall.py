"""Macro recall against the one of torchmetrics."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_recall

from dynvid.recall import macro_recall


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 10**6))
def test_it_is_the_mean_of_the_recalls_of_classes_that_are_there(videos, classes, seed):
    draw = torch.Generator().manual_seed(seed)
    labels, answers = torch.randint(classes, (2, videos), generator=draw)
    recalls = multiclass_recall(answers, labels, classes, average="none")
    expected = recalls[labels.unique()].mean()
    found = macro_recall(torch.stack([answers == labels, labels == labels]), labels)
    torch.testing.assert_close(found, torch.stack([expected, torch.tensor(1.0)]))
