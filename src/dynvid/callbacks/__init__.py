"""Lightning callbacks: calibration, checkpoints, lines on the console, the FLOPs-accuracy report, predictions."""

from dynvid.callbacks.calibration import Calibration
from dynvid.callbacks.checkpoint import TrainingCheckpoint
from dynvid.callbacks.console import EpochLine, NetLine
from dynvid.callbacks.report import FlopsAccuracyReport
from dynvid.callbacks.writer import PredictionWriter

__all__ = ["Calibration", "EpochLine", "FlopsAccuracyReport", "NetLine", "PredictionWriter", "TrainingCheckpoint"]
