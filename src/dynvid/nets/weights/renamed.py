"""Weights under other names: every one that the net has finds its place, or nothing is loaded."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynvid.errors import InputError
from dynvid.nets.grid import Grid


def load_renamed(
    net: Grid,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    renamed: Callable[[str], str],
    source: Mapping[str, str],
    what: str,
    unneeded: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Load weights that others trained under other names.

    Args:
        net: The net; it stays as it was if anything is wrong.
        checkpoint: A file, or what is in it: the state dict, or a dictionary with it under `state_dict`.
        renamed: From a name in the checkpoint to one of ours.
        source: The new name of the weights that each of the net's own is to get.
        what: What the checkpoint has to be of, for the error.
        unneeded: How new names begin that the net has no use for.

    Returns:
        Names of the classifiers' weights that were left out because they are for another number of classes.

    Raises:
        ValueError: Weights are missing, unknown or of another shape.
    """
    content: Any = checkpoint
    if isinstance(checkpoint, str | os.PathLike):
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    original: Mapping[str, Tensor] = content.get("state_dict", content)
    given, own = {renamed(key): value for key, value in original.items()}, net.state_dict()
    weights = {key: given[name] for key, name in source.items() if name in given}
    other_shape = [key for key, weight in weights.items() if weight.shape != own[key].shape]
    left_out = [key for key in other_shape if key.startswith("heads.") and len(weights[key]) != net.num_classes]
    wanted = set(source.values())
    problems = {
        "missing": sorted(name for name in wanted - given.keys() if not name.endswith("num_batches_tracked")),
        "unknown": [old for old in original if not (renamed(old) in wanted or renamed(old).startswith(unneeded))],
        "of another shape": [key for key in other_shape if key not in left_out],
    }
    if any(problems.values()):
        found = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
        raise InputError(f"the checkpoint is not of {what}: {found}")
    net.load_state_dict({key: weights[key] for key in weights.keys() - set(left_out)}, strict=False)
    return tuple(left_out)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
