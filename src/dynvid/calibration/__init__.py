"""Thresholds, found on a split that is neither trained on nor tested on."""

from dynvid.calibration.audit import Audit, anytime_interval
from dynvid.calibration.candidates import (
    SHARE_RATIOS,
    SHARED_LEVELS,
    Frontier,
    candidate_thresholds,
    frontier,
    num_candidates,
    thresholds_for_budget,
    thresholds_for_drop,
    whole_curve,
)
from dynvid.calibration.intervals import (
    Interval,
    bounded_interval,
    difference_interval,
    mean_interval,
    resampled_means,
    share_interval,
)
from dynvid.calibration.operate import Operation, operate
from dynvid.calibration.point import ChosenBy, Offer, OperatingPoint, counted
from dynvid.calibration.promise import smallest_risk, thresholds_for_risk, videos_needed
from dynvid.calibration.reject import Reject, RejectOffer, answered_at, check_max_error, find_reject, reject_level
from dynvid.calibration.search import FoundRoute, best_route
from dynvid.calibration.target import CALIBRATING, Target, find_point, kept_apart, listing_of, measured
from dynvid.calibration.temperature import calibration_error, fit_temperatures

__all__ = [
    "CALIBRATING",
    "SHARED_LEVELS",
    "SHARE_RATIOS",
    "Audit",
    "ChosenBy",
    "FoundRoute",
    "Frontier",
    "Interval",
    "Offer",
    "OperatingPoint",
    "Operation",
    "Reject",
    "RejectOffer",
    "Target",
    "answered_at",
    "anytime_interval",
    "best_route",
    "bounded_interval",
    "calibration_error",
    "candidate_thresholds",
    "check_max_error",
    "counted",
    "difference_interval",
    "find_point",
    "find_reject",
    "fit_temperatures",
    "frontier",
    "kept_apart",
    "listing_of",
    "mean_interval",
    "measured",
    "num_candidates",
    "operate",
    "reject_level",
    "resampled_means",
    "share_interval",
    "smallest_risk",
    "thresholds_for_budget",
    "thresholds_for_drop",
    "thresholds_for_risk",
    "videos_needed",
    "whole_curve",
]
