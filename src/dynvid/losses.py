"""Training losses over all exits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExitLoss(nn.Module):
    """Weighted sum of the exits' cross-entropies.

    Args:
        weights: One per exit; all 1 by default (the paper does not publish its weights).
        label_smoothing: In [0, 1).

    Example:
        >>> ExitLoss()(torch.zeros(3, 2, 10), torch.tensor([1, 4]))  # three exits, two videos: 3 ln 10
        tensor(6.9078)
    """

    def __init__(self, weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights, self.label_smoothing = weights, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (K, B, classes) and targets int64 (B,) -> scalar.

        Raises:
            ValueError: The number of weights is not the number of exits.
        """
        weights = [1.0] * len(logits) if self.weights is None else self.weights
        if len(weights) != len(logits):
            raise ValueError(f"loss weights: {len(weights)} given for {len(logits)} exits")
        losses = [F.cross_entropy(x, target, label_smoothing=self.label_smoothing) for x in logits]
        return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()
