"""Augmentation and preparation of uint8 clips; normalisation is the net's work."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

Transform = Callable[[Tensor], Tensor]
"""uint8 `(T, C, H, W)` to uint8 `(T, C, size, size)`, or `(3, T, C, size, size)` where it takes three crops."""


def train_transform(size: int, hflip: bool = True, min_area: float = 0.25) -> Transform:
    """Random crop, scale and mirror image, drawn once per clip.

    Args:
        size: Height and width of the result, in pixels.
        hflip: Mirror every second clip on average. False where left and right carry the label, as in
            Something-Something ("pushing something from left to right").
        min_area: Smallest share of the frame that a crop keeps, in (0, 1].

    Returns:
        A function from uint8 `(T, C, H, W)` to uint8 `(T, C, size, size)`.

    >>> train_transform(32)(torch.zeros(4, 3, 40, 60, dtype=torch.uint8)).shape
    torch.Size([4, 3, 32, 32])
    """
    steps = [v2.RandomResizedCrop(size, scale=(min_area, 1.0), antialias=True)]
    transform: Transform = v2.Compose([*steps, v2.RandomHorizontalFlip()] if hflip else steps)
    return transform


def eval_transform(size: int) -> Transform:
    """Resize to the short side of `decode_size`, then crop the centre.

    Args:
        size: Height and width of the result, in pixels.

    Returns:
        A function from uint8 `(T, C, H, W)` to uint8 `(T, C, size, size)`.

    >>> eval_transform(32)(torch.zeros(4, 3, 40, 60, dtype=torch.uint8)).shape
    torch.Size([4, 3, 32, 32])
    """
    transform: Transform = v2.Compose([v2.Resize(decode_size(size), antialias=True), v2.CenterCrop(size)])
    return transform


def three_crop_transform(size: int) -> Transform:
    """Resize the short side to `size`, then crop both ends and the middle of the long side.

    The three crops together see the whole frame: the spatial half of the usual 10 x 3 test of static nets.

    Args:
        size: Height and width of the result, in pixels.

    Returns:
        A function from uint8 `(T, C, H, W)` to uint8 `(3, T, C, size, size)`.

    >>> three_crop_transform(32)(torch.zeros(4, 3, 40, 60, dtype=torch.uint8)).shape
    torch.Size([3, 4, 3, 32, 32])
    """
    return partial(_three_crops, v2.Resize(size, antialias=True), size)


def decode_size(size: int) -> int:
    """The short side at which to decode for either transform: the usual 256 for 224, in proportion.

    >>> decode_size(224), decode_size(112)
    (256, 128)
    """
    return round(size * 256 / 224)


def _three_crops(resize: Transform, size: int, frames: Tensor) -> Tensor:
    frames = resize(frames)
    down, right = frames.shape[-2] - size, frames.shape[-1] - size
    corners = [(0, 0), (down // 2, right // 2), (down, right)]
    return torch.stack([frames[..., top : top + size, left : left + size] for top, left in corners])
