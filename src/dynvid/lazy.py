"""Names of a package that are imported when they are first asked for (PEP 562)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazily(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names are imported when they are first asked for.

    The package says the same imports under `TYPE_CHECKING`, for type checkers, and lists the names in `__all__`. None
    may be named as a file of the package is: once that is imported, it would be found instead.

    Args:
        package: Its `__name__`.
        names: What it takes from each module, given by its full name.

    Returns:
        `__getattr__`, which knows the files of the package too, imported or not, and `__dir__`.

    >>> get, _ = lazily("dynvid", {"dynvid.text": ["printable"]})
    >>> get("printable")("a")
    'a'
    """
    homes = {name: module for module, listed in names.items() for name in listed}

    def get(name: str) -> Any:
        if name in homes:
            value = getattr(import_module(homes[name]), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}"):
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        setattr(sys.modules[package], name, value)  # found at once from now on
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, listed
