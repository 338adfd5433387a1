"""When an exit is sure enough."""

from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from dynvid.errors import InputError

Score = Literal["max_probability", "margin", "negative_entropy"]


def max_probability(logits: Tensor) -> Tensor:
    """Softmax probability of the best class, (..., classes) -> (...), in [0, 1]; the paper's score."""
    return logits.float().softmax(-1).amax(-1)


def margin(logits: Tensor) -> Tensor:
    """Probability of the best class less that of the second, (..., classes) -> (...), in [0, 1]."""
    best = logits.float().softmax(-1).topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def negative_entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nats, negated: (..., classes) -> (...), at most 0; BranchyNet's score."""
    log_p = logits.float().log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {f.__name__: f for f in (max_probability, margin, negative_entropy)}


class ThresholdPolicy(nn.Module):
    """Stop at the first exit whose score reaches its threshold; the last exit accepts everything.

    Thresholds are a buffer, so they travel in the checkpoint. Uncalibrated they are infinite: full inference.

    Args:
        num_exits: Exits of the route; not needed when thresholds are given.
        thresholds: One per exit, the last one is not used; infinity switches an exit off.
        score: `max_probability`, `margin` or `negative_entropy`.

    Raises:
        ValueError: Neither or inconsistent numbers of exits, or an unknown score.

    Example:
        >>> policy = ThresholdPolicy(thresholds=[0.9, 0.0])
        >>> logits = torch.tensor([[[5.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [3.0, 0.0]]])  # (exits, videos, classes)
        >>> policy.choose(logits)
        tensor([0, 1])
    """

    thresholds: Tensor

    def __init__(
        self,
        num_exits: int | None = None,
        thresholds: Sequence[float] | Tensor | None = None,
        score: Score = "max_probability",
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise InputError(f"unknown score {score!r}: use {', '.join(SCORES)}")
        if thresholds is None:
            if num_exits is None:
                raise InputError("give num_exits or thresholds")
            thresholds = [torch.inf] * num_exits
        values = torch.as_tensor(thresholds, dtype=torch.float32).clone()
        if values.dim() != 1 or len(values) < 1 or (num_exits is not None and len(values) != num_exits):
            raise InputError(f"thresholds have shape {tuple(values.shape)}, not one per exit ({num_exits})")
        self.score_name: Score = score
        self.register_buffer("thresholds", values)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.thresholds
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # To another device, never to another precision: rounded to bf16, 0.9985 is 1 and the exit is off.
        self.thresholds = exact.to(self.thresholds.device)
        return self

    @property
    def num_exits(self) -> int:
        """Number of exits that this policy decides on."""
        return len(self.thresholds)

    def score(self, logits: Tensor) -> Tensor:
        """How sure an exit is: logits (..., classes) -> (...), higher is surer."""
        return SCORES[self.score_name](logits)

    def confident(self, position: int, logits: Tensor) -> Tensor:
        """Online: which videos may stop at the exit at `position`, logits (B, classes) -> bool (B,)."""
        return self.score(logits) >= self.thresholds[position]

    def choose(self, logits: Tensor) -> Tensor:
        """Offline: the exit that each video takes, all exits' logits (K, B, classes) -> int64 (B,)."""
        return choose_exits(self.score(logits), self.thresholds)


def choose_exits(scores: Tensor, thresholds: Tensor) -> Tensor:
    """The first exit whose score reaches its threshold, else the last: scores (K, N), thresholds (K,) -> int64 (N,).

    Example:
        >>> choose_exits(torch.tensor([[0.9, 0.2], [0.3, 0.4]]), torch.tensor([0.5, 0.5]))
        tensor([0, 1])
    """
    sure = scores >= thresholds.to(scores)[:, None]
    sure[-1] = True
    return sure.int().argmax(0)  # argmax gives the first of equal values
