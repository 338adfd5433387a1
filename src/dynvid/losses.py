"""Training losses over all exits."""

from collections.abc import Sequence
from typing import Literal

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
        class_weights: Weights of the classes in each cross-entropy, a weighted mean over the batch; `balanced` weighs a
            class by `videos / (classes * videos of the class)`, as scikit-learn does, once `balance` was told of them.

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
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.class_weights = class_weights
        given = None if class_weights is None or isinstance(class_weights, str) else torch.tensor(class_weights)
        if given is not None and not (given.isfinite() & (given >= 0)).all():
            raise InputError(f"class_weights={list(class_weights or [])}: 0 or more each, or balanced")
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise InputError(f"class_weights={class_weights!r}: balanced, or a weight for each class")
        self.per_class: Tensor | None
        self.register_buffer("per_class", given, persistent=False)
        if not 0 <= label_smoothing < 1 or distillation < 0 or temperature <= 0:
            raise InputError(
                f"label_smoothing={label_smoothing} (in [0, 1)), distillation={distillation} (0 or more), "
                f"temperature={temperature} (above 0): out of range"
            )
        self.weights, self.label_smoothing = weights, label_smoothing
        self.distillation, self.temperature = distillation, temperature

    def balance(self, counts: Sequence[int]) -> None:
        """Take in how many training videos each class has, where `class_weights` is `balanced`; a class of none has 0.

        Example:
            >>> loss = ExitLoss(class_weights="balanced")
            >>> loss.balance([30, 10])
            >>> loss.per_class
            tensor([0.6667, 2.0000])
        """
        if self.class_weights == "balanced":
            videos = torch.tensor(counts, dtype=torch.float32)
            weights = torch.where(videos > 0, videos.sum() / ((videos > 0).sum() * videos), 0.0)
            self.per_class = weights if self.per_class is None else weights.to(self.per_class.device)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (K, B, classes) and targets, int64 (B,) or probabilities (B, classes) -> scalar.

        Raises:
            ValueError: The number of weights is not the number of exits, or of classes, or `balance` was told of none.
        """
        if self.class_weights is not None and self.per_class is None:
            raise InputError("class_weights: balanced needs the training videos: call balance(), as data modules do")
        if self.per_class is not None and len(self.per_class) != logits.shape[-1]:
            raise InputError(f"class_weights: {len(self.per_class)} given for {logits.shape[-1]} classes")
        weights = [1.0] * len(logits) if self.weights is None else self.weights
        if len(weights) != len(logits):
            raise InputError(f"loss weights: {len(weights)} given for {len(logits)} exits")
        how = {"weight": self.per_class, "label_smoothing": self.label_smoothing}
        losses = [F.cross_entropy(x, target, **how) for x in logits]  # type: ignore[arg-type]  # mypy joins their types
        if self.distillation:
            soft = (logits / self.temperature).log_softmax(-1)
            scale = self.distillation * self.temperature**2
            for k in range(len(logits) - 1):
                kl = F.kl_div(soft[k], soft[-1].detach(), reduction="batchmean", log_target=True)
                losses[k] = losses[k] + scale * kl
        return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()
