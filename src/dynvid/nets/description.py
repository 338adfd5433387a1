"""What the arguments of a net may be: checked before it is built, since they may come from somebody else's file."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from dynvid.errors import InputError

LARGEST = {"num_classes": 1_000_000, "num_frames": 4096, "input_size": 8192, "shift_div": 4096}
LARGEST_CLIP = 2**28  # pixels: 4096 frames of 256 x 256, 256 of 1024 x 1024
# Of numbers in backbone_args: widths and depths of real nets lie far below. Images of this side are really made.
LARGEST_NUMBER, LARGEST_IMAGE = 16_384, 1024
MOST_VALUES, DEEPEST, LONGEST_TEXT = 10_000, 8, 1000


def check_arguments(given: Mapping[str, Any]) -> None:
    """Check types and ranges of the arguments of `ExitNet`, by name.

    Raises:
        ValueError: One of them is of another type, or out of its range.
    """
    for name, largest in LARGEST.items():
        if not _is_whole(given[name]) or not 1 <= given[name] <= largest:
            raise InputError(f"{name}={shown(given[name])}: give a whole number from 1 to {largest}")
    frames, size = given["num_frames"], given["input_size"]
    if frames * size**2 > LARGEST_CLIP:
        raise InputError(f"num_frames={frames} of input_size={size}: more than {LARGEST_CLIP} pixels in one clip")
    dropout = given["dropout"]
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise InputError(f"dropout={shown(dropout)}: give a number from 0 to 1")
    if not isinstance(given["frame_order"], str | None):
        raise InputError(f"unknown frame order {shown(given['frame_order'])}: give a name")
    if given["heads"] not in ("depth", "exit"):
        raise InputError(f"heads={shown(given['heads'])}: use depth or exit")
    if not isinstance(given["pretrained"], bool | str):
        raise InputError(f"pretrained={shown(given['pretrained'])}: give true, false or the path of a file")
    route = given["route"]
    if route is not None and not (isinstance(route, Sequence) and all(map(_is_pair, route))):
        raise InputError(f"route={shown(route)}: give pairs of whole numbers (frames, depth)")
    arguments = given["backbone_args"]
    if not isinstance(arguments, dict | None):
        raise InputError(f"backbone_args={shown(arguments)}: give arguments by name")
    check_plain("backbone_args", arguments)
    _check_sizes("backbone_args", arguments)


def check_plain(name: str, value: Any) -> None:
    """Check that a value is what JSON could hold, of a size that a person could have written.

    Raises:
        ValueError: It holds something else, is very large, or contains itself.
    """
    left, found = [(name, value, 0)], 0
    while left:
        where, x, depth = left.pop()
        found += 1
        if found > MOST_VALUES or depth > DEEPEST:
            raise InputError(f"{name}: holds more than {MOST_VALUES} values, or lists in lists in lists without end")
        if isinstance(x, dict):
            if not all(isinstance(key, str) and len(key) <= LONGEST_TEXT for key in x):
                raise InputError(f"{where}: its keys must be short text")
            left += [(f"{where}.{shown(key)[1:-1]}", inner, depth + 1) for key, inner in x.items()]
        elif isinstance(x, list | tuple):
            left += [(f"{where}[{i}]", inner, depth + 1) for i, inner in enumerate(x)]
        elif isinstance(x, str):
            if len(x) > LONGEST_TEXT:
                raise InputError(f"{where}: a text of {len(x)} characters")
        elif isinstance(x, int | float):
            if not (abs(x) <= 2**53 if isinstance(x, int) else math.isfinite(x)):
                raise InputError(f"{where}: a number that is not finite, or far too large")
        elif x is not None:
            raise InputError(
                f"{where} must be plain data, so that checkpoints can hold it, and is of type {type(x).__name__}"
            )


def shown(value: object) -> str:
    """A value in a message: in one line, and short."""
    try:
        return " ".join(_short.repr(value).split())
    except Exception:  # whole numbers of thousands of digits have no text
        return f"a value of type {type(value).__name__}"


def said(error: Exception) -> str:
    """What somebody else's error says: in one line, and short."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(cell: object) -> bool:
    return isinstance(cell, list | tuple) and len(cell) == 2 and all(map(_is_whole, cell))


def _check_sizes(where: str, value: Any, largest: int = LARGEST_NUMBER) -> None:
    """What timm makes of a number is not bounded by what the number takes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_sizes(f"{where}.{key}", inner, LARGEST_IMAGE if key == "img_size" else largest)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_sizes(where, inner, largest)
    elif isinstance(value, int) and abs(value) > largest:
        raise InputError(f"{where}: {value} is more than {largest}")
