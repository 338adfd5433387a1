"""A net as plain data, and back."""

from typing import Any

from dynvid.errors import InputError
from dynvid.nets.exit_net import ExitNet


def net_from_spec(spec: dict[str, Any]) -> ExitNet:
    """Build the net that `ExitNet.spec` describes, with fresh weights.

    The class is looked up among the subclasses of ExitNet that are already imported; nothing is imported.

    Raises:
        ValueError: No such class is imported, or the description names weights to fetch.
    """
    known: list[type[ExitNet]] = [ExitNet]
    for cls in known:
        known += cls.__subclasses__()
    arguments = spec["init_args"]
    inner = arguments.get("backbone_args") or {}
    # Timm would open files, or the network, for these; a spec may come from a file that somebody else wrote.
    reaching_out = {"pretrained", *(k for k in inner if k.startswith(("pretrained", "checkpoint", "cache")))}
    if ":" in arguments.get("backbone", "") or reaching_out & (arguments.keys() | inner.keys()):
        raise InputError(f"the net's description names weights to fetch, {spec['init_args']}: it is refused")
    for cls in known:
        if f"{cls.__module__}.{cls.__qualname__}" == spec["class_path"]:
            return cls(**arguments)
    raise InputError(f"{spec['class_path']} is not an imported subclass of ExitNet: import its module first, in Python")
