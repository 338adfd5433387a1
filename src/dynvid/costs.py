"""What an exit costs, counted on the program that deployment runs."""

import copy
from collections.abc import Sequence
from typing import Protocol, Self

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


class Walkable(Protocol):
    """What counting asks of a net; `ExitNet` is one."""

    input_size: int
    num_frames: int
    mean: Tensor

    def stream(self, video: Tensor, *, exits: Sequence[int] | None = None) -> Walk:
        """A walk over the exits at these positions."""

    def to(self, device: str) -> Self:
        """See `torch.nn.Module`, as for the next two."""

    def eval(self) -> Self:
        """See `to`."""

    def requires_grad_(self, requires_grad: bool) -> Self:
        """See `to`."""


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
    size = size or net.input_size
    # Without gradients, which the counter would follow back even under no_grad.
    shadow = copy.deepcopy(net).to("meta").eval().requires_grad_(False)
    video = torch.empty(1, net.num_frames, 3, size, size, device="meta", dtype=shadow.mean.dtype)
    counted = []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stream = shadow.stream(video, exits=exits)
        try:
            while not stream.finished:
                stream.advance()
                counted.append(counter.get_total_flops() / 2e9)
        except Exception as error:  # whatever the backbone's own code raises, what the user can do is the same
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"the net takes no videos of {size} x {size} pixels ({why}): set input_size") from error
    return tuple(counted)
