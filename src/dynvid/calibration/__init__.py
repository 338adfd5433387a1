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
from dynvid.calibration.promise import smallest_risk, thresholds_for_risk, videos_needed

__all__ = [
    "SHARED_LEVELS",
    "SHARE_RATIOS",
    "Frontier",
    "Operation",
    "candidate_thresholds",
    "frontier",
    "num_candidates",
    "operate",
    "smallest_risk",
    "thresholds_for_budget",
    "thresholds_for_drop",
    "thresholds_for_risk",
    "videos_needed",
]
