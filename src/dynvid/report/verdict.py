"""Whether what an operating point was asked for held on the videos at hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynvid.calibration import Interval, OperatingPoint, bounded_interval, listing_of, mean_interval, share_interval
from dynvid.outputs import Outputs
from dynvid.report.words import percent


def verdict(outputs: Outputs) -> dict[str, Any]:
    """What became of the promise, the permitted loss or the budget, as plain data.

    Lost is counted as it was promised: with labels, or, for `max_disagreement` and without labels, as another answer
    than full inference gives. Where a recording has several videos, its share counts once.

    Returns:
        `kept` (None where nothing was asked for), `lost` (the share), `interval` (of the share among all videos to
        come, 95 %), `with_labels` and `words`.
    """
    point = outputs.point
    with_labels = outputs.labelled and (point is None or point.rule != "max_disagreement")
    share, interval = lost_share(outputs.lost(with_labels).gather(0, outputs.taken[None])[0], outputs.recordings)
    kept: bool | None = None
    if point is None:
        words = f"{_lost(outputs, share, interval, with_labels)}."
    elif point.rule in ("budget", "budget_ms"):
        kept, words = _budget(outputs, point)
    elif point.rule == "thresholds":
        words = f"{_lost(outputs, share, interval, with_labels)}."
    elif point.full_inference:
        words = "Every video got full inference, so none can be lost."
    else:
        kept = share <= (point.target or 0.0) * (1 + 1e-9)  # rounding of the mean
        words = _against(point, kept, interval, _lost(outputs, share, interval, with_labels))
        if not with_labels and point.rule == "max_drop":
            if not kept:
                kept, words = None, f"{_lost(outputs, share, interval, with_labels)}."
            words += " Without labels nobody can tell which of them are lost; no more than these."
        if outputs.split == point.split or (point.listing and point.listing == listing_of(outputs.paths)):
            found = "The thresholds were found on these very videos, or on some of them, so this is no test of them."
            kept, words = None, f"{_lost(outputs, share, interval, with_labels)}. {found}"
    return {"kept": kept, "lost": share, "interval": list(interval), "with_labels": with_labels, "words": words}


def lost_share(lost: Tensor, recordings: Sequence[str]) -> tuple[float, Interval]:
    """The mean over recordings of the share of videos lost in each, and a 95 % interval for it.

    The interval is exact where each share is 0 or 1, as it is with one video per recording, else `bounded_interval`.

    Args:
        lost: Bool (N,).
        recordings: The recording of each video.

    Example:
        >>> share, interval = lost_share(torch.tensor([True, False, False]), ["a", "a", "b"])
        >>> share
        0.25
    """
    _, recording = np.unique(np.asarray(recordings), return_inverse=True)
    shares = torch.from_numpy(np.bincount(recording, lost.double().cpu().numpy()) / np.bincount(recording))
    whole = bool(((shares == 0) | (shares == 1)).all())
    return float(shares.mean()), share_interval(shares == 1) if whole else bounded_interval(
        float(shares.mean()), len(shares)
    )


def _lost(outputs: Outputs, share: float, interval: Interval, with_labels: bool) -> str:
    several = len(set(outputs.recordings)) < len(outputs.paths)
    label = "another set of labels" if outputs.multi_label else "another label"
    what = "lost" if with_labels else f"given {label} than full inference gives"
    of = "of the videos of a recording, in the mean, were" if several else f"of {_videos(len(outputs.paths))} were"
    return f"{percent(share)} {of} {what} ({percent(interval.low)} to {percent(interval.high)} of all videos to come)"


def _videos(count: int) -> str:
    return f"{count} video{'s' * (count != 1)}"


def _against(point: OperatingPoint, kept: bool, interval: Interval, lost: str) -> str:
    """The loss against what was permitted."""
    target = point.target or 0.0
    name = "promise" if point.promised else "limit"
    limit = f"{100 * target:g} % {'promised' if point.promised else 'permitted'}"
    if kept:
        doubt = "; whether that holds in the long run stays open"
        return f"The {name} was kept: {lost}, at most {limit}{doubt if interval.high > target else ''}."
    chance = (
        "; that may be the luck of these videos"
        if interval.low <= target
        else "; the luck of these videos does not explain that"
    )
    return f"The {name} was broken: {lost}, at most {limit}{chance}."


def _budget(outputs: Outputs, point: OperatingPoint) -> tuple[bool | None, str]:
    costs: tuple[float, ...] | None = outputs.gmacs
    unit, where = "GMACs", ""
    if point.rule == "budget_ms":
        costs = None if outputs.profile is None else outputs.profile.milliseconds
        unit, where = "ms", f", by the profile of {outputs.profile}"
    if costs is None:
        return (
            None,
            "Whether the budget was kept is not known: these outputs have no profile, which has the milliseconds.",
        )
    cost = torch.tensor(costs, dtype=torch.float64)[outputs.taken.cpu()]
    low, high = mean_interval(cost, outputs.recordings)
    budget, spent = point.target or 0.0, float(cost.mean())
    kept = spent <= budget * (1 + 1e-6)  # 1e-6: rounding of the means
    return kept, (
        f"The budget was {'kept' if kept else 'exceeded'}: {spent:.4g} {unit} per video ({low:.4g} to {high:.4g} for "
        f"all videos to come), {budget:.4g} were permitted{where}."
    )
