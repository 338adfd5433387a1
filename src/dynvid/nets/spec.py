"""A net from its description and its weights, both of which may come from somebody else's file."""

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dynvid.errors import DynvidError, InputError
from dynvid.nets.description import check_plain, said, shown
from dynvid.nets.exit_net import ExitNet
from dynvid.nets.weights.file import check_fit, check_tensors, storage_bytes


def net_from_spec(spec: Mapping[str, Any]) -> ExitNet:
    """Build the net that `ExitNet.spec` describes, with fresh weights.

    The class is looked up among the subclasses of ExitNet that are already imported; nothing is imported.

    Raises:
        ValueError: No such class is imported, or the description is not one of its nets, or names weights to fetch.
    """
    cls, arguments = _looked_up(spec)
    try:
        return cls(**arguments)
    except DynvidError:
        raise
    except Exception as error:  # whatever the class or its backbone raises, the description is at fault
        raise InputError(f"the net's description fits no {cls.__name__} ({said(error)})") from error


def net_from_state(spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> ExitNet:
    """Build the net that `ExitNet.spec` describes and load its weights.

    Nothing is built until both are known to fit, so a description cannot ask for more than its weights take.

    Args:
        spec: The description.
        state: The state dict of the net.

    Raises:
        ValueError: See `net_from_spec`; or the weights are not of this net, or not finite.
    """
    check_tensors(state)
    shadow = _shadow(spec, most=2 * len(state) + 100)  # twice: backbones set some of their parameters again
    if shadow is not None:
        like = shadow.state_dict()
        check_fit(state, like, "the net that it describes")
        numbers = sum(x.numel() for x in (*shadow.parameters(), *shadow.buffers()))
        if numbers > storage_bytes(state):
            raise InputError("the checkpoint describes a net that takes more memory than its weights")
        shadow.load_state_dict({name: x.to(like[name].dtype) for name, x in state.items()}, assign=True)
        if not _is_meta(shadow):  # building once is enough: no weights were drawn that are replaced now
            return shadow.to(memory_format=torch.channels_last)
    net = net_from_spec(spec)
    check_fit(state, net.state_dict(), "the net that it describes")
    net.load_state_dict(state)
    return net


def _looked_up(spec: Mapping[str, Any]) -> tuple[type[ExitNet], dict[str, Any]]:
    """The class that a description names, and its arguments."""
    if not isinstance(spec, Mapping) or not {"class_path", "init_args"} <= spec.keys():
        raise InputError(f"the net's description is {shown(spec)}: it needs class_path and init_args")
    name, arguments = spec["class_path"], spec["init_args"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise InputError("the net's description: class_path must be text, and init_args arguments by name")
    check_plain("init_args", arguments)
    backbone, inner = arguments.get("backbone", ""), arguments.get("backbone_args") or {}
    if not isinstance(backbone, str) or not isinstance(inner, dict):
        raise InputError("the net's description: backbone must be a name, and backbone_args arguments by name")
    # Timm would open files, or the network, for these.
    reaching_out = {"pretrained", *(k for k in inner if k.startswith(("pretrained", "checkpoint", "cache")))}
    if ":" in backbone or reaching_out & (arguments.keys() | inner.keys()):
        raise InputError(f"the net's description names weights to fetch, {shown(arguments)}: it is refused")
    known: list[type[ExitNet]] = [ExitNet]
    for cls in known:
        known += cls.__subclasses__()
    for cls in known:
        if f"{cls.__module__}.{cls.__qualname__}" == name:
            parameters = inspect.signature(cls).parameters.values()
            unknown = arguments.keys() - {p.name for p in parameters}
            if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
                raise InputError(f"the net's description: {cls.__name__} has no argument {shown(min(unknown))}")
            return cls, arguments
    raise InputError(f"{shown(name)[1:-1]} is not an imported subclass of ExitNet: import its module first, in Python")


def _is_meta(net: nn.Module) -> bool:
    """Whether something in a net has no values: buffers that are not saved, and tensors in plain attributes."""
    kept = (x for module in net.modules() for x in vars(module).values() if isinstance(x, Tensor))
    return any(x.is_meta for x in (*net.parameters(), *net.buffers(), *kept))


def _shadow(spec: Mapping[str, Any], most: int) -> ExitNet | None:
    """The net without memory for its weights; None where its class cannot be built so."""
    cls, _ = _looked_up(spec)
    try:
        with torch.device("meta"), _at_most(most) as parameters:
            return net_from_spec(spec)
    except InputError:
        if cls.__init__ is ExitNet.__init__ or len(parameters) > most:
            raise
        return None  # a class of your own may compute with values as it is built, which meta tensors do not have


@contextmanager
def _at_most(most: int) -> Iterator[list[str]]:
    """Stop building where a net has more parameters than there are weights for it; gives their names so far."""
    names: list[str] = []
    builder = threading.get_ident()  # the hook is called for all threads

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if threading.get_ident() == builder:
            names.append(name)
            if len(names) > most:
                raise InputError("the checkpoint describes a net of many more weights than it holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield names
    finally:
        hook.remove()
