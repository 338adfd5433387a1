"""Sets of labels: what logits say of them where each class is there or not by itself, and how good answers are.

Class c is there with probability p = sigmoid(logit), independently of the others (the usual binary relevance). So a set
has the product of p over its classes and of 1 - p over all others, and the most probable one holds each class whose p
is above 0.5; it may be empty.

A label is an int, or the sorted tuple of a set's classes; in tensors answers are int64 (...) or bool (..., classes),
true labels int64 (...) or (..., classes) of 0 and 1, with -1 where they are unknown; in text, names joined with `;`.
Shapes: N videos.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Label = int | tuple[int, ...]
"""A class, or the classes of a set, ascending."""

SEPARATOR = ";"
"""Between the names of a set in text, where the empty set is empty."""


def most_probable(logits: Tensor) -> Tensor:
    """The most probable set, logits (..., classes) -> bool (..., classes): a temperature changes nothing of it."""
    return logits > 0


def set_max_probability(logits: Tensor) -> Tensor:
    """Probability of the most probable set, (..., classes) -> (...), in [0, 1]."""
    return F.logsigmoid(logits.float().abs()).sum(-1).exp()


def set_margin(logits: Tensor) -> Tensor:
    """That of the most probable set less that of the second: (..., classes) -> (...), in [0, 1].

    The second differs in the class that is least sure, so it is less probable by the factor exp(-|logit|).
    """
    return -set_max_probability(logits) * torch.expm1(-logits.float().abs().amin(-1))


def set_negative_entropy(logits: Tensor) -> Tensor:
    """Entropy of the distribution over sets in nats, negated: (..., classes) -> (...), the sum over classes."""
    x = logits.float().abs()
    return (x.sigmoid() * F.logsigmoid(x) + (-x).sigmoid() * F.logsigmoid(-x)).sum(-1)


def mistakes(answers: Tensor, labels: Tensor) -> Tensor:
    """How many names of an answer are wrong: given but not in the label, or in the label but not given.

    Args:
        answers: int64 (...), or sets, bool (..., classes).
        labels: Likewise, or what can be broadcast to it; int64 counts as a set too where answers are sets.

    Returns:
        int64 (...); of classes that are no sets, 0 or 1.

    Example:
        >>> mistakes(torch.tensor([[True, True, False]]), torch.tensor([0, 1, 1]))
        tensor([2])
        >>> mistakes(torch.tensor([2, 1]), torch.tensor([1, 1]))
        tensor([1, 0])
    """
    differ = answers != labels
    return differ.sum(-1) if answers.dtype == torch.bool else differ.long()


def accuracy_word(multi_label: bool) -> str:
    """What the share of right answers is called; a set is right if all its names are."""
    return "set accuracy" if multi_label else "top-1"


def multi_hot(labels: Sequence[Label], classes: int) -> Tensor:
    """Sets as int64 (N, classes); an unknown one, -1, is a row of -1.

    Example:
        >>> multi_hot([(0, 2), (), -1], 3)
        tensor([[ 1,  0,  1],
                [ 0,  0,  0],
                [-1, -1, -1]])
    """
    rows = torch.zeros(len(labels), classes, dtype=torch.long)
    for row, label in zip(rows, labels, strict=True):
        if isinstance(label, tuple):
            row[list(label)] = 1
        else:
            row.fill_(-1)
    return rows


def plain_labels(labels: Tensor) -> list[Label | None]:
    """Labels or answers of N videos in plain Python, None where they are unknown: (N,) or (N, classes).

    Example:
        >>> plain_labels(torch.tensor([[1, 0, 1], [0, 0, 0]])), plain_labels(torch.tensor([3, -1]))
        ([(0, 2), ()], [3, None])
    """
    values = labels.cpu().numpy()
    if values.ndim == 1:
        return [label if label >= 0 else None for label in values.tolist()]
    rows, classes = np.nonzero(values > 0)
    sets = np.split(classes, np.searchsorted(rows, np.arange(1, len(values))))
    known = [bool(row.all()) for row in values >= 0]
    return [tuple(one.tolist()) if is_known else None for one, is_known in zip(sets, known, strict=False)]


def names_of(label: Label, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a label's classes, or their numbers where classes have no names.

    Example:
        >>> names_of((0, 2), ["jump", "run", "sing"]), names_of(1, None)
        (('jump', 'sing'), ('1',))
    """
    classes = label if isinstance(label, tuple) else (label,)
    return tuple(class_names[one] if class_names else str(one) for one in classes)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each class: scores (..., N, classes), labels 0 or 1 (N, classes) -> float64 (..., classes).

    The sum over the videos that have the class of the precision at their score, divided by their number: the area
    under the steps of precision against recall. Videos of equal scores are taken together. NaN where no video has it.

    Example:
        >>> average_precision(torch.tensor([[0.9], [0.8], [0.7]]), torch.tensor([[1], [0], [1]]))
        tensor([0.8333], dtype=torch.float64)
    """
    scores = scores.float().cpu()
    truth = labels.cpu().expand(scores.shape)
    ordered, order = scores.sort(dim=-2, descending=True, stable=True)
    hits = truth.gather(-2, order).double()
    places = torch.arange(scores.shape[-2])
    precision = hits.cumsum(-2) / (places[:, None] + 1)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[..., :-1, :] = ordered[..., :-1, :] != ordered[..., 1:, :]
    last = torch.where(ends, places[:, None], len(places)).flip(-2).cummin(-2).values.flip(-2)
    found: Tensor = (hits * precision.gather(-2, last)).sum(-2) / hits.sum(-2)
    return found


def set_figures(scores: Tensor, answers: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """How good sets are: `map`, `f1`, `micro_f1` and `macro_recall`, each float32 (...).

    All but `micro_f1` are means over the classes that a video has at all, so that a rare class counts as much as a
    common one: of average precision, of F1 (2 TP / (2 TP + FP + FN)), and of the share of a class's videos in which it
    is named. `micro_f1` adds TP, FP and FN over all classes first. NaN where no video has any class.

    Args:
        scores: How much each class is there, such as its logit, (..., N, classes).
        answers: Sets, bool (..., N, classes).
        labels: 0 or 1 (N, classes).

    Example:
        >>> scores, labels = torch.tensor([[2.0, 1.0], [3.0, 4.0]]), torch.tensor([[1, 0], [1, 1]])
        >>> found = set_figures(scores, scores > 0, labels)
        >>> {name: f"{float(value):.3f}" for name, value in found.items()}
        {'map': '1.000', 'f1': '0.833', 'micro_f1': '0.857', 'macro_recall': '1.000'}
    """
    truth, said = labels.cpu() > 0, answers.cpu()
    there = truth.any(0)
    right, wrong = (said & truth).sum(-2).double(), (said != truth).sum(-2).double()
    f1 = 2 * right / (2 * right + wrong)
    found = {
        "map": average_precision(scores, labels)[..., there].mean(-1),
        "f1": f1[..., there].mean(-1),
        "micro_f1": 2 * right.sum(-1) / (2 * right.sum(-1) + wrong.sum(-1)),
        "macro_recall": (right / truth.sum(0))[..., there].mean(-1),
    }
    return {name: value.float() for name, value in found.items()}
