"""Weights in a file: of the backbone for timm, of dynvid, of the temporal shift module, or of MSDNet."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from dynvid.errors import InputError, MissingFileError
from dynvid.nets.msdnet import load_msdnet_checkpoint
from dynvid.nets.stages import load_renamed
from dynvid.nets.tsm import load_tsm_checkpoint

if TYPE_CHECKING:
    from dynvid.nets.exit_net import ExitNet

Kind = Literal["timm", "dynvid", "tsm", "msdnet"]


def read_weights(path: str, backbone: object) -> tuple[Kind, dict[str, Any]]:
    """What a file holds, told by the names in it, and its content where it is not for timm to read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, holds more than plain data, or is no file of weights.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"{path}: no such file of pretrained weights")
    if path.endswith(".safetensors"):
        return "timm", {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises EOFError, OSError, RuntimeError, UnpicklingError on damaged files
        raise InputError(f"{path}: is no file of weights, is truncated, or holds more than plain data") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no weights by name")
    if "dynvid" in content:
        return "dynvid", content
    names = content.get("state_dict", content)
    if any(str(name).removeprefix("module.").startswith("base_model.") for name in names):
        return "tsm", content
    return ("msdnet" if backbone == "msdnet38" else "timm"), content


def load_weights(net: "ExitNet", kind: Kind, content: Mapping[str, Any], path: str) -> None:
    """Load what `read_weights` found into a whole net.

    Raises:
        ValueError: The weights are of another net; the message names the file.
    """
    try:
        if kind == "tsm":
            load_tsm_checkpoint(net, content)
        elif kind == "msdnet":
            load_msdnet_checkpoint(net, content)
        elif kind == "dynvid":
            _load_dynvid(net, content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _load_dynvid(net: "ExitNet", content: Mapping[str, Any]) -> None:
    """Everything but classifiers for another number of classes, and heads that the checkpoint does not have."""
    given: dict[str, Tensor] = {
        key.removeprefix("net."): value for key, value in content["state_dict"].items() if key.startswith("net.")
    }
    heads = ("embeddings.", "heads.")
    own = net.state_dict()
    source = {key: key for key in own if key.startswith("segments.") or (key in given and key.startswith(heads))}
    load_renamed(net, given, str, source, "a net with this backbone and shift", (*heads, "mean", "std"))
