"""Files of weights, which may come from strangers: nothing in them is run, and nothing is larger than the file."""

import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynvid.errors import InputError, MissingFileError
from dynvid.nets.description import shown

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_file(path: str | os.PathLike[str], what: str, map_location: Any = "cpu") -> Any:
    """Read what `torch.save` wrote, plain data and tensors only.

    Args:
        path: The file.
        what: What it should be, for the error.
        map_location: See `torch.load`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, compressed, or holds more than plain data.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"{path}: no such {what}")
    try:
        sound = _is_sound(path)
        content = torch.load(path, map_location=map_location, weights_only=True) if sound else None
    except Exception as error:  # EOFError, OSError, RuntimeError, UnpicklingError and more on damaged files
        raise InputError(f"{path}: is no {what}, is truncated, or holds more than plain data") from error
    if not sound:
        raise InputError(f"{path}: is no {what} as torch.save writes it: a part is damaged, or compressed")
    return content


def check_tensors(state: object, may_be_infinite: Iterable[str] = ()) -> None:
    """Check that a state dict holds tensors by name, whole and finite.

    Raises:
        ValueError: A name is no text, or a value is no dense tensor of real numbers, is not all there, or not finite.
    """
    if not isinstance(state, Mapping):
        raise InputError(f"holds {type(state).__name__} where weights by name should be")
    for name, value in state.items():
        if not isinstance(name, str):
            raise InputError(f"weight {shown(name)}: its name is no text")
        wrong = _wrong(value, name in may_be_infinite)
        if wrong:
            raise InputError(f"weight {listed([name])}: {wrong}")


def check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    """Compare names, shapes and types of a state dict with those of the module that is to load it.

    Args:
        state: The state dict.
        own: The module's own.
        what: What the module is, for the error.

    Raises:
        ValueError: They are not the same.
    """
    both = [name for name in own if name in state]
    refuse(
        what,
        {
            "missing": [name for name in own if name not in state],
            "unknown": [name for name in state if name not in own],
            "of another shape": [name for name in both if state[name].shape != own[name].shape],
            "of another type": [name for name in both if not same_type(state[name], own[name])],
        },
    )


def refuse(what: str, problems: Mapping[str, list[str]]) -> None:
    """Raise where there are problems: names of weights, by what is wrong with them.

    Raises:
        ValueError: There are.
    """
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise InputError(f"the checkpoint is not of {what}: {'; '.join(found)}")


def same_type(one: Tensor, other: Tensor) -> bool:
    """Whether both are floating point, of any precision, or of the same other type."""
    return one.dtype == other.dtype or (one.is_floating_point() and other.is_floating_point())


def listed(names: list[str], most: int = 5) -> str:
    """The first few names, in one line."""
    return ", ".join(shown(name)[1:-1] for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def storage_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes that the tensors take together; what they share counts once."""
    storages = [value.untyped_storage() for value in state.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _is_sound(path: str | os.PathLike[str]) -> bool:
    """Whether every part of a zip file has its checksum, and none unfolds into more than the file; others are."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return True  # as torch wrote them before 1.6; their tensors are read as they lie
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        unfolds = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        unfolds |= sum(part.file_size for part in parts) > os.path.getsize(path)
        return not unfolds and archive.testzip() is None


def _wrong(value: object, may_be_infinite: bool) -> str:
    """What is wrong with a weight; empty if nothing is."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"is of type {type(value).__name__}, not a tensor"
    assert isinstance(value, Tensor)
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
        return "is no dense tensor with values"
    if value.is_complex() or (value.is_floating_point() and value.dtype not in _FLOATS):
        return f"is of type {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"says shape {tuple(value.shape)}, but repeats fewer values"
    if value.is_floating_point() and value.numel():
        least, most = (float(x) for x in torch.aminmax(value.detach()))  # both are NaN if one value is
        if math.isnan(least) or not (may_be_infinite or math.isfinite(most - least)):
            return "holds values that are not finite"
    return ""
