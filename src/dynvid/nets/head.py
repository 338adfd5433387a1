"""Exit heads: embed each frame, take the mean over the frames seen, classify."""

import torch.nn.functional as F
from torch import Tensor, nn


class GlobalPool(nn.Module):
    """Mean over height and width: (n, C, H, W) -> (n, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, C)."""
        return F.avg_pool2d(x, x.shape[2:]).flatten(1)  # several times faster than mean((2, 3)) in bf16


def exit_head(in_channels: int, hidden: int | None, num_classes: int, dropout: float) -> nn.Sequential:
    """The part of an exit after the mean over frames: (B, in_channels) -> logits (B, num_classes).

    The authors do not publish its shape; Linear, batch norm, ReLU, Linear with `hidden` = 2048 after layer2 and
    layer3 of a ResNet and one Linear at the end give exactly their parameter counts.

    Args:
        in_channels: Channels of the embedding.
        hidden: Width of the hidden layer, None for a linear head.
        num_classes: Classes.
        dropout: Probability that an input of the last layer is dropped in training.

    Example:
        >>> sum(p.numel() for p in exit_head(512, 2048, 400, dropout=0.5).parameters())
        1874320
    """
    layers: list[nn.Module] = []
    if hidden is not None:
        layers += [nn.Linear(in_channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(hidden or in_channels, num_classes))
