"""What flows through a net, and how it lies in memory.

Shapes, here and in all of `nets`:
    B videos, T frames of a clip, n <= T frames on the way, K exits, C channels, H x W pixels, L tokens.
    Activations are frame-major, (n * B, ...): the B videos of the first frame, then those of the next. So the frame
    before is a slice away, new frames are appended on dimension 0, and channels-last survives.
"""

from collections.abc import Sequence
from typing import TypeAlias, Union

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# (n * B, C, H, W), (n * B, H, W, C) or (n * B, L, C), as the backbone makes them; lists where a stage gives several.
Activations: TypeAlias = Union[Tensor, "list[Activations]"]


def by_frame(x: Tensor, batch: int) -> Tensor:
    """(n * B, ...) -> (n, B, ...)."""
    return x.view(-1, batch, *x.shape[1:])


def first_rows(x: Activations, rows: int) -> Activations:
    """The first `rows` of the n * B of each tensor: (n * B, ...) -> (rows, ...)."""
    first: Activations = tree_map(lambda y: y[:rows], x)
    return first


def append(earlier: Activations | None, later: Activations) -> Activations:
    """(m * B, ...) and (n * B, ...) -> ((m + n) * B, ...)."""
    if earlier is None:
        return later
    both: Activations = tree_map(lambda a, b: torch.cat([a, b]), earlier, later)
    return both


def keep_videos(x: Tensor, rows: Tensor, batch: int) -> Tensor:
    """Rows (b,) of the B videos: (n * B, ...) -> (n * b, ...), gathered channels-last where it lies so."""
    images = x.dim() == 4 and not x.is_contiguous()
    y = x.permute(0, 2, 3, 1) if images else x
    y = by_frame(y, batch).index_select(1, rows).flatten(0, 1)
    return y.permute(0, 3, 1, 2) if images else y


def join_videos(parts: Sequence[Tensor], batches: Sequence[int]) -> Tensor:
    """One batch of several of n frames: (n * b1, ...), (n * b2, ...), ... -> (n * (b1 + b2 + ...), ...)."""
    images = parts[0].dim() == 4
    rows = [x.permute(0, 2, 3, 1) if images else x for x in parts]
    y = torch.cat([by_frame(x, batch) for x, batch in zip(rows, batches, strict=True)], 1).flatten(0, 1)
    return y.permute(0, 3, 1, 2) if images else y
