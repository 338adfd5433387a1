"""Windows on their way along a route, and how they get from exit to exit.

Shapes: b windows that take a step together, n frames, T frames of a window, C channels.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dynvid.multilabel import Label
from dynvid.nets import ExitNet, Stream
from dynvid.routes import Exit


class Said(NamedTuple):
    """What an exit said of a window.

    Attributes:
        exit: Frames and depth.
        label: Class index, or the class indices of a set.
        probability: Of the label, at the exit's temperature.
        probabilities: Of the classes, likewise, float64 (classes,), on the CPU.
    """

    exit: Exit
    label: Label
    probability: float
    probabilities: Tensor


@dataclass(eq=False)
class Track:
    """Frames that come one after the other: of one camera, or of one video.

    Attributes:
        count: Frames that have come so far; they are numbered from 0.
        windows: Windows that its owner has not released yet, in the order of their starts.
        frames: What may still be asked for, by number: uint8 (C, H, W), or what became of it.
    """

    count: int = 0
    windows: "deque[Window]" = field(default_factory=deque)
    frames: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Window:
    """A clip of a track.

    Attributes:
        track: Where its frames come from.
        start: Number of its first frame.
        said: The newest answer, None before the first.
        done: Whether that answer stands: an exit was sure, or nothing more is computed.
        audited: Whether it walks on to the last exit when its answer stands.
        gmacs: Spent on it until its answer stood; what windows share is spent on the first that asks for it.
        position: Number of exits passed, the added ones included.
        labels: What the net's own exits passed so far answered, (1, ...) each.
    """

    track: Track
    start: int
    said: Said | None = None
    done: bool = False
    audited: bool = False
    gmacs: float = 0.0
    position: int = 0
    labels: list[Tensor] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing more is computed for it."""
        return self.done and not self.audited


class Walk(Protocol):
    """How windows get from exit to exit."""

    def advance(self, windows: Sequence[Window], position: int) -> tuple[list[Window], Tensor]:
        """Take windows that stand before an exit through it, and add to `gmacs` what that cost.

        Returns:
            The same windows in the order of the rows of the logits, and the logits (b, classes).
        """

    def release(self, windows: Sequence[Window]) -> None:
        """Windows that go no further."""

    def forget(self, track: Track, before: int) -> None:
        """Frames of a track that no window will ask for any more: those before a number."""


@dataclass(eq=False)
class _Batch:
    """Windows that have walked together, in the order of the stream's rows."""

    windows: list[Window]
    stream: Stream

    def leave(self, windows: set[Window]) -> None:
        """Go on without some of them."""
        rows = [row for row, window in enumerate(self.windows) if window not in windows]
        if rows:
            self.stream.keep_rows(torch.tensor(rows, device=self.stream.videos.device))
        self.windows = [self.windows[row] for row in rows]


class StreamWalk:
    """Windows as rows of streams, which are joined and parted as frames arrive; see `Walk`.

    Args:
        net: The net along the route that is walked.
        gmacs: GMACs up to each exit.
    """

    def __init__(self, net: ExitNet, gmacs: Sequence[float]) -> None:
        self._net, self._gmacs = net, gmacs
        self._batch_of: dict[Window, _Batch] = {}

    def advance(self, windows: Sequence[Window], position: int) -> tuple[list[Window], Tensor]:
        """See `Walk`."""
        rows: list[Window] = []
        streams = [self._taken(batch, set(windows), rows) for batch in self._batches(windows)]
        rows += [] if streams else windows

        def frames(_: Tensor, places: list[int]) -> Tensor:
            clips = [torch.stack([w.track.frames[w.start + t] for t in places]) for w in rows]
            # Gathered as the net wants them, frame by frame and channels last: (n, b, H, W, C).
            return torch.stack([x.permute(0, 2, 3, 1) for x in clips], 1).permute(1, 0, 4, 2, 3)

        stream = Stream.join(streams, frames) if streams else self._net.stream(frames, len(rows))
        logits = stream.advance()
        batch = _Batch(rows, stream)
        for window in rows:
            if not window.done:
                window.gmacs = self._gmacs[position]
            self._batch_of[window] = batch
        return list(rows), logits

    def release(self, windows: Sequence[Window]) -> None:
        """See `Walk`."""
        for batch in self._batches(windows):
            batch.leave(set(windows))
        for window in windows:
            self._batch_of.pop(window, None)

    def forget(self, track: Track, before: int) -> None:
        """See `Walk`."""
        for number in [number for number in track.frames if number < before]:
            del track.frames[number]

    def _batches(self, windows: Sequence[Window]) -> list[_Batch]:
        return list(dict.fromkeys(self._batch_of[window] for window in windows if window in self._batch_of))

    def _taken(self, batch: _Batch, chosen: set[Window], rows: list[Window]) -> Stream:
        """The stream of those windows of a batch that are chosen; they are appended to `rows`."""
        places = [row for row, window in enumerate(batch.windows) if window in chosen]
        taken = [batch.windows[row] for row in places]
        rows += taken
        if len(taken) == len(batch.windows):
            return batch.stream
        part = batch.stream.part(torch.tensor(places, device=batch.stream.videos.device))
        batch.leave(set(taken))
        return part
