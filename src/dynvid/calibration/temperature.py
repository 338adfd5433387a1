"""Probabilities that can be trusted: a temperature per exit, and how far they are off (Guo et al., ICML 2017)."""

import math

from torch import Tensor

from dynvid.errors import InputError

COLDEST, HOTTEST = 0.05, 20.0  # an exit that is always right would be colder and colder
_ROWS = 512  # videos at a time, which stay in the cache


def fit_temperatures(logits: Tensor, labels: Tensor) -> tuple[float, ...]:
    """The temperature of each exit that makes the labels most likely, for `ThresholdPolicy(temperatures=...)`.

    The negative log-likelihood is convex in 1 / T, so each exit has one best temperature. Where that lies beyond
    `COLDEST` or `HOTTEST`, as for an exit that is always right, it is held there; where all are as good, it is 1.

    Temperatures change scores. A promise on videos that they were fitted on does not hold: fit them on the part of the
    validation split that chooses the checkpoint, `outputs.of(~kept_apart(outputs.recordings))`, never on the
    part that calibrates.

    Args:
        logits: Of all exits, float (K, N, classes).
        labels: int64 (N,); or sets, 0 or 1 (N, classes), of which each class is a decision of its own.

    Raises:
        ValueError: Shapes do not fit, there are no videos, a label is unknown (-1) or no class, or the logits are not
            finite.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[2.0, 0.0]] * 4])  # sure at 88 %, and right three times of four
        >>> temperature, = fit_temperatures(logits, torch.tensor([0, 0, 0, 1]))
        >>> f"{temperature:.4f}", (logits[0, 0] / temperature).softmax(-1)
        ('1.8205', tensor([0.7500, 0.2500]))
    """
    if logits.dim() != 3 or labels.shape not in (logits.shape[1:2], logits.shape[1:]):
        shapes = f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}"
        raise InputError(f"{shapes}: they must be (K, N, classes), (N,) or of sets (N, classes)")
    labels = labels.cpu().long()
    if not len(labels):
        raise InputError("temperatures need videos: there are none")
    if (labels < 0).any():
        raise InputError("temperatures need labels: leave out the videos without one, outputs.of(outputs.labels >= 0)")
    if labels.dim() == 1 and int(labels.max()) >= logits.shape[-1]:
        raise InputError(f"label {int(labels.max())}: the logits are of {logits.shape[-1]} classes")
    if not logits.isfinite().all():
        raise InputError("logits are not finite (NaN or infinity): training has diverged, lower the learning rate")
    return tuple(_best(one.cpu(), labels) for one in logits)


def calibration_error(probability: Tensor, correct: Tensor, bins: int = 15) -> tuple[float, ...]:
    """Expected calibration error of each exit: how far probability and accuracy are apart, in [0, 1].

    Videos are put into bins of equal width by their probability; the error is the distance between mean probability and
    accuracy, averaged over the bins, each weighed by its videos.

    Args:
        probability: Of the answer that each exit gives, (K, N), such as `outputs.probabilities`.
        correct: Whether it is right, bool (K, N).
        bins: Their number.

    Raises:
        ValueError: Shapes do not fit, there are no videos, or a probability is not in [0, 1].

    Example:
        >>> import torch
        >>> calibration_error(torch.tensor([[0.75, 0.75, 0.75, 0.75]]), torch.tensor([[True, True, False, False]]))
        (0.25,)
    """
    from torchmetrics.functional.classification import binary_calibration_error  # slow to import

    if probability.dim() != 2 or probability.shape != correct.shape or not probability.shape[1]:
        shapes = f"probability {tuple(probability.shape)}, correct {tuple(correct.shape)}"
        raise InputError(f"{shapes}: both must be (K, N), with videos")
    if not ((probability >= 0) & (probability <= 1)).all():  # so written, it refuses NaN too
        raise InputError("probability: numbers in [0, 1]; logits need a softmax first")
    inside = probability.double().clamp(max=math.nextafter(1, 0))  # torchmetrics gives 1 a bin of its own
    return tuple(
        float(binary_calibration_error(p, c.long(), n_bins=bins)) for p, c in zip(inside, correct, strict=True)
    )


def _best(logits: Tensor, labels: Tensor) -> float:
    """The best temperature of one exit, (N, classes) and its labels: by Newton's method on log(1 / T), in a bracket."""
    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    if _slope(logits, labels, 0.0)[0] == 0:
        return 1.0
    if _slope(logits, labels, low)[0] >= 0:
        return HOTTEST
    if _slope(logits, labels, high)[0] <= 0:
        return COLDEST
    x, before = 0.0, high - low
    while True:
        slope, rise = _slope(logits, labels, x)
        low, high = (low, x) if slope > 0 else (x, high)
        step = -slope / rise if rise > 0 else math.inf
        if not (low < x + step < high and abs(step) < before / 2):  # Newton leaves the bracket, or creeps
            step = (low + high) / 2 - x
        x, before = x + step, abs(step)
        if before < 1e-7:
            return math.exp(-x)


def _slope(logits: Tensor, labels: Tensor, x: float) -> tuple[float, float]:
    """Slope of the mean negative log-likelihood in 1 / T at 1 / T = exp(x), and how fast it rises with x."""
    beta = math.exp(x)
    slope = rise = 0.0
    for start in range(0, len(labels), _ROWS):
        z, y = logits[start : start + _ROWS].double(), labels[start : start + _ROWS]
        if y.dim() > 1:  # of a class, ln(1 + exp(beta z)) - beta z y
            p = (beta * z).sigmoid()
            slope += float(((p - y) * z).sum())
            rise += float((p * (1 - p) * z * z).sum())
            continue
        z = z - z.amax(1, keepdim=True)  # not in place: float64 logits are the caller's
        p = (beta * z).exp_()
        p /= p.sum(1, keepdim=True)
        mean = (p * z).sum(1)
        slope += float((mean - z.gather(1, y[:, None]).squeeze(1)).sum())
        rise += float(((p * z * z).sum(1) - mean**2).sum())
    return slope / len(labels), beta * rise / len(labels)
