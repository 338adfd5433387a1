"""What is answered and what is withheld, how often answers are wrong, and what becomes of the background."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynvid.calibration import Interval, answered_at, bounded_interval, listing_of, share_interval
from dynvid.outputs import Outputs
from dynvid.report.words import percent

POINTS = 200  # of a curve, at most


def answers(outputs: Outputs) -> dict[str, Any]:
    """The reject threshold at work, and what others would lead to, as plain data.

    Returns:
        `answered` (share of the videos), `error` (share of wrong ones among these; None without labels, or where
        nothing is answered), `risk` (for `dynamic` and `full` inference `curve`, pairs of the share that is answered
        and the error among it, and `area` under it; None without labels), `point` (the threshold as plain data, with
        its `words`), `kept` and `words` (what became of its promise) and `background` (see below; None without one):
        `class`, `videos`, `false_alarms` (share of them that are given another label) and `missed` (share of the others
        that are called so), None where there are no such videos.
    """
    taken, given = outputs.taken[None], outputs.answered
    wrong = ~outputs.correct.gather(0, taken)[0]
    sure = outputs.probabilities.gather(0, taken)[0]
    known = outputs.labelled and bool(outputs.probabilities.isfinite().all())
    kept, words = _verdict(outputs, given, wrong)
    return {
        "answered": float(given.double().mean()),
        "error": float(wrong[given].double().mean()) if outputs.labelled and given.any() else None,
        "risk": {"dynamic": _risk(sure, wrong), "full": _risk(outputs.probabilities[-1], ~outputs.correct[-1])}
        if known
        else None,
        "point": None if outputs.reject is None else {"words": str(outputs.reject)} | outputs.reject.plain(),
        "kept": kept,
        "words": words,
        "background": _background(outputs, given),
    }


def _risk(sure: Tensor, wrong: Tensor) -> dict[str, Any]:
    """The curve of risk against coverage, and the area under it (Geifman et al., ICLR 2019)."""
    _, answered, errors = np.array(answered_at(sure.cpu(), wrong.cpu()), dtype=float).T
    share, risk = answered / len(sure), errors / answered
    shown = np.unique(np.linspace(0, len(share) - 1, POINTS).round().astype(int))
    curve = [[float(share[n]), float(risk[n])] for n in shown]
    return {"curve": curve, "area": float(risk @ np.diff(share, prepend=0.0))}


def _verdict(outputs: Outputs, given: Tensor, wrong: Tensor) -> tuple[bool | None, str | None]:
    """Whether what was asked for held on these videos, and in words; each recording counts as much as any other."""
    reject = outputs.reject
    if reject is None:
        return None, None
    videos = len(outputs.paths)
    said = f"{percent(float(given.double().mean()))} of {videos} video{'s' * (videos != 1)} were answered"
    if not outputs.labelled:
        return None, f"{said}; without labels nobody can tell how many of these wrongly."
    if not given.any():
        return None, f"{said}, so that none could be wrong."
    error, interval = _error(outputs, given, wrong)
    between = f"{percent(interval.low)} to {percent(interval.high)} of all to come"
    said += f", {percent(error)} of these wrongly ({between})"
    if reject.threshold is None:
        return None, f"{said}; nothing was withheld."
    if outputs.split == reject.split or (reject.listing and reject.listing == listing_of(outputs.paths)):
        return None, f"{said}. The threshold was found on these very videos, or some of them: this is no test of it."
    name, limit = ("promise", "promised") if reject.promised else ("limit", "permitted")
    limit = f"at most {100 * reject.max_error:g} % {limit}"
    kept = error <= reject.max_error * (1 + 1e-9)  # rounding of the mean
    doubt = ""
    if kept and interval.high > reject.max_error:
        doubt = "; whether that holds in the long run stays open"
    elif not kept and interval.low <= reject.max_error:
        doubt = "; that may be the luck of these videos"
    elif not kept:
        doubt = "; the luck of these videos does not explain that"
    return kept, f"The {name} on answers was {'kept' if kept else 'broken'}: {said}, {limit}{doubt}."


def _error(outputs: Outputs, given: Tensor, wrong: Tensor) -> tuple[float, Interval]:
    """The share of wrong ones among the answers, and its interval; a recording counts as one video drawn from it."""
    given, wrong = given.cpu(), wrong.cpu()
    if len(set(outputs.recordings)) == len(outputs.recordings):
        return float(wrong[given].double().mean()), share_interval(wrong[given])
    _, recording, sizes = np.unique(np.asarray(outputs.recordings), return_inverse=True, return_counts=True)
    weight = 1 / torch.from_numpy(sizes[recording]).double()
    answers = float(weight[given].sum())  # by the number of recordings: no more than have any
    error = float(weight[given & wrong].sum()) / answers
    return error, bounded_interval(error, int(answers)) if answers >= 1 else Interval(0.0, 1.0)


def _background(outputs: Outputs, given: Tensor) -> dict[str, Any] | None:
    if outputs.background is None or outputs.class_names is None or not outputs.labelled or outputs.multi_label:
        return None  # of sets, the empty one says that
    label = outputs.class_names.index(outputs.background)
    truly = outputs.labels.cpu() == label
    said = outputs.predicted.gather(0, outputs.taken[None])[0].cpu() == label
    alarm, missed = given.cpu() & ~said, given.cpu() & said
    return {
        "class": outputs.background,
        "videos": int(truly.sum()),
        "false_alarms": float(alarm[truly].double().mean()) if truly.any() else None,
        "missed": float(missed[~truly].double().mean()) if not truly.all() else None,
    }
