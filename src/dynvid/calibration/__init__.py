"""Thresholds, found on a split that is neither trained on nor tested on."""

from dynvid.calibration.candidates import (
    SHARE_RATIOS,
    SHARED_LEVELS,
    Frontier,
    candidate_thresholds,
    frontier,
    num_candidates,
    thresholds_for_budget,
    thresholds_for_drop,
)
from dynvid.calibration.operate import Operation, operate

__all__ = [
    "SHARED_LEVELS",
    "SHARE_RATIOS",
    "Frontier",
    "Operation",
    "candidate_thresholds",
    "frontier",
    "num_candidates",
    "operate",
    "thresholds_for_budget",
    "thresholds_for_drop",
]
