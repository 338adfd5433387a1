"""Batch norm folded into the convolution or linear layer before it, where a run of the net proves that it may be."""

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from dynvid.errors import InputError
from dynvid.nets import ExitNet
from dynvid.nets.activations import Activations
from dynvid.nets.shift import Frames

TOLERANCE = 1e-4  # of the largest activation; folding moves float32 by about 1e-6 of it
LAYERS = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
FRAMES = Frames((True, False))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


@torch.no_grad()
def fold_batch_norm(net: ExitNet) -> int:
    """Fold away the batch norms of a float32 net in eval mode, in place; it answers as before, to rounding.

    Each segment, embedding and head is run on two small frames. A batch norm is folded where this run shows that it
    reads what a layer gave, that nothing else reads that, and that both ran once. A part that then answers otherwise
    is left as it was.

    Returns:
        Batch norms that are gone.

    Example:
        >>> from dynvid import ExitNet
        >>> fold_batch_norm(ExitNet("test_resnet", num_classes=5, num_frames=2).eval())
        15
    """
    where = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    shared = {module for module, times in where.items() if times > 1}
    gone = 0

    def fold(parts: nn.ModuleList | nn.ModuleDict, name: str, x: Activations, run: Callable[[Any], Any]) -> Any:
        nonlocal gone
        seen = _Watch()
        with seen:
            expected = run(_copied(x))
        as_it_was = parts.get_submodule(name)
        folded = copy.deepcopy(as_it_was)
        count = _fold(folded, _proven(as_it_was, seen, shared))
        setattr(parts, name, folded)
        if _agree(run(_copied(x)), expected):
            gone += count
        else:
            setattr(parts, name, as_it_was)
        return expected

    x: Activations = _two_frames(net)
    for depth in range(1, len(net.segments) + 1):
        x = fold(net.segments, str(depth - 1), x, partial(net.run_segment, depth, frames=FRAMES))
        if str(depth) in net.embeddings:
            embedded = fold(net.embeddings, str(depth), x, partial(net.embed, depth))
            for name in {name for name, e in zip(net.head_of, net.route, strict=True) if e.depth == depth}:
                fold(net.heads, name, embedded, partial(_run, net.heads, name))
    return gone


def _run(parts: nn.ModuleDict, name: str, x: Tensor) -> Tensor:
    y: Tensor = parts[name](x)
    return y


class _Watch(TorchFunctionMode):
    """Sees which batch norm reads which layer's output.

    Attributes:
        pairs: Of each such batch norm, its running mean, the layer's weight and its output.
        calls: How often each weight or running mean, by `id`, was used.
        reads: How often each layer's output, by `id`, was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.calls: Counter[int] = Counter()
        self.reads: Counter[int] = Counter()
        self._weight_of: dict[int, tuple[Tensor, Tensor]] = {}  # holds the outputs, so that no `id` is used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(isinstance(x, Tensor) for x in tree_leaves(result)):  # the rest asks for shapes and the like
            self.reads.update(id(x) for x in given)
        if func in LAYERS:
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            self.calls[id(weight)] += 1
            self._weight_of[id(result)] = weight, result
            self.reads[id(result)] = 0  # what was counted is of a tensor that is gone
        elif func is F.batch_norm and len(args) > 1 and id(args[0]) in self._weight_of and args[1] is not None:
            self.calls[id(args[1])] += 1
            self.pairs.append((args[1], *self._weight_of[id(args[0])]))
        return result


def _proven(part: nn.Module, seen: _Watch, shared: set[int]) -> list[tuple[str, str]]:
    """Names of layers and of the batch norms that can be folded into them."""
    names = {module: name for name, module in part.named_modules() if name and id(module) not in shared}
    layers = {id(m.weight): m for m in names if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)}
    norms = {id(m.running_mean): m for m in names if type(m) in NORMS and not m.training}
    pairs = []
    for mean, weight, output in seen.pairs:
        once = seen.calls[id(mean)] == seen.calls[id(weight)] == seen.reads[id(output)] == 1
        layer, norm = layers.get(id(weight)), norms.get(id(mean))
        rows = not isinstance(layer, nn.Linear) or output.dim() == 2  # else batch norm takes tokens for channels
        if layer is not None and norm is not None and once and rows:
            pairs.append((names[layer], names[norm]))
    return pairs


def _fold(part: nn.Module, pairs: list[tuple[str, str]]) -> int:
    """Fold these batch norms into these layers."""
    for name, name_of_norm in pairs:
        layer: Any = part.get_submodule(name)
        norm: Any = part.get_submodule(name_of_norm)
        fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        layer.weight, layer.bias = fuse(layer.weight, layer.bias, *statistics)
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        parent, _, last = name_of_norm.rpartition(".")
        setattr(part.get_submodule(parent), last, rest.eval())
    return len(pairs)


def _agree(found: Activations, expected: Activations) -> bool:
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in pairs)


def _copied(x: Activations) -> Activations:
    copied: Activations = tree_map(torch.clone, x)  # a segment may overwrite what it is given
    return copied


def _two_frames(net: ExitNet) -> Tensor:
    """Two frames of noise, of 64 pixels where the net takes them so small."""
    noise = torch.Generator().manual_seed(0)
    for size in (64, net.input_size):
        frames = torch.randn(2, 3, size, size, generator=noise).to(net.device)
        frames = frames.contiguous(memory_format=torch.channels_last)
        x: Activations = frames
        try:
            for depth in range(1, len(net.segments) + 1):
                x = net.run_segment(depth, x, FRAMES)
        except Exception:  # whatever the backbone's own code raises at a size that it does not take
            continue
        return frames
    raise InputError(f"the net takes no videos of {net.input_size} x {net.input_size} pixels: set input_size")
