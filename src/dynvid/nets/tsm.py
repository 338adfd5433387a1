"""The names of `dynvid.nets.weights.tsm`, where they were first."""

from dynvid.nets.weights.tsm import from_tsm_keys, load_tsm_checkpoint

__all__ = ["from_tsm_keys", "load_tsm_checkpoint"]
