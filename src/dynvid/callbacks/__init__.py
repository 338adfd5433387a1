"""Lightning callbacks: calibration, the FLOPs-accuracy report, and written predictions."""

from dynvid.callbacks.calibration import Calibration
from dynvid.callbacks.report import FlopsAccuracyReport
from dynvid.callbacks.writer import PredictionWriter

__all__ = ["Calibration", "FlopsAccuracyReport", "PredictionWriter"]
