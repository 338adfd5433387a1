"""Multi-scale dense network: a backbone made for early exits, with coarse features from its first layer on.

Huang et al., "Multi-Scale Dense Networks for Resource Efficient Image Classification", ICLR 2018. Activations
are lists of tensors (n, C_s, H_s, W_s), one per scale, from fine to coarse. Each layer adds features to every
scale, from the same scale and the next finer one, and keeps what was there. Exits read the coarsest scale;
the finer ones are dropped one by one on the way, since later exits can do without them.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dynvid.errors import InputError
from dynvid.nets.head import GlobalPool, exit_head
from dynvid.nets.stages import Backbone
from dynvid.nets.weights.msdnet import from_original_keys, load_msdnet_checkpoint

__all__ = ["DenseInput", "MSDNet", "from_original_keys", "load_msdnet_checkpoint", "msdnet38"]


class MSDNet(Backbone):
    """A multi-scale dense network; the defaults are MSDNet-38.

    Each block is a segment with an exit at its end. The CIFAR form of the ICLR paper has 3 scales and a stem
    without stride; for images of 32 x 32 pixels and anytime prediction::

        MSDNet(num_blocks=7, base=4, step=2, channels=16, growth_rate=6, growth_factors=(1, 2, 4),
               bottleneck_factors=(1, 2, 4), stem="cifar")

    Args:
        num_blocks: Blocks.
        base: Layers of the first block.
        step: Layers of each further block.
        step_mode: `even`: every further block has `step` layers; `lin_grow`: the i-th further block
            has `step * i + 1`.
        channels: Channels of the stem at the finest scale.
        growth_rate: Channels that a layer adds at the finest scale.
        growth_factors: What `channels` and `growth_rate` are multiplied with, one factor per scale.
        bottleneck_factors: Most channels inside a branch, in multiples of those it adds, by scale read.
        prune: When scales are dropped. `max`: after each of as many equal intervals of layers as there are
            scales; `min`: at the last layers, one scale at each.
        reduction: Share of the channels that transition layers keep; 0 for no transition layers. They come
            after each drop with `max`, after one and two thirds of all layers with `min`.
        bottleneck: Whether branches begin with a 1x1 convolution.
        stem: `imagenet`: stride 4, embeddings as wide as the coarsest scale; `cifar`: stride 1, 128 wide.

    Raises:
        ValueError: An unknown option, or factors of different lengths.

    Example:
        >>> net = MSDNet(num_blocks=2, base=2, step=6, channels=8, growth_rate=4)
        >>> [tuple(x.shape) for x in net.segments[0](torch.zeros(5, 3, 64, 64))]
        [(5, 16, 16, 16), (5, 32, 8, 8), (5, 64, 4, 4), (5, 64, 2, 2)]
        >>> [tuple(x.shape) for x in nn.Sequential(*net.segments)(torch.zeros(5, 3, 64, 64))]
        [(5, 48, 2, 2)]
    """

    def __init__(
        self,
        num_blocks: int = 5,
        base: int = 7,
        step: int = 7,
        step_mode: Literal["even", "lin_grow"] = "even",
        channels: int = 32,
        growth_rate: int = 16,
        growth_factors: Sequence[int] = (1, 2, 4, 4),
        bottleneck_factors: Sequence[int] = (1, 2, 4, 4),
        prune: Literal["max", "min"] = "max",
        reduction: float = 0.5,
        bottleneck: bool = True,
        stem: Literal["imagenet", "cifar"] = "imagenet",
    ) -> None:
        super().__init__()
        _check("step_mode", step_mode, "even", "lin_grow")
        _check("prune", prune, "max", "min")
        _check("stem", stem, "imagenet", "cifar")
        for name, value in (
            ("num_blocks", num_blocks),
            ("base", base),
            ("step", step),
            ("channels", channels),
            ("growth_rate", growth_rate),
        ):
            if value < 1:
                raise InputError(f"{name}={value}: give a positive number")
        if len(growth_factors) != len(bottleneck_factors):
            raise InputError(f"give as many bottleneck_factors as growth_factors, {len(growth_factors)}")
        factors = tuple(growth_factors)
        widths = tuple(bottleneck_factors) if bottleneck else (None,) * len(factors)
        later = [step if step_mode == "even" else step * i + 1 for i in range(1, num_blocks)]
        total, layer, scales = base + sum(later), 0, len(factors)

        self.stem = stem
        self.exit_depths = tuple(range(1, num_blocks + 1))
        self.channels: list[int] = []  # of the coarsest scale after each block
        self.segments = nn.ModuleList()
        for length in (base, *later):
            block = nn.Sequential()
            if layer == 0:
                block.append(_Stem([channels * f for f in factors], stem))
            for _ in range(length):
                kept = _scales_kept(layer, total, len(factors), prune)
                layer += 1
                block.append(
                    _DenseLayer(
                        [channels * f for f in factors[-scales:]],
                        [growth_rate * f for f in factors[-kept:]],
                        widths[-scales:],
                    )
                )
                channels += growth_rate
                thirds = (total // 3, 2 * total // 3)
                if reduction and (kept < scales if prune == "max" else layer in thirds):
                    fewer = int(reduction * channels)
                    block.append(_Transition([(channels * f, fewer * f) for f in factors[-kept:]]))
                    channels = fewer
                scales = kept
            self.segments.append(block)
            self.channels.append(channels * factors[-1])

    def embedding(self, depth: int) -> nn.Module:
        """Two 3x3 convolutions with stride 2 on the coarsest scale, averaged over what is left of the image.

        The authors average over 2 x 2 pixels, which is all there is at 129 to 256 pixels (CIFAR: 17 to 32).
        """
        channels, hidden = self.channels[depth - 1], self._embedded(depth)
        return _Embedding(_conv(channels, hidden, 3, 2), _conv(hidden, hidden, 3, 2), GlobalPool())

    def head(self, depth: int, num_classes: int, dropout: float) -> nn.Module:
        """A linear layer."""
        return exit_head(self._embedded(depth), None, num_classes, dropout)

    def _embedded(self, depth: int) -> int:
        return self.channels[depth - 1] if self.stem == "imagenet" else 128


def msdnet38() -> MSDNet:
    """MSDNet-38: 5 blocks of 7 layers at 4 scales, 62.31M parameters with exits for 1000 classes."""
    return MSDNet()


class DenseInput(nn.Module):
    """What the branches of a layer read at one scale: `first` is where a temporal shift goes.

    The two branches that read the scale share the shift, and no parameter changes its name. The features that
    the layer keeps do not pass here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> the same shape."""
        y: Tensor = self.first(x)
        return y


class _Stem(nn.Module):
    """From the image to all scales, each made of the next finer one."""

    def __init__(self, channels: Sequence[int], form: str) -> None:
        super().__init__()
        if form == "imagenet":
            conv = nn.Conv2d(3, channels[0], 7, 2, 3)  # with a bias, as in the authors' weights
            relu, pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
            finest = nn.Sequential(conv, nn.BatchNorm2d(channels[0]), relu, pool)
        else:
            finest = _conv(3, channels[0], 3)
        coarser = [_conv(a, b, 3, 2) for a, b in itertools.pairwise(channels)]
        self.scales = nn.ModuleList([finest, *coarser])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (n, 3, H, W) -> activations."""
        scales = []
        for scale in self.scales:
            x = scale(x)
            scales.append(x)
        return scales


