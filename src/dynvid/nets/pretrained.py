"""The names of `dynvid.nets.weights.read`, where they were first."""

from dynvid.nets.weights.read import load_weights, read_weights

__all__ = ["load_weights", "read_weights"]
