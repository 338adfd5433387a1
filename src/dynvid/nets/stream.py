"""The state of a batch of videos on its way along a route."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dynvid.errors import InputError
from dynvid.nets.shift import Frames, ShiftMemory

if TYPE_CHECKING:
    from dynvid.nets.exit_net import ExitNet

Activations = Any  # a tensor or lists of tensors, first dimension frames * videos
FrameSource = Callable[[Tensor, list[int]], Tensor]


class Stream:
    """Walks a route: each `advance` computes only the grid cells that are not there yet.

    Made by `ExitNet.stream`. All state is here and none in the net, so streams of one net may interleave.

    Args:
        net: The net, in eval mode if results are to equal `net(video)`.
        video: uint8 or normalised float (B, T, C, H, W); or a function that is given the row numbers (b,) of the
            videos still under way and the temporal indices of n frames and returns (b, n, C, H, W), so that frames
            nobody needs are never read.
        batch: Number of videos, where `video` is a function.
        exits: Positions on the route to stop at; all by default, `[-1]` for full inference.

    Attributes:
        position: Number of exits taken so far.
        frames_read: Frames of each video still under way that were asked for so far.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8).eval()
        >>> stream = net.stream(torch.zeros(3, 8, 3, 64, 64))
        >>> stream.advance().shape, stream.frames_read
        (torch.Size([3, 5]), 2)
        >>> stream.keep(torch.tensor([True, False, True]))
        >>> stream.advance().shape, stream.frames_read
        (torch.Size([2, 5]), 4)
    """

    def __init__(
        self,
        net: "ExitNet",
        video: Tensor | FrameSource,
        batch: int | None = None,
        exits: Sequence[int] | None = None,
    ) -> None:
        self.net = net
        if isinstance(video, Tensor):
            net.check_video(video)
            self._read: FrameSource = lambda rows, frames: video[rows[:, None].to(video.device), torch.tensor(frames)]
            batch = len(video)
        elif batch is None:
            raise InputError("give batch, the number of videos, when frames come from a function")
        else:
            self._read = video
        self.videos = torch.arange(batch, device=net.mean.device)
        self.position = 0
        self._exits = range(len(net.route)) if exits is None else [range(len(net.route))[e] for e in exits]
        depths = len(net.segments)
        self._reached = [0] * (depths + 1)  # frames that have passed segment d
        self._pending: list[Activations] = [None] * (depths + 1)  # of the frames that passed d but not d + 1
        self._memory: list[ShiftMemory] = [{} for _ in range(depths + 1)]
        self._sums: dict[int, Tensor] = {}  # embeddings summed over frames, by depth

    @property
    def finished(self) -> bool:
        """Whether the last exit was taken."""
        return self.position == len(self._exits)

    @property
    def frames_read(self) -> int:
        """Frames of each video still under way that were asked for so far."""
        return self._reached[1]

    def advance(self) -> Tensor:
        """Compute what the next exit needs and return its logits (b, classes) for the videos still under way.

        Raises:
            StopIteration: The last exit was taken.
        """
        if self.finished:
            raise StopIteration("the route is at its end")
        index = self._exits[self.position]
        frames, depth = self.net.route[index]
        fresh: Activations = None
        for d in range(1, depth + 1):
            if self._reached[d] < frames:
                fresh = self._run(d, frames)
        # Routes never go back, so what reached this depth since its last exit is what was run just now.
        embedded = _by_frame(self.net.embed(depth, fresh), len(self.videos)).sum(0)
        self._sums[depth] = self._sums[depth] + embedded if depth in self._sums else embedded
        if depth == len(self.net.segments):
            self._pending[depth] = None  # nothing lies deeper
        self.position += 1
        return self.net.classify(index, self._sums[depth] / frames)

    def keep(self, alive: Tensor) -> None:
        """Go on with some of the videos only.

        Args:
            alive: bool (b,), for the videos still under way.
        """
        if bool(alive.all()):
            return
        rows = alive.nonzero().squeeze(1)
        batch = len(self.videos)
        self.videos = self.videos[rows]
        self._pending = [tree_map(lambda x: _take(x, rows, batch), x) for x in self._pending]
        self._memory = [tree_map(lambda x: _take(x, rows, batch), memory) for memory in self._memory]
        self._sums = {depth: x[rows] for depth, x in self._sums.items()}

    def _run(self, depth: int, stop: int) -> Activations:
        """Take the frames that have passed depth - 1 but not `depth`, up to `stop`, through that segment."""
        start = self._reached[depth]
        if depth == 1:
            order = self.net.order[start:stop]
            x: Activations = self.net.to_frames(self._read(self.videos, order))
        else:
            x, self._pending[depth - 1] = self._pending[depth - 1], None
        fresh = self.net.fresh[start:stop]
        # A group that goes on in the next run needs the slices of this run's last frame.
        goes_on = stop < self.net.num_frames and not self.net.fresh[stop]
        frames = Frames(fresh, self._memory[depth], remember=goes_on)
        y = self.net.run_segment(depth, x, frames)
        if not goes_on:
            frames.memory.clear()
        before = self._pending[depth]
        self._pending[depth] = y if before is None else tree_map(lambda a, b: torch.cat([a, b]), before, y)
        self._reached[depth] = stop
        return y


def _take(x: Tensor | None, rows: Tensor, batch: int) -> Tensor | None:
    """Rows of the B videos in a frame-major tensor (n * B, ...); gathered channels-last where it lies so."""
    if x is None:
        return None
    images = x.dim() == 4
    y = x.permute(0, 2, 3, 1) if images else x
    y = _by_frame(y, batch).index_select(1, rows).flatten(0, 1)
    return y.permute(0, 3, 1, 2) if images else y


def _by_frame(x: Tensor, batch: int) -> Tensor:
    """(n * B, ...) -> (n, B, ...)."""
    return x.view(-1, batch, *x.shape[1:])
