"""The state of a batch of videos on its way along a route.

Shapes: B videos began, b are still under way; n frames, frame-major (n * b, ...); see `activations`.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dynvid.errors import InputError
from dynvid.nets.activations import Activations, append, by_frame, join_videos, keep_videos
from dynvid.nets.grid import Grid
from dynvid.nets.shift import Frames, ShiftMemory

FrameSource = Callable[[Tensor, list[int]], Tensor]
Held = list[dict[str, Any]]
"""By depth: `waiting`, `memory` by layer, and `embedded`, as a walk holds them; what is not there is left out."""


@dataclass
class _Depth:
    """What a walk holds at one depth.

    Attributes:
        reached: Frames that have passed this segment.
        waiting: Of those, the ones that have not passed the next segment, (n * b, ...).
        memory: What shift layers hand on from the last frame of one run to the next run.
        embedded: Embeddings of the exits here, summed over the frames, (b, C).
    """

    reached: int = 0
    waiting: Activations | None = None
    memory: ShiftMemory = field(default_factory=dict)
    embedded: Tensor | None = None

    def take(self) -> Activations:
        """Hand over the frames that wait."""
        assert self.waiting is not None
        x, self.waiting = self.waiting, None
        return x

    def keep(self, rows: Tensor, batch: int) -> None:
        """Go on with some rows of the b videos only."""
        self.memory = {layer: keep_videos(x, rows, batch) for layer, x in self.memory.items()}
        if self.waiting is not None:
            self.waiting = tree_map(lambda x: keep_videos(x, rows, batch), self.waiting)
        if self.embedded is not None:
            self.embedded = self.embedded[rows]

    @classmethod
    def join(cls, depths: Sequence["_Depth"], batches: Sequence[int]) -> "_Depth":
        """What walks of several batches hold at one depth, as one walk would hold it."""
        first = depths[0]
        joined = cls(first.reached)
        joined.memory = {layer: join_videos([d.memory[layer] for d in depths], batches) for layer in first.memory}
        if first.waiting is not None:
            joined.waiting = tree_map(lambda *x: join_videos(x, batches), *(d.waiting for d in depths))
        if first.embedded is not None:
            joined.embedded = torch.cat([d.embedded for d in depths if d.embedded is not None])
        return joined


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
        videos: Row numbers of the videos still under way, int64 (b,).
        frames_read: Frames of each video still under way that were asked for so far.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8)
        >>> stream = net.eval().stream(torch.zeros(3, 8, 3, 64, 64))
        >>> stream.advance().shape, stream.frames_read
        (torch.Size([3, 5]), 2)
        >>> stream.keep(torch.tensor([True, False, True]))
        >>> stream.advance().shape, stream.frames_read
        (torch.Size([2, 5]), 4)
    """

    def __init__(
        self,
        net: Grid,
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
        self.videos = torch.arange(batch, device=net.device)
        self.position = 0
        self._exits = range(len(net.route)) if exits is None else [range(len(net.route))[e] for e in exits]
        if any(b <= a for a, b in itertools.pairwise(self._exits)):
            raise InputError(f"exits {list(self._exits)}: a walk goes forward, give ascending positions")
        self._depths = [_Depth() for _ in net.segments]  # the first is that behind segment 1

    @property
    def finished(self) -> bool:
        """Whether the last exit was taken."""
        return self.position == len(self._exits)

    @property
    def frames_read(self) -> int:
        """Frames of each video still under way that were asked for so far."""
        return self._depths[0].reached

    def advance(self) -> Tensor:
        """Compute what the next exit needs and return its logits (b, classes) for the videos still under way.

        Raises:
            StopIteration: The last exit was taken.
        """
        if self.finished:
            raise StopIteration("the route is at its end")
        index = self._exits[self.position]
        frames, depth = self.net.route[index]
        here = self._depths[depth - 1]
        for d in range(1, depth + 1):
            if self._depths[d - 1].reached < frames:
                new = self._run(d, frames)
        # Routes never go back, so what reached this depth since its last exit is what was run just now.
        embedded = by_frame(self.net.embed(depth, new), self.videos.shape[0]).sum(0)  # (n * b, ...) -> (b, C)
        here.embedded = embedded if here.embedded is None else here.embedded + embedded
        if depth == len(self._depths):
            here.waiting = None  # nothing lies deeper
        self.position += 1
        return self.net.classify(index, here.embedded / frames)

    def keep(self, alive: Tensor) -> None:
        """Go on with some of the videos only.

        Args:
            alive: bool (b,), for the videos still under way.
        """
        rows = alive.nonzero().squeeze(1)  # the one time that the device is waited for
        if len(rows) < len(self.videos):
            self.keep_rows(rows)

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with some of the videos only, where it is known already which: without waiting for the device.

        Args:
            rows: Their places among the videos still under way, ascending, int64 (rows,).
        """
        for depth in self._depths:
            depth.keep(rows, len(self.videos))
        self.videos = self.videos[rows]

    def part(self, rows: Tensor) -> "Stream":
        """A stream of some of the videos, which goes on by itself; this one still has all of them.

        Args:
            rows: Their places among the videos still under way, ascending, int64 (rows,).
        """
        part = copy.copy(self)
        part._depths = [copy.copy(depth) for depth in self._depths]  # what they hold is replaced, never written to
        part.keep_rows(rows)
        return part

    @classmethod
    def join(cls, streams: Sequence["Stream"], video: FrameSource) -> "Stream":
        """Walk on with the videos of several streams as one batch.

        Args:
            streams: Streams of one net that stand at the same exit and stop at the same exits; they are used up.
            video: Where the frames of all of them come from, as for `Stream`; its row numbers count the videos of the
                first stream, then those of the second, and so on.

        Raises:
            ValueError: The streams do not stand at the same place.
        """
        first = streams[0]
        if any((s.net, s.position, s._exits) != (first.net, first.position, first._exits) for s in streams):
            raise InputError("streams of one net that stand at the same exit can be joined, and no others")
        joined = cls(first.net, video, sum(len(s.videos) for s in streams), first._exits)
        joined.position = first.position
        if len(streams) == 1:
            joined._depths = first._depths
        elif first.position:
            batches = [len(s.videos) for s in streams]
            joined._depths = [
                _Depth.join(depths, batches) for depths in zip(*(s._depths for s in streams), strict=True)
            ]
        return joined

    def held(self) -> Held:
        """What it holds for the exits to come; what none of them reads is left out.

        Tensors are frame-major: `waiting` (n * b, ...), `memory` and `embedded` (b, ...).
        """
        to_come = {self.net.route[e].depth for e in self._exits[self.position :]}
        held = []
        for depth, here in enumerate(self._depths, 1):
            embedded = here.embedded if depth in to_come else None
            parts = {"waiting": here.waiting, "memory": here.memory or None, "embedded": embedded}
            held.append({name: part for name, part in parts.items() if part is not None})
        return held

    def resume(self, position: int, held: Sequence[Mapping[str, Any]]) -> None:
        """Stand where a walk stood that held this, before the exit at `position` of those that it stops at."""
        passed = [self.net.route[e] for e in self._exits[:position]]
        self.position = position
        self._depths = [
            _Depth(
                max((e.frames for e in passed if e.depth >= depth), default=0),
                parts.get("waiting"),
                dict(parts.get("memory", {})),
                parts.get("embedded"),
            )
            for depth, parts in enumerate(held, 1)
        ]

    def _run(self, depth: int, stop: int) -> Activations:
        """Take the frames up to `stop` that have not passed segment `depth` through it: (n * b, ...)."""
        here, net = self._depths[depth - 1], self.net
        start = here.reached
        if depth == 1:
            x: Activations = net.to_frames(self._read(self.videos, net.order[start:stop]))
        else:
            x = self._depths[depth - 2].take()
        # A group that goes on in the next run needs the slices of this run's last frame.
        goes_on = stop < net.num_frames and not net.fresh[stop]
        y = net.run_segment(depth, x, Frames(net.fresh[start:stop], here.memory, remember=goes_on))
        if not goes_on:
            here.memory.clear()
        here.waiting, here.reached = append(here.waiting, y), stop
        return y
