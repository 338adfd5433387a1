"""Nets with exits, in plain torch."""

from dynvid.nets.exit_net import (
    DepthExitNet,
    ExitNet,
    InputExitNet,
    Prediction,
    UnifiedExitNet,
)
from dynvid.nets.msdnet import MSDNet
from dynvid.nets.spec import net_from_spec
from dynvid.nets.stages import Backbone
from dynvid.nets.stream import Stream
from dynvid.nets.weights.msdnet import load_msdnet_checkpoint
from dynvid.nets.weights.tsm import load_tsm_checkpoint

__all__ = [
    "Backbone",
    "DepthExitNet",
    "ExitNet",
    "InputExitNet",
    "MSDNet",
    "Prediction",
    "Stream",
    "UnifiedExitNet",
    "load_msdnet_checkpoint",
    "load_tsm_checkpoint",
    "net_from_spec",
]
