"""Names of weights that do not tell whether a part of a net is compiled: `torch.compile` wraps it as `_orig_mod`."""

from typing import Any

from torch import nn


def plain_name(name: str) -> str:
    """The name of a tensor whatever part of the net `torch.compile` has wrapped."""
    return name.replace("_orig_mod.", "")


def drop_compiled_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Name what is saved as if nothing were compiled; a hook of `state_dict`."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + plain_name(name.removeprefix(prefix))] = state.pop(name)


def take_names_of(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Name what is loaded as the module does, compiled or not; a hook of `load_state_dict`."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    own = {plain_name(name): name for name, _ in tensors}
    for name in [name for name in state if name.startswith(prefix)]:
        plain = plain_name(name.removeprefix(prefix))
        state[prefix + own.get(plain, plain)] = state.pop(name)
