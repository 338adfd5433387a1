"""Nets with exits, in plain torch."""

from dynvid.nets.exit_net import (
    DepthExitNet,
    ExitNet,
    InputExitNet,
    Prediction,
    UnifiedExitNet,
    net_from_spec,
)
from dynvid.nets.stream import Stream

__all__ = [
    "DepthExitNet",
    "ExitNet",
    "InputExitNet",
    "Prediction",
    "Stream",
    "UnifiedExitNet",
    "net_from_spec",
]
