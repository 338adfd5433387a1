"""Accuracy where classes are not equally frequent."""

import torch
from torch import Tensor


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
