"""Accuracy where classes are not equally frequent."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dynvid.multilabel import mistakes, set_figures
from dynvid.policy import ThresholdPolicy

FIGURES = {"macro_recall": "macro recall", "map": "mAP", "f1": "F1", "micro_f1": "micro F1"}
"""What `class_figures` may give, and what it is called."""


def main_figures(found: Mapping[str, object]) -> dict[str, str]:
    """Those of `FIGURES` that fit in a line beside accuracy: macro recall; of sets, mAP and F1.

    >>> main_figures({"accuracy": 0.5, "macro_recall": 0.4})
    {'macro_recall': 'macro recall'}
    """
    return {name: FIGURES[name] for name in (("map", "f1") if "map" in found else ("macro_recall",))}


def macro_recall(correct: Tensor, labels: Tensor) -> Tensor:
    """The mean over classes of the share of their videos that is right: a rare class counts as much as a common one.

    Args:
        correct: bool (..., N).
        labels: int64 (N,); classes without a video count nothing.

    Returns:
        float32 (...), NaN where there are no videos.

    Example:
        >>> correct = torch.tensor([[True, True, True, False]])
        >>> macro_recall(correct, torch.tensor([0, 0, 0, 1])), correct.float().mean(-1)
        (tensor([0.5000]), tensor([0.7500]))
    """
    # Not by torchmetrics, which `dynvid report` would import for this alone.
    _, row, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    right = torch.zeros(*correct.shape[:-1], len(counts), dtype=torch.float64)
    right.index_add_(-1, row, correct.cpu().double())
    recall: Tensor = right / counts
    return recall.mean(-1).float()


def class_figures(scores: Tensor, answers: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What weighs all classes alike, float32 (...) each: `macro_recall`, and of sets also `map`, `f1` and `micro_f1`.

    Args:
        scores: Logits at the exits' temperatures, (..., N, classes).
        answers: int64 (..., N), or sets, bool (..., N, classes).
        labels: (N,), or 0 and 1 (N, classes).
    """
    if answers.dtype == torch.bool:
        return set_figures(scores, answers, labels)
    return {"macro_recall": macro_recall(mistakes(answers, labels) == 0, labels)}


def exit_figures(
    policy: ThresholdPolicy, logits: Tensor, labels: Tensor
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """`class_figures` of each exit, and of the answers that the policy takes, each from its exit.

    Args:
        policy: Thresholds, score and temperatures.
        logits: Of all exits, (K, N, classes).
        labels: (N,), or 0 and 1 (N, classes).
    """
    scores, answers = policy.scaled(logits) if policy.multi_label else logits, policy.answers(logits)
    taken, videos = policy.choose(logits), torch.arange(logits.shape[1], device=logits.device)
    of_exits = class_figures(scores, answers, labels)
    of_taken = class_figures(scores[taken, videos], answers[taken, videos], labels)
    rows = zip(*(values.tolist() for values in of_exits.values()), strict=True)
    return [dict(zip(of_exits, row, strict=True)) for row in rows], {name: float(x) for name, x in of_taken.items()}
