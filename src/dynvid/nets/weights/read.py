"""Weights in a file: of the backbone for timm, of dynvid, of the temporal shift module, or of MSDNet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dynvid.errors import InputError, MissingFileError
from dynvid.nets.grid import Grid
from dynvid.nets.weights.msdnet import load_msdnet_checkpoint
from dynvid.nets.weights.renamed import load_renamed
from dynvid.nets.weights.tsm import load_tsm_checkpoint


class Weights(NamedTuple):
    """What there is to load.

    Attributes:
        kind: Whose weights they are; the backbone's are for timm to read.
        path: The file, or True for those that timm fetches, False for none.
        content: What is in the file.
    """

    kind: Literal["timm", "dynvid", "tsm", "msdnet"]
    path: bool | str
    content: Mapping[str, Any] = {}

    @property
    def for_timm(self) -> bool | str:
        """What timm is told of it."""
        return self.path if self.kind == "timm" else False


def read_weights(path: bool | str, backbone: object) -> Weights:
    """What a file holds, told by the names in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, holds more than plain data, or is no file of weights.
    """
    if isinstance(path, bool):
        return Weights("timm", path)
    if not Path(path).is_file():
        raise MissingFileError(f"{path}: no such file of pretrained weights")
    if path.endswith(".safetensors"):
        return Weights("timm", path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises EOFError, OSError, RuntimeError, UnpicklingError on damaged files
        raise InputError(f"{path}: is no file of weights, is truncated, or holds more than plain data") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no weights by name")
    if "dynvid" in content:
        return Weights("dynvid", path, content)
    names = content.get("state_dict", content)
    if any(str(name).removeprefix("module.").startswith("base_model.") for name in names):
        return Weights("tsm", path, content)
    return Weights("msdnet" if backbone == "msdnet38" else "timm", path, content)


def load_weights(net: Grid, weights: Weights) -> None:
    """Load what `read_weights` found into a whole net; timm has loaded its own kind.

    Raises:
        ValueError: The weights are of another net; the message names the file.
    """
    load = {"dynvid": _load_dynvid, "tsm": load_tsm_checkpoint, "msdnet": load_msdnet_checkpoint}.get(weights.kind)
    if load is None:
        return
    try:
        load(net, weights.content)
    except ValueError as error:
        raise InputError(f"{weights.path}: {error}") from error


def _load_dynvid(net: Grid, content: Mapping[str, Any]) -> None:
    """Everything but classifiers for another number of classes, and heads that the checkpoint does not have."""
    given: dict[str, Tensor] = {
        key.removeprefix("net."): value for key, value in content["state_dict"].items() if key.startswith("net.")
    }
    heads = ("embeddings.", "heads.")
    own = net.state_dict()
    source = {key: key for key in own if key.startswith("segments.") or (key in given and key.startswith(heads))}
    load_renamed(net, given, str, source, "a net with this backbone and shift", (*heads, "mean", "std"))