class _DenseLayer(nn.Module):
    """Adds features to the coarsest `len(growth)` scales and drops the finer ones.

    Args:
        channels: Channels of each scale that comes in.
        growth: New channels of each scale that goes out.
        widths: Bottleneck factor of each scale that comes in, None for no bottleneck.
    """

    def __init__(self, channels: Sequence[int], growth: Sequence[int], widths: Sequence[int | None]) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(DenseInput() for _ in channels)
        self.scales = nn.ModuleList()
        for k, new in enumerate(growth, len(channels) - len(growth)):
            scale = nn.ModuleDict()
            down = new // 2 if k else 0  # nothing is finer than the first scale that comes in
            if k:
                scale["down"] = _branch(channels[k - 1], down, 2, widths[k - 1])
            scale["normal"] = _branch(channels[k], new - down, 1, widths[k])
            self.scales.append(scale)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Activations -> activations."""
        seen = [read(y) for read, y in zip(self.inputs, x, strict=True)]
        grown = []
        for k, scale in enumerate(self.scales, len(x) - len(self.scales)):
            assert isinstance(scale, nn.ModuleDict)
            sources = seen[max(k - 1, 0) : k + 1]
            new = [branch(y) for branch, y in zip(scale.values(), sources, strict=True)]
            grown.append(torch.cat([x[k], *new], dim=1))
        return grown


class _Transition(nn.Module):
    """A 1x1 convolution at each scale, to fewer channels."""

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_conv(before, after, 1) for before, after in channels)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Activations -> activations."""
        return [scale(y) for scale, y in zip(self.scales, x, strict=True)]


class _Embedding(nn.Sequential):
    def forward(self, x: list[Tensor]) -> Tensor:
        """Activations -> (n, channels), from the coarsest scale."""
        y = x[-1]
        for layer in self:
            y = layer(y)
        return y


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _branch(in_channels: int, out_channels: int, stride: int, width: int | None) -> nn.Sequential:
    if width is None:
        return _conv(in_channels, out_channels, 3, stride)
    inner = min(in_channels, width * out_channels)
    return nn.Sequential(*_conv(in_channels, inner, 1), *_conv(inner, out_channels, 3, stride))


def _scales_kept(layer: int, total: int, scales: int, prune: str) -> int:
    """Scales that go out of layer number `layer`, from 0, of `total`."""
    if prune == "min":
        return min(scales, total - layer)
    interval = -(-total // scales)
    return scales - layer // interval


def _check(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}: use {' or '.join(known)}")
