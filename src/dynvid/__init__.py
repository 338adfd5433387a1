"""Dynamic inference for video recognition: easy videos leave early, and the saving is executed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynvid.nets import DepthExitNet, ExitNet, InputExitNet, Prediction, Stream, UnifiedExitNet
    from dynvid.policy import ThresholdPolicy
    from dynvid.routes import Exit, depth_route, frame_groups, input_route, unified_route
else:
    from dynvid.lazy import lazily

    __getattr__, __dir__ = lazily(
        __name__,
        {
            "dynvid.nets": ["DepthExitNet", "ExitNet", "InputExitNet", "Prediction", "Stream", "UnifiedExitNet"],
            "dynvid.policy": ["ThresholdPolicy"],
            "dynvid.routes": ["Exit", "depth_route", "frame_groups", "input_route", "unified_route"],
        },
    )

__version__ = "0.2.0"

__all__ = [
    "DepthExitNet",
    "Exit",
    "ExitNet",
    "InputExitNet",
    "Prediction",
    "Stream",
    "ThresholdPolicy",
    "UnifiedExitNet",
    "depth_route",
    "frame_groups",
    "input_route",
    "unified_route",
]
