"""Segments run on a few images at a time, so that what a layer gives lies in memory that was used just before.

In one piece, a layer of ResNet-50 on 8 clips gives hundreds of megabytes: the C library hands blocks of that size back
at once, and the kernel fills the next one with zeros, page by page; up to half of the time goes there.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dynvid.nets.activations import Activations
from dynvid.nets.shift import Frames

IMAGES = 8  # glibc keeps blocks up to 32 MB: 8 images of ResNet-50's widest layer, 224 pixels, float32, are 26 MB


def run_in_parts(
    run: Callable[[Activations, Frames], Activations], x: Activations, frames: Frames, images: int | None = None
) -> Activations:
    """What `run` gives for all frames, computed on a few images at a time.

    The memory of the shift is handed on from part to part, so values are the same, to the bit where kernels do not
    round by the number of rows; `run` must not look ahead.

    Args:
        run: Takes activations of some frames, (m, ...), and says which they are.
        x: Activations of n frames of B videos, (n * B, ...).
        frames: Which frames these are; its memory is left as one run would leave it.
        images: How many at most, `IMAGES` by default.
    """
    rows, count, images = len(tree_leaves(x)[0]), len(frames.fresh), images or IMAGES
    if rows <= images:
        return run(x, frames)
    batch = rows // count
    step = max(1, images // batch)  # frames at a time; of more videos than fit, one frame of some of them
    blocks = -(-batch // images)
    videos = [(batch * b // blocks, batch * (b + 1) // blocks) for b in range(blocks)]
    memories = [{layer: x[first:last] for layer, x in frames.memory.items()} for first, last in videos]
    whole: Activations | None = None
    for begin in range(0, count, step):
        end = min(begin + step, count)
        goes_on = frames.remember if end == count else not frames.fresh[end]
        for (first, last), memory in zip(videos, memories, strict=True):
            here = slice(begin * batch + first, (end - 1) * batch + last)
            part = run(_rows(x, here), Frames(frames.fresh[begin:end], memory, goes_on))
            if whole is None:
                whole = tree_map(lambda y: _empty(y, rows), part)
            for y, z in zip(tree_leaves(whole), tree_leaves(part), strict=True):
                y[here] = z
    if frames.remember:
        frames.memory.update({layer: torch.cat([m[layer] for m in memories]) for layer in memories[0]})
    assert whole is not None
    return whole


def _rows(x: Activations, here: slice) -> Activations:
    some: Activations = tree_map(lambda y: y[here], x)
    return some


def _empty(like: Tensor, rows: int) -> Tensor:
    """Uninitialised (rows, ...), which lies in memory as `like`, (m, ...), does."""
    return torch.empty_like(like[:1].expand(rows, *like.shape[1:]))
