"""Routes over the grid of frames and network depth.

An *exit* is a cell of the grid with a classifier on it. The paper calls it a checkpoint; that word is taken by
saved weights, so here it is an exit everywhere.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from dynvid.errors import InputError

FrameOrder = Literal["chronological", "thue_morse", "coarse_to_fine"]


class Exit(NamedTuple):
    """The cell where the first `frames` frames, in processing order, have passed `depth` segments.

    Example:
        >>> Exit(frames=4, depth=3)
        Exit(frames=4, depth=3)
    """

    frames: int
    depth: int


Route = tuple[Exit, ...]


def check_route(route: Iterable[Sequence[int]], num_frames: int, num_depths: int) -> Route:
    """Return `route` as a tuple of exits, or say what is wrong with it.

    A valid route never gives back frames or depth, adds at least one of them at each exit, and ends with all
    frames at full depth, which is the full inference that early exits are measured against.

    Args:
        route: Exits, or pairs of integers (frames, depth).
        num_frames: Frames of the clip.
        num_depths: Depth segments of the backbone.

    Raises:
        ValueError: The route is empty, leaves the grid, goes back, stands still or ends early.

    Example:
        >>> check_route([(2, 1), (4, 2)], num_frames=4, num_depths=2)
        (Exit(frames=2, depth=1), Exit(frames=4, depth=2))
    """
    exits = []
    for position, cell in enumerate(route, 1):
        if len(cell) != 2 or not all(isinstance(part, int) for part in cell):
            raise InputError(f"exit {position} is {cell!r}, not a pair of integers (frames, depth)")
        exits.append(Exit(*cell))
    if not exits:
        raise InputError("the route has no exits: give at least one (frames, depth)")
    for position, (frames, depth) in enumerate(exits, 1):
        if not 1 <= frames <= num_frames:
            raise InputError(f"exit {position} ({frames}, {depth}) needs frames between 1 and {num_frames}")
        if not 1 <= depth <= num_depths:
            raise InputError(f"exit {position} ({frames}, {depth}) needs a depth between 1 and {num_depths}")
    for position, (before, after) in enumerate(itertools.pairwise(exits), 2):
        step = f"exit {position} {tuple(after)} after {tuple(before)}"
        if after.frames < before.frames or after.depth < before.depth:
            raise InputError(f"{step} goes back: frames and depth may only grow along a route")
        if after == before:
            raise InputError(f"{step} stands still: each exit must add frames or depth")
    if exits[-1] != (num_frames, num_depths):
        raise InputError(
            f"the route ends at {tuple(exits[-1])}: the last exit must be full inference, "
            f"({num_frames}, {num_depths}); for a smaller net ask for fewer frames instead"
        )
    return tuple(exits)


def depth_route(num_frames: int, depths: int | Sequence[int]) -> Route:
    """All frames at once, one exit at each depth: Figure 2(a) of the paper.

    Args:
        num_frames: Frames of the clip.
        depths: Depths that carry an exit, ascending, or their number (then 1 to that number).

    Example:
        >>> [tuple(e) for e in depth_route(8, depths=5)]
        [(8, 1), (8, 2), (8, 3), (8, 4), (8, 5)]
    """
    return tuple(Exit(num_frames, depth) for depth in _depths(depths))


def input_route(num_frames: int, depths: int | Sequence[int]) -> Route:
    """Full depth, an exit after 1, 2, 4, 8, ... frames: Figure 2(b) and (c) of the paper.

    Args:
        num_frames: Frames of the clip.
        depths: The number of depth segments, or the depths that may carry an exit (the last one is used).

    Example:
        >>> [tuple(e) for e in input_route(8, depths=5)]
        [(1, 5), (2, 5), (4, 5), (8, 5)]
    """
    _check_frames(num_frames)
    last = _depths(depths)[-1]
    doublings = [2**power for power in range((num_frames - 1).bit_length())]
    return tuple(Exit(frames, last) for frames in (*doublings, num_frames))


def unified_route(num_frames: int, depths: int | Sequence[int]) -> Route:
    """A staircase through frames and depth: Figure 2(d) of the paper, scaled.

    The shallower half of the exits looks at a quarter of the frames, the deeper half at the first half of them,
    and the last exit at everything.

    Args:
        num_frames: Frames of the clip.
        depths: Depths that carry an exit, ascending, or their number (then 1 to that number).

    Example:
        >>> [tuple(e) for e in unified_route(8, depths=5)]
        [(2, 1), (2, 2), (4, 3), (4, 4), (4, 5), (8, 5)]
        >>> [tuple(e) for e in unified_route(16, depths=(2, 3, 4))]
        [(4, 2), (8, 3), (8, 4), (16, 4)]
    """
    _check_frames(num_frames)
    depths = _depths(depths)
    quarter, half = max(num_frames // 4, 1), max(num_frames // 2, 1)
    shallow, deep = depths[: len(depths) // 2], depths[len(depths) // 2 :]
    exits = [Exit(quarter, d) for d in shallow] + [Exit(half, d) for d in deep] + [Exit(num_frames, depths[-1])]
    return tuple(dict.fromkeys(exits))  # one frame alone has no half: its last two exits are the same


def frame_groups(num_frames: int, scheme: FrameOrder) -> tuple[tuple[int, ...], ...]:
    """Split the frames into groups, in processing order; inside a group the order is chronological.

    - `chronological`: one group.
    - `thue_morse`: the frames whose index has an even number of 1 bits, then the odd ones. Both groups span the
      clip, and their gaps vary, so they see slow and fast motion (Figure 2(c); the split of the paper's 16
      frames is not public, this is the rule that gives its 8).
    - `coarse_to_fine`: every fourth frame, then the ones half way between, then the rest.

    Args:
        num_frames: Frames of the clip.
        scheme: Name of the order.

    Returns:
        Groups of temporal frame indices; together they hold each of `range(num_frames)` once.

    Raises:
        ValueError: Unknown scheme, or fewer than one frame.

    Example:
        >>> frame_groups(8, "thue_morse")
        ((0, 3, 5, 6), (1, 2, 4, 7))
        >>> frame_groups(8, "coarse_to_fine")
        ((0, 4), (2, 6), (1, 3, 5, 7))
    """
    _check_frames(num_frames)
    frames = range(num_frames)
    if scheme == "chronological":
        groups = [tuple(frames)]
    elif scheme == "thue_morse":
        groups = [tuple(t for t in frames if t.bit_count() % 2 == odd) for odd in (0, 1)]
    elif scheme == "coarse_to_fine":
        groups = [tuple(frames[0::4]), tuple(frames[2::4]), tuple(frames[1::2])]
    else:
        raise InputError(f"unknown frame order {scheme!r}: use chronological, thue_morse or coarse_to_fine")
    return tuple(group for group in groups if group)


def _depths(depths: int | Sequence[int]) -> tuple[int, ...]:
    found = tuple(range(1, depths + 1)) if isinstance(depths, int) else tuple(depths)
    if not found or found[0] < 1 or any(b <= a for a, b in itertools.pairwise(found)):
        raise InputError(f"depths {depths!r}: give a positive number, or ascending depths from 1 on")
    return found


def _check_frames(num_frames: int) -> None:
    if num_frames < 1:
        raise InputError(f"{num_frames} frames: a clip has at least one")
