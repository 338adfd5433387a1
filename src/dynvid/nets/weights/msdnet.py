"""Weights of an MSDNet trained with the authors' PyTorch code (kalviny/MSDNet-PyTorch)."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dynvid.nets.grid import Grid
from dynvid.nets.weights.renamed import load_renamed

# From the authors' names to ours; the order within blocks, layers and branches is the same.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^module\.", ""),  # of DataParallel
    (r"^blocks\.", "segments."),
    (r"^classifier\.(\d+)\.m\.", lambda found: f"embeddings.{int(found[1]) + 1}."),
    (r"^classifier\.(\d+)\.linear\.", lambda found: f"heads.{int(found[1]) + 1}.1."),
    (r"^(segments\.\d+\.\d+)\.(?:layers|m)\.", r"\1.scales."),
    (r"\.conv_(down|normal)\.", r".\1."),
    (r"\.net\.", "."),
)


def from_original_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an MSDNet trained with the authors' PyTorch code (kalviny/MSDNet-PyTorch).

    The new names are those of an `ExitNet` with `heads="depth"`, with any shift.

    Example:
        >>> import torch
        >>> list(from_original_keys({"module.classifier.0.m.1.net.0.weight": torch.zeros(1)}))
        ['embeddings.1.1.0.weight']
    """
    return {_renamed(key): value for key, value in state_dict.items()}


def load_msdnet_checkpoint(net: Grid, checkpoint: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Load an MSDNet trained with the authors' PyTorch code into a net with the same backbone.

    Exits of the checkpoint at depths where the net has none are not needed and pass unnoticed.

    Args:
        net: The net; it stays as it was if anything is wrong.
        checkpoint: A file, or what is in it: the state dict, or a dictionary with it under `state_dict`.

    Returns:
        Names of the classifier's weights that were left out because they are for another number of classes.

    Raises:
        ValueError: Weights are missing, unknown or of another shape.
    """
    source = {key: key for key in net.state_dict() if key.startswith(("segments.", "embeddings."))}
    for name, e in zip(net.head_of, net.route, strict=True):
        source |= {f"heads.{name}.{key}": f"heads.{e.depth}.{key}" for key in net.heads[name].state_dict()}
    elsewhere = tuple(
        f"{part}.{depth}."
        for part in ("embeddings", "heads")
        for depth in range(1, len(net.segments) + 1)
        if str(depth) not in net.embeddings
    )
    return load_renamed(net, checkpoint, _renamed, source, "this MSDNet", elsewhere)


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key
