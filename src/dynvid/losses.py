"""Training losses over all exits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynvid.errors import InputError


class ExitLoss(nn.Module):
    """Weighted sum of the exits' cross-entropies, with distillation from the last exit on request.

    Distillation adds `distillation * temperature**2 * KL(last exit || exit)` to each exit but the last, with both
    softmax distributions softened by the temperature and no gradient through the last exit (Hinton et al., 2015; for
    early exits Phuong and Lampert, ICCV 2019).

    Args:
        weights: One per exit; all 1 by default (the paper does not publish its weights).
        label_smoothing: In [0, 1).
        distillation: Weight of the distillation against the cross-entropy of the same exit; 0 for none.
        temperature: Above 0.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> ExitLoss()(torch.zeros(3, 2, 10), torch.tensor([1, 4]))  # three exits, two videos: 3 ln 10
        tensor(6.9078)
    """

    def __init__(
        self,
        weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        distillation: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1 or distillation < 0 or temperature <= 0:
            raise InputError(
                f"label_smoothing={label_smoothing} (in [0, 1)), distillation={distillation} (0 or more), "
                f"temperature={temperature} (above 0): out of range"
            )
        self.weights, self.label_smoothing = weights, label_smoothing
        self.distillation, self.temperature = distillation, temperature

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (K, B, classes) and targets, int64 (B,) or probabilities (B, classes) -> scalar.

        Raises:
            ValueError: The number of weights is not the number of exits.
        """
        weights = [1.0] * len(logits) if self.weights is None else self.weights
        if len(weights) != len(logits):
            raise InputError(f"loss weights: {len(weights)} given for {len(logits)} exits")
        losses = [F.cross_entropy(x, target, label_smoothing=self.label_smoothing) for x in logits]
        if self.distillation:
            soft = (logits / self.temperature).log_softmax(-1)
            scale = self.distillation * self.temperature**2
            for k in range(len(logits) - 1):
                kl = F.kl_div(soft[k], soft[-1].detach(), reduction="batchmean", log_target=True)
                losses[k] = losses[k] + scale * kl
        return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()
