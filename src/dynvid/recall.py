"""Accuracy where classes are not equally frequent."""

import torch
from torch import Tensor

from dynvid.multilabel import mistakes, set_figures


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
