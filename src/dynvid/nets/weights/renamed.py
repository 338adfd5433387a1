"""Weights under other names: every one that the net has finds its place, or nothing is loaded."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from dynvid.errors import InputError
from dynvid.nets.grid import Grid
from dynvid.nets.weights.file import check_tensors, read_file, refuse, same_type


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
        content = read_file(checkpoint, "file of weights")
    original = weights_by_name(content)
    given, own = {renamed(key): value for key, value in original.items()}, net.state_dict()
    weights = {key: given[name] for key, name in source.items() if name in given}
    check_tensors(weights)
    other_shape = [key for key, weight in weights.items() if weight.shape != own[key].shape]
    left_out = [key for key in other_shape if key.startswith("heads.") and len(weights[key]) != net.num_classes]
    wanted = set(source.values())
    refuse(
        what,
        {
            "missing": sorted(name for name in wanted - given.keys() if not name.endswith("num_batches_tracked")),
            "unknown": [old for old in original if not (renamed(old) in wanted or renamed(old).startswith(unneeded))],
            "of another shape": [key for key in other_shape if key not in left_out],
            "of another type": [key for key, weight in weights.items() if not same_type(weight, own[key])],
        },
    )
    net.load_state_dict({key: weights[key] for key in weights.keys() - set(left_out)}, strict=False)
    return tuple(left_out)


def weights_by_name(content: object) -> Mapping[str, Any]:
    """The state dict in what a file held: all of it, or what it has under `state_dict`.

    Raises:
        ValueError: There is none.
    """
    found = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InputError("holds no weights by name")
    return found
