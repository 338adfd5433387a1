"""JSON that every parser reads."""

import json
import math
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    r"""JSON of plain data, in ASCII; a number that JSON does not have is null.

    A byte of a file name that is no UTF-8 is written as `\udc80` to `\udcff`, which `os.fsencode` turns back.

    >>> print(dumps({"probability": float("nan"), "path": "caf\udce9\n"}))
    {"probability": null, "path": "caf\udce9\n"}
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def named(number: float) -> float | str:
    """A number that may be infinite, by its name where it is; `float` reads both.

    >>> named(0.5), named(float("inf"))
    (0.5, 'inf')
    """
    return number if math.isfinite(number) else str(number)
