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

    Of sets of labels each class is a binary decision: the loss of an exit is their cross-entropy, in the mean over
    classes and videos, so that it starts at ln 2 however many classes there are; distillation adds the KL divergence of
    the same decisions in the same mean, and label smoothing moves targets towards 1/2.

    Args:
        weights: One per exit; all 1 by default (the paper does not publish its weights).
        label_smoothing: In [0, 1).
        distillation: Weight of the distillation against the cross-entropy of the same exit; 0 for none.
        temperature: Above 0.
        class_weights: Weights of the classes in each cross-entropy, a weighted mean over the batch; `balanced` weighs a
            class by `videos / (classes * videos of the class)`, as scikit-learn does, once `balance` was told of them.
            Of sets, what the videos that have the class weigh in its decision, those without it weighing 1; `balanced`
            takes `videos without it / videos with it`.
        multi_label: Targets are sets; a `DynamicInferenceModule` sets it as its own.

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
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.class_weights, self.multi_label = class_weights, multi_label
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

    def balance(self, counts: Sequence[int], videos: int | None = None) -> None:
        """Take in how many training videos each class has, where `class_weights` is `balanced`; a class of none has 0.

        Args:
            counts: One per class.
            videos: How many there are in all; their sum by default, which it is not where labels are sets.

        Example:
            >>> loss = ExitLoss(class_weights="balanced")
            >>> loss.balance([30, 10])
            >>> loss.per_class
            tensor([0.6667, 2.0000])
        """
        if self.class_weights == "balanced":
            have = torch.tensor(counts, dtype=torch.float32)
            total = have.sum() if videos is None else torch.tensor(float(videos))
            if self.multi_label:  # at least 1 of both: a class that all videos have is to be learned too
                weights = (total - have).clamp(min=1) / have.clamp(min=1)
            else:
                weights = torch.where(have > 0, total / ((have > 0).sum() * have), 0.0)
            self.per_class = weights if self.per_class is None else weights.to(self.per_class.device)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (K, B, classes) and targets, int64 (B,) or probabilities (B, classes) -> scalar.

        Targets of sets are 0, 1 or between, (B, classes).

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
        losses = [self._of_exit(x, target) for x in logits]
        if self.distillation:
            soft = logits / self.temperature
            scale = self.distillation * self.temperature**2
            for k in range(len(logits) - 1):
                losses[k] = losses[k] + scale * self._divergence(soft[k], soft[-1].detach())
        return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()

    def _of_exit(self, logits: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of one exit."""
        if self.multi_label:
            soft = target.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.per_class)
        return F.cross_entropy(logits, target, self.per_class, label_smoothing=self.label_smoothing)

    def _divergence(self, pupil: Tensor, teacher: Tensor) -> Tensor:
        """KL(teacher || pupil) of logits (B, classes), in the mean over videos, and over the decisions of sets."""
        if not self.multi_label:
            return F.kl_div(pupil.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
        sides = [
            F.kl_div(F.logsigmoid(s * pupil), F.logsigmoid(s * teacher), reduction="none", log_target=True)
            for s in (1, -1)  # that the class is there, and that it is not
        ]
        return (sides[0] + sides[1]).mean()
