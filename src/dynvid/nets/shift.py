"""Temporal shift: a free exchange of features between frames, before the first layer of a residual branch.

Activations are frame-major, (n * B, C, H, W): the B videos of frame 0, then those of frame 1, and so on. So the
frames before and after are a slice away, and memory formats survive. Channels come last in tokens (n * B, L, C), and
in (n * B, H, W, C) where `dim=-1` says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynvid.errors import InputError, ModeError

Shift = Literal["online", "bidirectional", "none"]
ShiftMemory = dict[int, Tensor]
Moves = tuple[tuple[int, int, int], ...]

# The layer that a residual branch begins with, by the name of timm's block class: the first of these that it has.
FIRST_LAYER: dict[str, tuple[str, ...]] = {
    "BasicBlock": ("conv1", "conv1_kxk"),
    "Block": ("rep", "dwconv"),
    "Bottle2neck": ("conv1",),
    "Bottleneck": ("conv1",),
    "BottleneckBlock": ("conv1", "conv1_1x1"),
    "ConvBlock": ("conv_dw",),
    "ConvEncoder": ("dwconv",),
    "ConvNeXtBlock": ("conv_dw",),
    "CspNextBlock": ("conv1",),
    "DarkBlock": ("conv1", "conv1_1x1"),
    "DenseInput": ("first",),  # MSDNet's, not a residual branch
    "DepthwiseSeparableConv": ("conv_dw",),
    "DlaBasic": ("conv1",),
    "DlaBottleneck": ("conv1",),
    "DualPathBlock": ("c1x1_a",),
    "EdgeBlock": ("conv1", "conv1_kxk"),
    "EdgeResidual": ("conv_exp",),
    "EfficientFormerV2Block": ("token_mixer", "mlp"),
    "GatedConvBlock": ("fc1",),
    "GhostBottleneck": ("ghost1",),
    "InvertedResidual": ("conv_pw",),
    "LevitBlock": ("attn",),
    "LinearBottleneck": ("conv_exp", "conv_dw"),
    "MLPBlock": ("spatial_mixing",),
    "MbConvBlock": ("conv1_1x1", "conv_dw"),
    "MbConvLNBlock": ("conv1_1x1",),
    "MetaBlock2d": ("token_mixer",),
    "MetaNeXtBlock": ("token_mixer",),
    "MobileVitBlock": ("conv_kxk",),
    "NextConvBlock": ("mhca",),
    "NormFreeBlock": ("conv1",),
    "PreActBasic": ("conv1",),
    "PreActBottleneck": ("conv1",),
    "PreXceptionModule": ("stack",),
    "RepGhostBottleneck": ("ghost1",),
    "RepMixerBlock": ("mlp",),
    "RepViTBlock": ("channel_mixer",),
    "ResNestBottleneck": ("conv1",),
    "Residual": ("fn", "module", "m"),
    "ResidualBlock": ("main",),
    "ResidualDrop": ("m",),
    "SEBottleneck": ("conv1",),
    "SEResNeXtBottleneck": ("conv1",),
    "SEResNetBlock": ("conv1",),
    "SEResNetBottleneck": ("conv1",),
    "SelectiveKernelBasic": ("conv1",),
    "SelectiveKernelBottleneck": ("conv1",),
    "SelfAttnBlock": ("conv1_1x1",),
    "UniversalInvertedResidual": ("dw_start",),
    "XceptionModule": ("stack",),
}
# Transformers mix what `norm1` gives, some of them in windows; so the shift follows `norm1` rather than lead these.
MIXERS = ("attn", "token_mixer", "modulation", "rnn_tokens", "e_mhsa", "mlp_tokens", "linear_tokens")


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


def shift_frames(x: Tensor, first: Tensor | None, fresh: tuple[bool, ...], dim: int, moves: Moves) -> Tensor:
    """Move slices of channels to the next or previous frame of the same group, zeros into the frame left empty.

    One copy of x and one of each slice, forward and on the way back: what `torch.cat` of slices gives, at a copy's
    price. It sees nothing but its arguments.

    Args:
        x: n frames, frame-major (n * B, ...).
        first: What the first frame is given where it goes on with a group: the slice of the first move, (B, ...).
        fresh: Whether each of the n frames begins a group.
        dim: The dimension of the channels.
        moves: Slices (start, length, step): `step` 1 moves these channels to the next frame, -1 to the previous one.

    Returns:
        A tensor of the same shape and memory format.

    Raises:
        RuntimeError: The rows of x are not n frames, or those of `first` not one.

    Example:
        >>> x = torch.arange(1, 7).view(3, 2)  # three frames of one video, two channels
        >>> shift_frames(x, None, (True, False, False), 1, ((0, 1, 1),)).tolist()
        [[0, 2], [1, 4], [3, 6]]
    """
    if torch.compiler.is_exporting():
        return _joined(x, first, fresh, dim, moves)
    if torch.is_grad_enabled() and (x.requires_grad or (first is not None and first.requires_grad)):
        shifted: Tensor = _Shifted.apply(x, first, fresh, dim, moves)
        return shifted
    return _shift(x, first, fresh, dim, moves)


def _shift(x: Tensor, first: Tensor | None, fresh: tuple[bool, ...], dim: int, moves: Moves) -> Tensor:
    y = x.clone()  # in the memory format of x
    count, batch = len(fresh), len(x) // len(fresh) if first is None else len(first)
    begins = [0, *(t for t in range(1, count) if fresh[t])]
    for start, length, step in moves:
        old, new = (z.narrow(dim, start, length) for z in (x, y))
        old, new = (z.view(count, batch, *z.shape[1:]) for z in (old, new))
        if step == 1:
            new[1:] = old[:-1]
        else:
            new[:-1] = old[1:]
        for t in begins:
            new[t if step == 1 else t - 1] = 0  # the frame left empty: the first of a group, or the last one's
    if first is not None:
        start, length, _ = moves[0]
        y[:batch].narrow(dim, start, length).copy_(first)
    return y


def _joined(x: Tensor, first: Tensor | None, fresh: tuple[bool, ...], dim: int, moves: Moves) -> Tensor:
    """`_shift` by `cat`, for graphs of other runtimes, which have nothing like a slice that is written into."""
    count = len(fresh)
    batch = x.shape[0] // count if first is None else first.shape[0]  # not `len`, which would fix it in the graph
    parts, at = [], 0
    for k, (start, length, step) in enumerate(moves):
        old = x.narrow(dim, start, length)
        frames = [old[t * batch : (t + 1) * batch] for t in range(count)]
        none = torch.zeros_like(frames[0])
        begins = [t == 0 or fresh[t] for t in range(count)]
        if step == 1:
            new = [none if begins[t] else frames[t - 1] for t in range(count)]
            new[0] = first if k == 0 and first is not None else none
        else:
            new = [none if begins[(t + 1) % count] else frames[t + 1] for t in range(count)]
        parts += [x.narrow(dim, at, start - at), torch.cat(new)]
        at = start + length
    parts.append(x.narrow(dim, at, x.shape[dim] - at))
    return torch.cat([part for part in parts if part.shape[dim]], dim)


class _Shifted(torch.autograd.Function):
    """`_shift`, whose derivative is the move the other way: slices of `cat` would fill whole tensors with zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, first: Tensor | None, fresh: tuple[bool, ...], dim: int, moves: Moves) -> Tensor:
        return _shift(x, first, fresh, dim, moves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, first, *ctx.where = inputs
        ctx.goes_on = first is not None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (fresh, dim, moves) = gradients, ctx.where
        back = shift_frames(g, None, fresh, dim, tuple((start, length, -step) for start, length, step in moves))
        start, length, _ = moves[0]
        of_first = g[: len(g) // len(fresh)].narrow(dim, start, length).clone() if ctx.goes_on else None
        return back, of_first, None, None, None


class OnlineTemporalShift(nn.Module):
    """Give each frame the first C // div channels of the previous frame of its group, zeros to the first one.

    Causal, so a progressive walk that keeps one slice per layer equals one full pass. After Lin et al., TSM, ICCV
    2019 (the uni-directional form), with the groups of Wu et al., CVPRW 2020.

    Args:
        div: One channel in `div` is shifted (8 in TSM).
        dim: The dimension of the channels in images, 1 or -1; in tokens they come last.
    """

    def __init__(self, div: int = 8, dim: int = 1) -> None:
        super().__init__()
        self.div, self.dim = div, dim

    def forward(self, x: Tensor) -> Tensor:
        """(n * B, C, H, W), (n * B, H, W, C) or (n * B, L, C) -> the same shape."""
        frames, dim = current_frames(), _channel_dim(x, self.dim)
        fold = x.shape[dim] // self.div
        first = None if frames.fresh[0] else frames.memory[id(self)]
        if frames.remember:
            last = x.shape[0] - x.shape[0] // len(frames.fresh)
            frames.memory[id(self)] = x[last:].narrow(dim, 0, fold).clone()  # a view would keep all of x alive
        return shift_frames(x, first, frames.fresh, dim, ((0, fold, 1),))

    def extra_repr(self) -> str:
        """Show the fraction of channels that is shifted."""
        return f"div={self.div}"


class TemporalShift(nn.Module):
    """TSM's shift: C // div channels come from the next frame, as many from the previous one, zeros at both ends.

    It looks ahead, so it needs all frames in one run, in chronological order: a baseline, not for progressive nets.
    Lin et al., TSM, ICCV 2019.

    Args:
        div: One channel in `div` is shifted each way.
        dim: The dimension of the channels in images, 1 or -1; in tokens they come last.
    """

    def __init__(self, div: int = 8, dim: int = 1) -> None:
        super().__init__()
        self.div, self.dim = div, dim

    def forward(self, x: Tensor) -> Tensor:
        """(n * B, C, H, W), (n * B, H, W, C) or (n * B, L, C) -> the same shape."""
        dim = _channel_dim(x, self.dim)
        fold, one_group = x.shape[dim] // self.div, (True, *(False for _ in current_frames().fresh[1:]))
        return shift_frames(x, None, one_group, dim, ((0, fold, -1), (fold, fold, 1)))

    def extra_repr(self) -> str:
        """Show the fraction of channels that is shifted."""
        return f"div={self.div}"


def looks_ahead(segment: nn.Module) -> bool:
    """Whether it holds a shift that needs all frames in one run."""
    return any(isinstance(module, TemporalShift) for module in segment.modules())


def insert_shift(segments: nn.ModuleList, kind: Shift, div: int) -> None:
    """Put a shift before the first layer of every residual branch; the identity path stays as it is.

    In a transformer that is between the norm and the attention, or what takes its place. Backbones with a stage of 23
    blocks or more (ResNet-101) get it in every second block, as TSM does.

    Raises:
        ValueError: No residual branch of a known kind was found.
    """
    if kind == "none":
        return
    stages = [list(_blocks(segment)) for segment in segments]
    residual = [[block for block in blocks if type(block).__name__ != "DenseInput"] for blocks in stages]
    step = 2 if max(map(len, residual)) >= 23 else 1
    if not any(stages):
        raise InputError("no residual branch of a known kind to shift in: use shift='none'")
    for block in (block for blocks in stages for block in blocks[::step]):
        name = _first_layer(block)
        layer = getattr(block, name)
        last = isinstance(layer, nn.Linear) or (name == "norm1" and not _for_images(layer))
        shift = (OnlineTemporalShift if kind == "online" else TemporalShift)(div, -1 if last else 1)
        setattr(block, name, nn.Sequential(layer, shift) if name == "norm1" else nn.Sequential(shift, layer))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks with a residual branch that a shift can go into."""
    if _first_layer(module):
        yield module
        return
    for child in module.children():
        yield from _blocks(child)


def _first_layer(block: nn.Module) -> str:
    """The attribute that a shift goes to, empty if there is none."""
    names = [name for name, _ in block.named_children()]
    no_identity = (
        not getattr(block, "has_skip", True)
        or not getattr(block, "use_shortcut", True)
        or not getattr(block, "add_identity", True)
        or getattr(block, "no_skip", False)
        or getattr(block, "shortcut", block) is None
    )
    if no_identity:
        return ""
    found = [name for name in FIRST_LAYER.get(type(block).__name__, ()) if name in names]
    mixers = [names.index(name) for name in MIXERS if name in names]
    if not found and mixers and "norm1" in names[: min(mixers)]:  # a norm behind them would be a post-norm
        found = ["norm1"]
    return found[0] if found else ""


def _for_images(norm: nn.Module) -> bool:
    return isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__


def _channel_dim(x: Tensor, of_images: int) -> int:
    return of_images if x.dim() == 4 else -1


def current_frames() -> Frames:
    """The frames that the segment under way is run on."""
    try:
        return _frames.get()
    except LookupError:
        raise ModeError("a temporal shift runs inside an ExitNet only: call the net, not its backbone") from None
