"""What an exit costs, counted on the program that deployment runs."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynvid.errors import InputError


class Walk(Protocol):
    """What counting asks of a walk along a route; `Stream` is one."""

    @property
    def finished(self) -> bool:
        """Whether the last exit was taken."""

    def advance(self) -> Tensor:
        """Compute what the next exit needs."""


class Countable(Protocol):
    """What counting asks of a net; `ExitNet` is one."""

    input_size: int
    num_frames: int
    mean: Tensor

    def to(self, device: str) -> Self:
        """See `torch.nn.Module`, as for the next two."""

    def eval(self) -> Self:
        """See `to`."""

    def requires_grad_(self, requires_grad: bool) -> Self:
        """See `to`."""


class Walkable(Countable, Protocol):
    """What counting along a route asks of a net."""

    def stream(self, video: Tensor, *, exits: Sequence[int] | None = None) -> Walk:
        """A walk over the exits at these positions."""


Net = TypeVar("Net", bound=Countable)


def count_gmacs(net: Walkable, size: int | None = None, exits: Sequence[int] | None = None) -> tuple[float, ...]:
    """GMACs per video up to each exit, with every head evaluated on the way.

    One MAC is one multiply-add of a convolution, matrix product or attention; the papers' "FLOPs". The streaming
    program runs on meta tensors, so nothing is computed.

    Args:
        net: The net; it is not changed.
        size: Height and width in pixels, `net.input_size` by default.
        exits: Positions on the route to count, all by default; `[-1]` is full inference.

    Returns:
        Cumulative GMACs in the order of `exits`.

    Raises:
        ValueError: The net takes no videos of that size.

    Example:
        >>> from dynvid import DepthExitNet
        >>> net = DepthExitNet("test_resnet", num_classes=5, num_frames=2, input_size=64)
        >>> [round(gmacs, 4) for gmacs in count_gmacs(net)]
        [0.0291, 0.0307, 0.0328]
    """
    counted = []
    with counting(net, size or net.input_size) as (shadow, video, so_far):
        stream = shadow.stream(video, exits=exits)
        while not stream.finished:
            stream.advance()
            counted.append(so_far())
    return tuple(counted)


@contextmanager
def counting(net: Net, size: int) -> Iterator[tuple[Net, Tensor, Callable[[], float]]]:
    """Count what is run inside: gives a copy of the net and a video, both on meta, and the GMACs so far.

    Raises:
        ValueError: What is run inside fails, since the net takes no videos of that size.
    """
    # Without gradients, which the counter would follow back even under no_grad.
    shadow = copy.deepcopy(net).to("meta").eval().requires_grad_(False)
    video = torch.empty(1, net.num_frames, 3, size, size, device="meta", dtype=shadow.mean.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        try:
            yield shadow, video, lambda: counter.get_total_flops() / 2e9
        except Exception as error:  # whatever the backbone's own code raises, what the user can do is the same
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"the net takes no videos of {size} x {size} pixels ({why}): set input_size") from error


class CellCosts(NamedTuple):
    """What cells of the grid cost, in GMACs; the cost of every route over them is a sum of these.

    Attributes:
        depths: The D depths that may carry an exit, ascending.
        segments: Of one frame up to each of these depths, D numbers.
        embeddings: Of one frame's embedding there, D numbers.
        heads: Of one answer there, D numbers.

    Example:
        >>> costs = CellCosts(depths=(1, 2), segments=(1.0, 3.0), embeddings=(0.25, 0.5), heads=(0.125, 0.0))
        >>> costs.of([(1, 1), (2, 1), (2, 2)])
        (1.375, 2.75, 7.75)
    """

    depths: tuple[int, ...]
    segments: tuple[float, ...]
    embeddings: tuple[float, ...]
    heads: tuple[float, ...]

    def of(self, route: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        """Cumulative GMACs per video up to each exit (frames, depth) of a valid route, as `count_gmacs` gives them."""
        embedded: dict[int, int] = {}
        counted, heads = [], 0.0
        for frames, depth in route:
            d = self.depths.index(depth)
            embedded[d] = frames  # what was embedded is never embedded again
            heads += self.heads[d]
            embedding = sum(n * self.embeddings[at] for at, n in embedded.items())
            counted.append(frames * self.segments[d] + embedding + heads)
        return tuple(counted)
