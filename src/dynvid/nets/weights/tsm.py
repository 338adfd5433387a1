"""Weights of the public temporal shift module (mit-han-lab/temporal-shift-module), for a ResNet with exits."""

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynvid.nets.grid import Grid
from dynvid.nets.weights.renamed import load_renamed

# From the authors' names to ours, for a ResNet of four stages; the stem belongs to the first segment.
_RENAMES = (
    (r"^module\.", ""),  # of DataParallel
    (r"^(?:new_fc|base_model\.fc)\.", "heads.4.1."),  # the second name is that of nets trained without dropout
    (r"^base_model\.layer([1-4])\.", lambda found: f"segments.{int(found[1]) - 1}.layer{found[1]}."),
    (r"^base_model\.", "segments.0."),
    (r"\.net\.", ".1."),  # of the shift that wraps a convolution
)


def from_tsm_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a ResNet trained with the authors' PyTorch code.

    The new names are those of an `ExitNet` with `heads="depth"`, with a shift if the checkpoint has one.

    Example:
        >>> import torch
        >>> list(from_tsm_keys({"module.base_model.layer2.0.conv1.net.weight": torch.zeros(1)}))
        ['segments.1.layer2.0.conv1.1.weight']
    """
    return {_renamed(key): value for key, value in state_dict.items()}


def load_tsm_checkpoint(net: Grid, checkpoint: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Load a TSM, or the authors' TSN, into a net with the same ResNet; its classifier becomes the deepest one.

    Args:
        net: The net, with `shift="none"` for a TSN, another one for a TSM; it stays as it was if anything is wrong.
        checkpoint: A file, or what is in it: the state dict, or a dictionary with it under `state_dict`.

    Returns:
        Names of the weights that stay as they were: those of the heads before the last depth, which the checkpoint
        does not have, and the last linear layer if it is for another number of classes.

    Raises:
        ValueError: Weights are missing, unknown or of another shape.
    """
    deepest = len(net.segments)
    own = net.state_dict()
    source = {key: key for key in own if key.startswith("segments.")}
    shallow = []
    for name, e in zip(net.head_of, net.route, strict=True):
        keys = net.heads[name].state_dict()
        if e.depth == deepest:
            source |= {f"heads.{name}.{key}": f"heads.{deepest}.{key}" for key in keys}
        else:
            shallow += [f"heads.{name}.{key}" for key in keys]
    left_out = load_renamed(net, checkpoint, _renamed, source, "this ResNet with this shift")
    return (*dict.fromkeys(shallow), *left_out)


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key
