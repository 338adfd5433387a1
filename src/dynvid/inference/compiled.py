"""Segments compiled by inductor with their weights frozen in: one graph for all frames, batch sizes and memories."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from dynvid.errors import InputError
from dynvid.inference.shifted import Shifted
from dynvid.nets import ExitNet
from dynvid.nets.activations import Activations
from dynvid.nets.shift import OnlineTemporalShift, TemporalShift

# Activations that oneDNN computes along with a convolution, by their function: its name for them, and their numbers.
FUSED: dict[Any, tuple[str, list[float]]] = {
    F.relu: ("relu", []),
    F.relu6: ("hardtanh", [0.0, 6.0]),
    F.hardswish: ("hardswish", []),
    F.silu: ("swish", []),
}


class CompiledSegment(nn.Module):
    """A segment that is compiled when it first runs; without gradients.

    Shifts are islands in its graph, one opaque operation each: the frames that a shift sees and what it remembers of
    those before are known only when it runs. So one graph with a free number of rows serves all; one row alone, which
    compilers take for a case of its own, gets a second.

    Args:
        segment: In eval mode, on its device and in its precision.

    Attributes:
        images: How many it is run on at a time: more than eager ones, since a graph uses its memory again.
    """

    images = 16

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment
        self.islands = _islands(segment)  # parts of the segment already
        self._compiled: Callable[[Any], Activations] = torch.compile(
            segment.forward, backend=self._compile, fullgraph=True
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(self.segment, memo))

    @torch.no_grad()
    def forward(self, x: Activations) -> Activations:
        """Activations -> activations."""
        leaves = tree_leaves(x)
        if leaves[0].is_meta:  # costs are counted on the program as it was
            y: Activations = self.segment(x)
            return y
        if len(leaves[0]) > 1:
            for leaf in leaves:
                torch._dynamo.maybe_mark_dynamic(leaf, 0)
        with _inside(self.islands):
            try:
                return self._compiled(x)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise InputError(
                    f"the net cannot be compiled: use optimize='default' ({' '.join(str(error).split())[:200]})"
                ) from error

    def _compile(self, graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """Give islands the activation behind them, where nothing else reads what they give; inductor does the rest."""
        from torch._inductor.compile_fx import compile_fx

        for node in graph.graph.find_nodes(op="call_function", target=torch.ops.dynvid.island.default):
            reader = next(iter(node.users))
            name, _ = FUSED.get(reader.target, ("", []))
            if name and len(node.users) == 1 and self.islands[node.args[1]].packs:
                node.args = (*node.args[:2], name)
                reader.replace_all_uses_with(node)
                graph.graph.erase_node(reader)
        graph.recompile()
        return compile_fx(graph, inputs)


class Island(nn.Module):
    """A shift, alone or with its layer, of which a compiler sees one operation only.

    Args:
        inner: The shift.
        key: Its place among the islands of the segment.
    """

    def __init__(self, inner: nn.Module, key: int) -> None:
        super().__init__()
        self.inner, self.key = inner, key
        self._packed: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(self.inner, memo), self.key)  # what is packed cannot be copied

    @property
    def packs(self) -> bool:
        """Whether this is a convolution that oneDNN runs, which then computes the activation as well."""
        layer = self.inner.layer if isinstance(self.inner, Shifted) else None
        return type(layer) is nn.Conv2d and layer.weight.device.type == "cpu" and not isinstance(layer.padding, str)

    def forward(self, x: Tensor) -> Tensor:
        """As the shift does."""
        if torch.compiler.is_compiling():
            y: Tensor = torch.ops.dynvid.island.default(x, self.key, "none")
            return y
        z: Tensor = self.inner(x)
        return z

    def run(self, x: Tensor, activation: str) -> Tensor:
        """What the operation does; `activation` is oneDNN's name of the one behind a convolution that it runs."""
        if isinstance(self.inner, Shifted) and self.packs:
            return self.inner.read_by(partial(self._convolve, activation), x)
        y: Tensor = self.inner(x)
        return y

    def _convolve(self, activation: str, x: Tensor) -> Tensor:
        layer: Any = self.inner.layer
        how = (layer.padding, layer.stride, layer.dilation, layer.groups)
        if self._packed is None:  # compiled convolutions have it so too: eager ones reorder their weights each time
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(layer.weight, *how, None)
        numbers = dict(FUSED.values()).get(activation, [])
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self._packed, layer.bias, *how, activation, numbers, "")
        return y

    def fake(self, x: Tensor) -> Tensor:
        """A tensor without values, of the shape and memory format that `run` gives."""
        if not isinstance(self.inner, Shifted):
            return torch.empty_like(x)
        layer = self.inner.layer
        weights = {
            name: torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=p.device)
            for name, p in layer.named_parameters()
        }
        y: Tensor = torch.func.functional_call(layer, weights, (x,))
        return y


_running: ContextVar[Sequence[Island]] = ContextVar("dynvid_islands")


@torch.library.custom_op("dynvid::island", mutates_args=())
def _island(x: Tensor, key: int, activation: str) -> Tensor:
    return _running.get()[key].run(x, activation)


@_island.register_fake
def _(x: Tensor, key: int, activation: str) -> Tensor:
    return _running.get()[key].fake(x)


@contextmanager
def _inside(islands: Sequence[Island]) -> Iterator[None]:
    token = _running.set(islands)
    try:
        # Only while a compiled segment runs: these are settings of the process, which belongs to others.
        with torch._inductor.config.patch(freezing=True), torch._dynamo.config.patch(recompile_limit=64):
            yield
    finally:
        _running.reset(token)


def _islands(segment: nn.Module) -> list[Island]:
    """Turn the shifts of a segment into islands."""
    islands: list[Island] = []

    def replace(parent: nn.Module) -> None:
        for name, child in list(parent.named_children()):
            if isinstance(child, Island):
                islands.append(child)
            elif isinstance(child, Shifted | OnlineTemporalShift | TemporalShift):
                islands.append(Island(child, len(islands)))
                setattr(parent, name, islands[-1])
            else:
                replace(child)

    replace(segment)
    return islands


@torch.no_grad()
def warm_up(net: ExitNet, batch_sizes: Iterable[int]) -> float:
    """Compile a net for these numbers of videos before the first one has to wait; one takes a minute or more.

    Args:
        net: Prepared with `optimize="compile"`; any other net has nothing to compile.
        batch_sizes: Numbers of videos. One graph serves all steps of more than one frame of one video.

    Returns:
        Seconds that it took.
    """
    begun = time.perf_counter()
    for batch in batch_sizes:
        size = net.input_size
        stream = net.stream(torch.zeros(batch, net.num_frames, 3, size, size, dtype=torch.uint8))
        while not stream.finished:
            stream.advance()
    return time.perf_counter() - begun
