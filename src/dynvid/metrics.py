"""Top-1 against average cost."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dynvid.calibration import operate, whole_curve
from dynvid.errors import InputError
from dynvid.multilabel import accuracy_word, mistakes
from dynvid.policy import ThresholdPolicy
from dynvid.published import Dataset, draw_published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE = "#0072b2", "#e69f00"  # of Okabe and Ito, whom all eyes can tell apart


class FlopsAccuracy(SimpleNamespace):  # not a tuple: torchmetrics squeezes those, and a single exit is a dimension
    """What `FlopsAccuracyCurve` computes, over N videos, K exits and M points of the curve.

    Attributes:
        gmacs: Mean GMACs per video at each point of the curve, (M,), ascending.
        accuracy: Top-1 in [0, 1] at each point, (M,); of sets, the share that is right in all names.
        thresholds: The thresholds behind each point, (M, K).
        exit_gmacs: Cumulative GMACs of each exit, (K,).
        exit_accuracy: Top-1 if every video left at that exit, (K,).
        scores: How sure each exit is of each video, (K, N).
        correct: Whether it is right, bool (K, N).
        logits: Of all exits, (K, N, classes).
        labels: int64 (N,), or sets, 0 and 1 (N, classes).
        index: Which video of the data set each one is, ascending, int64 (N,).
    """

    gmacs: Tensor
    accuracy: Tensor
    thresholds: Tensor
    exit_gmacs: Tensor
    exit_accuracy: Tensor
    scores: Tensor
    correct: Tensor
    logits: Tensor
    labels: Tensor
    index: Tensor


class FlopsAccuracyCurve(Metric):
    """Top-1 against mean GMACs per video, for thresholds from cheap to full inference.

    Videos seen twice, as distributed samplers pad, count once.

    Args:
        gmacs: Cumulative GMACs of each exit.
        policy: Its score says how sure an exit is; `max_probability` by default.

    Attributes:
        thresholds: (M, K), found on a calibration split with `whole_curve`. While None, they are found on the
            samples of the metric itself: fit for the calibration split, never for results on test data.

    Example:
        >>> curve = FlopsAccuracyCurve(gmacs=[1.0, 4.0])
        >>> logits = torch.tensor([[[4.0, 0.0], [0.3, 0.0]], [[5.0, 0.0], [0.0, 3.0]]])  # (exits, videos, classes)
        >>> curve.update(logits, torch.tensor([0, 1]), index=torch.tensor([0, 1]))
        >>> curve.compute().exit_accuracy
        tensor([0.5000, 1.0000])
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    target: list[Tensor]
    index: list[Tensor]

    def __init__(self, gmacs: Sequence[float], policy: ThresholdPolicy | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gmacs = tuple(gmacs)
        policy = policy or ThresholdPolicy(len(self.gmacs))
        self._score, self._answers, self._accuracy = policy.score, policy.answers, accuracy_word(policy.multi_label)
        self.thresholds: Tensor | None = None
        for state in ("logits", "target", "index"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor, index: Tensor) -> None:
        """Record one batch.

        Args:
            logits: Of all exits, (K, B, classes).
            target: int64 (B,), or sets, 0 and 1 (B, classes).
            index: Which video of the data set each one is, int64 (B,).

        Raises:
            ValueError: The logits are not those of K exits.
        """
        if logits.shape[:2] != (len(self.gmacs), len(target)):
            raise InputError(
                f"logits have shape {tuple(logits.shape)}, not ({len(self.gmacs)} exits, {len(target)} videos, classes)"
            )
        self.logits.append(logits.transpose(0, 1))
        self.target.append(target)
        self.index.append(index)

    def compute(self) -> FlopsAccuracy:
        """The curve over all videos seen, each counted once."""
        index = dim_zero_cat(self.index)
        order = index.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = index[order][1:] != index[order][:-1]
        rows = order[first]
        logits = dim_zero_cat(self.logits)[rows].transpose(0, 1).cpu()
        labels, index = dim_zero_cat(self.target)[rows].cpu(), index[rows].cpu()
        scores, correct = self._score(logits), mistakes(self._answers(logits), labels) == 0
        thresholds = whole_curve(scores, correct, self.gmacs) if self.thresholds is None else self.thresholds.cpu()
        thresholds = torch.unique_consecutive(thresholds, dim=0)  # a curve may repeat rows
        found = operate(scores, correct, self.gmacs, thresholds)
        ascending = found.gmacs.argsort(stable=True)
        return FlopsAccuracy(
            gmacs=found.gmacs[ascending],
            accuracy=found.accuracy[ascending],
            thresholds=thresholds[ascending],
            exit_gmacs=torch.tensor(self.gmacs),
            exit_accuracy=correct.float().mean(1),
            scores=scores,
            correct=correct,
            logits=logits,
            labels=labels,
            index=index,
        )

    def plot(
        self, curve: FlopsAccuracy | None = None, ax: "Axes | None" = None, published: Dataset | None = None
    ) -> "tuple[Figure, Axes]":
        """Draw the curve of early exit and the static exits.

        Args:
            curve: What `compute` gave; computed if None.
            ax: Axes to draw on; a new figure if None.
            published: A data set of `dynvid.published` whose rows are drawn as points beside them.
        """
        return plot_curve(self.compute() if curve is None else curve, ax, published, accuracy_is=self._accuracy)


def plot_curve(
    curve: FlopsAccuracy,
    ax: "Axes | None" = None,
    published: Dataset | None = None,
    split: str = "",
    bands: Tensor | None = None,
    accuracy_is: str = "top-1",
) -> "tuple[Figure, Axes]":
    """Draw top-1 (%), or set accuracy, against mean GMACs per video.

    Args:
        curve: What `FlopsAccuracyCurve.compute` gave.
        ax: Axes to draw on; a new figure if None.
        published: A data set of `dynvid.published` whose rows are drawn as points beside them.
        split: What the videos are called, such as `test`; the title says it.
        bands: The lowest and highest top-1 in [0, 1] to shade at each point of the curve, (M, 2).
        accuracy_is: What accuracy is called; `set accuracy` where labels are sets.
    """
    from matplotlib.figure import Figure  # slow to import, and needed for figures only

    if ax is None:
        ax = Figure(figsize=(8.5, 4.2), layout="constrained").add_subplot()
    accuracy, exits = 100 * curve.accuracy, 100 * curve.exit_accuracy
    if bands is not None:
        ax.fill_between(curve.gmacs, *(100 * bands.T), color=_BLUE, alpha=0.2, lw=0, label="95 % band")
    ax.plot(curve.gmacs, accuracy, "-", color=_BLUE, label="dynamic inference", zorder=2)
    ax.plot(curve.exit_gmacs, exits, "o--", color=_ORANGE, mfc="white", label="every video at one exit", zorder=1)
    count = curve.scores.shape[1]
    of = f"{count:,} video{'s' * (count != 1)}{f' of {split}' if split else ''}"
    ax.set_title(f"{accuracy_is.capitalize()} against mean cost: {of}")
    ax.set_xlabel("mean cost per video (GMACs)")
    ax.grid(alpha=0.3)
    if published:
        draw_published(ax, published)
    if ax.get_xscale() == "linear":
        ax.set_xlim(left=0)
    bottom = axis_start(ax.dataLim.y0, ax.dataLim.y1)
    ax.set_ylim(bottom, min(max(ax.dataLim.y1 + 0.05 * (ax.dataLim.y1 - bottom) + 0.5, bottom + 5), 101))
    ax.set_ylabel(f"{accuracy_is} (%)" + (", axis does not start at 0" if bottom else ""))
    draw_legend(ax)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure, ax


def axis_start(low: float, high: float) -> float:
    """Where an axis of percentages starts: at 0, unless the values lie so close together that nothing would be seen.

    It then spans five points at least: what lies nearer together is nearly the same.

    Example:
        >>> axis_start(40.0, 90.0), axis_start(80.0, 90.0), axis_start(90.0, 90.0)
        (0.0, 78.0, 85.0)
    """
    if not low >= 0.75 * high or high < 5:  # so written, NaN starts at 0 too
        return 0.0
    return max(min(low - 0.2 * (high - low), high - 5), 0.0)


def draw_legend(ax: "Axes") -> None:
    """Name what is drawn, to the right of the axes, where it covers nothing."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=7 if len(ax.get_lines()) > 4 else 9, frameon=False)
