"""When an exit is sure enough."""

from collections.abc import Callable, Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from dynvid.errors import InputError
from dynvid.multilabel import (
    Label,
    mistakes,
    most_probable,
    set_margin,
    set_max_probability,
    set_negative_entropy,
)

Score = Literal["max_probability", "margin", "negative_entropy", "patience"]
SCORE_NAMES: tuple[Score, ...] = get_args(Score)


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


# The scores that look at one exit alone; patience looks back too.
SCORES: dict[str, Callable[[Tensor], Tensor]] = {f.__name__: f for f in (max_probability, margin, negative_entropy)}
# The same of the distribution over sets of labels.
SET_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max_probability": set_max_probability,
    "margin": set_margin,
    "negative_entropy": set_negative_entropy,
}


def patience(probability: Tensor, label: Tensor, earlier: Tensor) -> Tensor:
    """How many exits in a row, up to the one before, gave this exit's label; PABEE's score (Zhou et al., NeurIPS 2020).

    The fraction is the exit's probability, held below 1: it decides among equals, and a threshold of 2 is plain
    patience, two exits before that agree.

    Args:
        probability: Of this exit's label, float32 (B,).
        label: Of this exit, int64 (B,), or sets, bool (B, classes).
        earlier: Labels of the exits before, int64 (exits, B), or bool (exits, B, classes).

    Example:
        >>> earlier = torch.tensor([[1, 0], [0, 0]])
        >>> patience(torch.tensor([0.75, 0.5]), torch.tensor([0, 0]), earlier)
        tensor([1.7500, 2.5000])
    """
    agreeing = (mistakes(earlier, label) == 0).flip(0).cumprod(0).sum(0).float()
    return torch.minimum(agreeing + probability, torch.nextafter(agreeing + 1, agreeing))


