"""Augmentation and preparation of uint8 clips; normalisation is the net's work."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot
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


def mixup(video: Tensor, label: Tensor, num_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix each clip of a batch with another one, frame by frame, and their labels likewise.

    One share is drawn for the batch, from Beta(alpha, alpha) (Zhang et al., mixup, ICLR 2018).

    Args:
        video: uint8 `(B, T, C, H, W)`.
        label: int64 `(B,)`, or of sets `(B, num_classes)`.
        num_classes: Classes.
        alpha: Above 0; small values leave most clips nearly alone.

    Returns:
        uint8 `(B, T, C, H, W)` and probabilities, float `(B, num_classes)`.

    >>> video, target = mixup(torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 2]), 3, alpha=0.2)
    >>> video.shape, target.sum(1)
    (torch.Size([2, 4, 3, 8, 8]), tensor([1., 1.]))
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(video), device=video.device)
    target = (one_hot(label, num_classes) if label.dim() == 1 else label).float()
    mixed = torch.lerp(video[order].float(), video.float(), share)
    return mixed.round_().to(video.dtype), torch.lerp(target[order], target, share)


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
