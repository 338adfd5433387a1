"""Temporal shift: a free exchange of features between frames, before the first layer of a residual branch.

Activations are frame-major, (n * B, C, H, W): the B videos of frame 0, then those of frame 1, and so on. So the
frames before and after are a slice away, and memory formats survive.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Shift = Literal["online", "bidirectional", "none"]
ShiftMemory = dict[int, Tensor]

# The layer that a residual branch begins with, by the name of timm's block class.
FIRST_LAYER = {
    "BasicBlock": "conv1",
    "Bottleneck": "conv1",
    "InvertedResidual": "conv_pw",
    "DepthwiseSeparableConv": "conv_dw",
    "EdgeResidual": "conv_exp",
    "ConvNeXtBlock": "conv_dw",
    "DenseInput": "first",  # MSDNet's, not a residual branch
}


@dataclass
class Frames:
    """Which frames a segment is run on: `fresh[i]` says that frame i begins a group.

    `memory` holds, by shift layer, what the last frame of the previous run hands on; a run with `remember` leaves
    its own there.
    """

    fresh: tuple[bool, ...]
    memory: ShiftMemory = field(default_factory=dict)
    remember: bool = False


_frames: ContextVar[Frames] = ContextVar("dynvid_frames")


@contextmanager
def running(frames: Frames) -> Iterator[None]:
    """Tell the shift layers which frames they see; a context variable, so that threads and streams may interleave."""
    token = _frames.set(frames)
    try:
        yield
    finally:
        _frames.reset(token)


class OnlineTemporalShift(nn.Module):
    """Give each frame the first C // div channels of the previous frame of its group, zeros to the first one.

    Causal, so a progressive walk that keeps one slice per layer equals one full pass. After Lin et al., TSM, ICCV
    2019 (the uni-directional form), with the groups of Wu et al., CVPRW 2020.

    Args:
        div: One channel in `div` is shifted (8 in TSM).
    """

    def __init__(self, div: int = 8) -> None:
        super().__init__()
        self.div = div

    def forward(self, x: Tensor) -> Tensor:
        """(n * B, C, H, W) -> the same shape."""
        frames = _current_frames()
        count, fold = len(frames.fresh), x.shape[1] // self.div
        batch = x.shape[0] // count
        shifted = x[:, :fold]
        earlier: list[Tensor] = []
        begins = [0, *(t for t in range(1, count) if frames.fresh[t]), count]
        for begin, end in itertools.pairwise(begins):
            first = torch.zeros_like(shifted[:batch]) if frames.fresh[begin] else frames.memory[id(self)]
            earlier.append(first)
            if end - begin > 1:  # an empty part would cost the memory format
                earlier.append(shifted[begin * batch : (end - 1) * batch])
        if frames.remember:
            frames.memory[id(self)] = shifted[-batch:].clone()  # a view would keep all of x alive
        return torch.cat([torch.cat(earlier), x[:, fold:]], dim=1)

    def extra_repr(self) -> str:
        """Show the fraction of channels that is shifted."""
        return f"div={self.div}"


class TemporalShift(nn.Module):
    """TSM's shift: C // div channels come from the next frame, as many from the previous one, zeros at both ends.

    It looks ahead, so it needs all frames in one run, in chronological order: a baseline, not for progressive nets.
    Lin et al., TSM, ICCV 2019.

    Args:
        div: One channel in `div` is shifted each way.
    """

    def __init__(self, div: int = 8) -> None:
        super().__init__()
        self.div = div

    def forward(self, x: Tensor) -> Tensor:
        """(n * B, C, H, W) -> the same shape."""
        batch, fold = x.shape[0] // len(_current_frames().fresh), x.shape[1] // self.div
        from_next, from_previous, rest = x[:, :fold], x[:, fold : 2 * fold], x[:, 2 * fold :]
        zeros = torch.zeros_like(from_next[:batch])
        later = torch.cat([from_next[batch:], zeros])
        earlier = torch.cat([zeros, from_previous[:-batch]])
        return torch.cat([later, earlier, rest], dim=1)

    def extra_repr(self) -> str:
        """Show the fraction of channels that is shifted."""
        return f"div={self.div}"


def insert_shift(segments: nn.ModuleList, kind: Shift, div: int) -> None:
    """Put a shift before the first layer of every residual branch; the identity path stays as it is.

    Backbones with a stage of 23 blocks or more (ResNet-101) get it in every second block, as TSM does.

    Raises:
        ValueError: No residual branch of a known kind was found.
    """
    if kind == "none":
        return
    stages = [[block for block in segment.modules() if _has_branch(block)] for segment in segments]
    residual = [[block for block in blocks if type(block).__name__ != "DenseInput"] for blocks in stages]
    step = 2 if max(map(len, residual)) >= 23 else 1
    if not any(stages):
        raise ValueError(f"no residual branch to shift in (known: {', '.join(FIRST_LAYER)}): use shift='none'")
    for block in (block for blocks in stages for block in blocks[::step]):
        shift = OnlineTemporalShift(div) if kind == "online" else TemporalShift(div)
        name = FIRST_LAYER[type(block).__name__]
        setattr(block, name, nn.Sequential(shift, getattr(block, name)))


def _has_branch(block: nn.Module) -> bool:
    return type(block).__name__ in FIRST_LAYER and getattr(block, "has_skip", True)


def _current_frames() -> Frames:
    try:
        return _frames.get()
    except LookupError:
        raise RuntimeError("a temporal shift runs inside an ExitNet only: call the net, not its backbone") from None
