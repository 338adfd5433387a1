"""What figures mean, in sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

HAIR = 0.005  # an operating point this far below the curve is spoken of


def percent(share: float) -> str:
    """A share in words.

    Example:
        >>> percent(0.1234), percent(-0.0001)
        ('12.3 %', '0.0 %')
    """
    return f"{100 * share:z.1f} %"


def headline(summary: dict[str, Any]) -> dict[str, str | None]:
    """The first lines: whether figures mean anything, what was promised, what happened, what it saved."""
    measure, intervals = summary["measure"], summary["intervals"]
    full, dynamic = summary["full"], summary["dynamic"]
    frequent, warning = summary["most_frequent"], None
    if frequent is not None and intervals["full"][0] <= frequent["share"]:
        warning = (
            f"Full inference ({percent(full['accuracy'])}, {_between(intervals['full'])}) is not shown to be better "
            f"than always saying “{frequent['class']}” ({percent(frequent['share'])}): savings mean nothing here."
        )
    point = summary["point"]
    promised = "no promise: the thresholds were not calibrated" if point is None else point["words"]
    low, high = intervals["points"]
    change = f"{100 * summary['points']:+z.1f} points ({100 * low:+z.1f} to {100 * high:+z.1f})"
    saved = (
        f"{percent(summary['saved'])} of full inference's cost saved ({_between(intervals['saved'])}): "
        f"{dynamic['gmacs']:.4g} instead of {full['gmacs']:.4g} GMACs per video. "
    )
    if measure == "accuracy":
        name, now, was = summary["measure_name"], percent(dynamic["accuracy"]), percent(full["accuracy"])
        saved += f"{name.capitalize()} is {now} where full inference has {was}: {change}."
    else:
        saved += f"{percent(dynamic['agreement'])} ({_between(intervals['dynamic'])}) got full inference's answer."
    happened, answered = summary["verdict"]["words"], summary["answers"]["words"]
    return {"warning": warning, "promised": promised, "happened": happened, "saved": saved, "answered": answered}


def note(summary: dict[str, Any]) -> str | None:
    """Why the operating point lies below the curve, if it does by more than a hair."""
    curve, dynamic, measure = summary["curve"], summary["dynamic"], summary["measure"]
    if not curve or len(summary["exits"]) == 1 or not curve[0]["gmacs"] <= dynamic["gmacs"] <= curve[-1]["gmacs"]:
        return None
    level = float(np.interp(dynamic["gmacs"], [p["gmacs"] for p in curve], [p[measure] for p in curve]))
    below = level - dynamic[measure]
    if below <= HAIR:
        return None
    rule = None if summary["point"] is None else summary["point"]["rule"]
    why = {
        "budget": "the operating point had to keep to a budget there",
        "budget_ms": "the operating point had to keep to a budget in milliseconds",
        "thresholds": "those of the operating point were given by hand",
    }
    if summary["point"] is not None and summary["point"]["confidence"] is not None:
        had = "pass a test" if summary["point"]["chosen_by"] == "folds" else "carry a promise"
        why |= dict.fromkeys(("max_drop", "max_disagreement"), f"those of the operating point had to {had}")
    reason = why.get(str(rule), "those of the operating point were found in another way")
    return (
        f"The operating point lies {100 * below:.1f} points below the curve at its cost. The curve's thresholds are "
        f"the best on the calibration videos by the loss observed there, and promise nothing; {reason}."
    )


def _between(interval: Sequence[float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"