class ThresholdPolicy(nn.Module):
    """Stop at the first exit whose score reaches its threshold; the last exit accepts everything.

    Thresholds are a buffer, so they travel in the state dict; temperatures are plain data and do not. Uncalibrated
    thresholds are infinite: full inference.

    Args:
        num_exits: Exits of the route; not needed when thresholds are given.
        thresholds: One per exit, the last one is not used; infinity switches an exit off.
        score: `max_probability`, `margin`, `negative_entropy` or `patience`.
        temperatures: What the logits of each exit are divided by, so that its probabilities can be trusted (Guo et
            al., ICML 2017); 1 by default. `dynvid.calibration.fit_temperatures` finds them.
        multi_label: Logits are those of sets (see `dynvid.multilabel`): an answer is the most probable set, and each
            score is that of the distribution over sets.

    Raises:
        ValueError: Neither or inconsistent numbers of exits, an unknown score, or a temperature that is not above 0.

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
        temperatures: Sequence[float] | None = None,
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        if score not in SCORE_NAMES:
            raise InputError(f"unknown score {score!r}: use {', '.join(SCORE_NAMES)}")
        if thresholds is None:
            if num_exits is None:
                raise InputError("give num_exits or thresholds")
            thresholds = [torch.inf] * num_exits
        values = torch.as_tensor(thresholds, dtype=torch.float32).clone()
        if values.dim() != 1 or len(values) < 1 or (num_exits is not None and len(values) != num_exits):
            raise InputError(f"thresholds have shape {tuple(values.shape)}, not one per exit ({num_exits})")
        self.register_buffer("thresholds", values)
        self.score_name: Score = score
        self.multi_label = multi_label
        self.temperatures = (1.0,) * len(values) if temperatures is None else tuple(map(float, temperatures))
        if len(self.temperatures) != len(values) or not all(0 < t < torch.inf for t in self.temperatures):
            raise InputError(f"temperatures are {self.temperatures}: one above 0 per exit ({len(values)})")

    def at(self, thresholds: Sequence[float] | Tensor | None = None) -> "ThresholdPolicy":
        """The same score, temperatures and kind of labels at other thresholds; by default full inference."""
        return ThresholdPolicy(self.num_exits, thresholds, self.score_name, self.temperatures, self.multi_label)

    def take_score(self, score: Score, temperatures: Sequence[float] | None = None) -> None:
        """Decide by another score, or at other temperatures, from now on; see the class for both."""
        other = ThresholdPolicy(thresholds=self.thresholds.cpu(), score=score, temperatures=temperatures)  # checks them
        self.score_name, self.temperatures = other.score_name, other.temperatures

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

    @property
    def looks_back(self) -> bool:
        """Whether the score needs the labels of the exits before."""
        return self.score_name == "patience"

    def confident(self, position: int, logits: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Online: which videos may stop at the exit at `position`.

        Args:
            position: On the route, from 0.
            logits: Of this exit, (B, classes).
            earlier: `answers` of the exits before to these videos, (position, B, ...), where the score `looks_back`.

        Returns:
            Bool (B,).

        Raises:
            ValueError: The score looks back, and `earlier` is not given.
        """
        return self._score(position, logits, earlier) >= self.thresholds[position]

    def answers(self, logits: Tensor) -> Tensor:
        """Online and offline: the best class, logits (..., classes) -> int64 (...), or set, bool (..., classes)."""
        return most_probable(logits) if self.multi_label else logits.argmax(-1)

    def label(self, answer: Sequence[float]) -> Label:
        """One of `answers` in plain Python, from its numbers: the class of (label,), or the classes of a multi-hot set.

        Example:
            >>> ThresholdPolicy(1).label([3.0]), ThresholdPolicy(1, multi_label=True).label([1.0, 0.0, 1.0])
            (3, (0, 2))
        """
        return tuple(n for n, x in enumerate(answer) if x) if self.multi_label else int(answer[0])

    def probability(self, position: int, logits: Tensor) -> Tensor:
        """Online: of the answer, at the temperature of the exit at `position`, logits (B, classes) -> (B,)."""
        return self._scores["max_probability"](self._scaled(position, logits))

    def class_probabilities(self, position: int, logits: Tensor) -> Tensor:
        """Online: of each class, at the temperature of the exit at `position`, logits (B, classes) -> (B, classes)."""
        scaled = self._scaled(position, logits)
        return scaled.sigmoid() if self.multi_label else scaled.softmax(-1)

    def choose(self, logits: Tensor) -> Tensor:
        """Offline: the exit that each video takes, all exits' logits (K, B, classes) -> int64 (B,)."""
        return choose_exits(self.score(logits), self.thresholds)

    def score(self, logits: Tensor) -> Tensor:
        """Offline: how sure each exit is, all exits' logits (K, B, classes) -> (K, B), higher is surer."""
        self._check(logits)
        labels = self.answers(logits) if self.looks_back else None
        return torch.stack([self._score(k, x, None if labels is None else labels[:k]) for k, x in enumerate(logits)])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Offline: those of the classes at the exits' temperatures, all exits' logits (K, B, classes) -> the same."""
        self._check(logits)
        return torch.stack([self.class_probabilities(k, x) for k, x in enumerate(logits)])

    def scaled(self, logits: Tensor) -> Tensor:
        """Offline: all exits' logits divided by the exits' temperatures, float32 (K, B, classes) -> the same."""
        self._check(logits)
        return torch.stack([self._scaled(k, x) for k, x in enumerate(logits)])

    def _check(self, logits: Tensor) -> None:
        if len(logits) != self.num_exits:
            raise InputError(f"logits of {len(logits)} exits, the policy decides on {self.num_exits}")

    def _score(self, position: int, logits: Tensor, earlier: Tensor | None) -> Tensor:
        """How sure one exit is, (B, classes) -> (B,); both ways end here, so they agree to the bit."""
        if not self.looks_back:
            return self._scores[self.score_name](self._scaled(position, logits))
        if earlier is None:
            raise InputError(f"{self.score_name} looks back: give the labels of the exits before, (position, B)")
        return patience(self.probability(position, logits), self.answers(logits), earlier)

    @property
    def _scores(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return SET_SCORES if self.multi_label else SCORES

    def _scaled(self, position: int, logits: Tensor) -> Tensor:
        # A number, exit by exit: division by a tensor of all would round otherwise on some devices.
        return logits.float() / self.temperatures[position]


def choose_exits(scores: Tensor, thresholds: Tensor) -> Tensor:
    """The first exit whose score reaches its threshold, else the last: scores (K, N), thresholds (K,) -> int64 (N,).

    Example:
        >>> choose_exits(torch.tensor([[0.9, 0.2], [0.3, 0.4]]), torch.tensor([0.5, 0.5]))
        tensor([0, 1])
    """
    sure = scores >= thresholds.to(scores)[:, None]
    sure[-1] = True
    return sure.int().argmax(0)  # argmax gives the first of equal values
