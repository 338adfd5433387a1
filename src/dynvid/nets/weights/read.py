"""Weights in a file: of the backbone for timm, of dynvid, of the temporal shift module, or of MSDNet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from dynvid.errors import InputError
from dynvid.nets.grid import Grid
from dynvid.nets.weights.file import read_file
from dynvid.nets.weights.msdnet import load_msdnet_checkpoint
from dynvid.nets.weights.renamed import load_renamed, weights_by_name
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

    @property
    def said(self) -> Mapping[str, Any]:
        """What a checkpoint of dynvid says of itself beside its weights; nothing where they are others'."""
        said = self.content.get("dynvid")
        return said if self.kind == "dynvid" and isinstance(said, Mapping) else {}


def read_weights(path: bool | str, backbone: object) -> Weights:
    """What a file holds, told by the names in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, holds more than plain data, or is no file of weights.
    """
    if isinstance(path, bool):
        return Weights("timm", path)
    if path.endswith(".safetensors") and Path(path).is_file():
        return Weights("timm", path)
    content = read_file(path, "file of weights")
    try:
        names = weights_by_name(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if "dynvid" in content:
        return Weights("dynvid", path, content)
    if any(name.removeprefix("module.").startswith("base_model.") for name in names):
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
        key.removeprefix("net."): value for key, value in weights_by_name(content).items() if key.startswith("net.")
    }
    heads = ("embeddings.", "heads.")
    own = net.state_dict()
    source = {key: key for key in own if key.startswith("segments.") or (key in given and key.startswith(heads))}
    load_renamed(net, given, str, source, "a net with this backbone and shift", (*heads, "mean", "std"))
