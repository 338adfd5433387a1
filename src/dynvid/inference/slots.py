"""Frames at even distances, out of frames that come when they come: by their timestamps, never by an assumed rate."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynvid.data.transforms import Transform
from dynvid.errors import InputError

Pixels = NDArray[np.uint8]
Frame = Pixels | Callable[[], Pixels]
"""RGB, uint8 (H, W, 3); or a function that gives it, so that frames that nobody needs are never converted."""

_SLACK = 1e-6  # seconds: timestamps are rounded


class Slot(NamedTuple):
    """A frame that a window takes.

    Attributes:
        number: Counted from the first after the start.
        frame: As the net takes it, uint8 (C, size, size).
        timestamp: Of the frame, in seconds.
        is_late: Whether the frame is older than the time between slots, since none came.
    """

    number: int
    frame: Tensor
    timestamp: float
    is_late: bool


class Slots:
    """Takes the newest frame at or before each slot's time; slots lie at the centres of equal segments, as in clips.

    A slot is known when the first frame behind its time is there. After a gap that is longer than `longest_gap` slots
    are counted anew, from the first frame behind it.

    Args:
        interval: Seconds between slots.
        longest_gap: In seconds.
        transform: From uint8 (n, C, H, W) to what the net takes.

    Attributes:
        origin: Time in seconds from which slots are counted; slot k is at `origin + (k + 0.5) * interval`.
        newest: Timestamp of the newest frame, None before the first.

    Example:
        >>> slots = Slots(1.0, 8.0, lambda x: x)
        >>> image = np.zeros((4, 4, 3), np.uint8)
        >>> [(s.number, s.timestamp) for t in (10.0, 10.4, 10.8, 11.6) for s in slots.push(image, t)]
        [(0, 10.4), (1, 10.8)]
    """

    def __init__(self, interval: float, longest_gap: float, transform: Transform) -> None:
        self.interval, self.longest_gap, self._transform = interval, longest_gap, transform
        self.origin = 0.0
        self.newest: float | None = None
        self._next = 0
        self._frame: Frame | None = None
        self._prepared: Tensor | None = None

    def gap(self, timestamp: float) -> float:
        """Seconds since the newest frame, where they are too many to go on; else 0."""
        since = 0.0 if self.newest is None else timestamp - self.newest
        return since if since > self.longest_gap else 0.0

    def check(self, timestamp: float) -> None:
        """Raise ValueError unless a frame may come at that time."""
        if not np.isfinite(timestamp):
            raise InputError(f"a timestamp is {timestamp}: give seconds")
        if self.newest is not None and timestamp <= self.newest:
            raise InputError(f"a frame at {timestamp:.6g} s after one at {self.newest:.6g} s: times must grow")

    def push(self, frame: Frame, timestamp: float) -> list[Slot]:
        """Take a frame, and give the slots that are known by it.

        Raises:
            ValueError: Its time is not after that of the frame before, or the frame is no image.
        """
        self.check(timestamp)
        if self.newest is None or self.gap(timestamp):
            self.origin, self._next = timestamp, 0
        known = self._before(timestamp - _SLACK)
        self._frame, self._prepared, self.newest = frame, None, timestamp
        return known + self._before(timestamp + _SLACK)

    def finish(self, timestamp: float) -> list[Slot]:
        """The slots before a time, when no frame comes any more."""
        return [] if self.newest is None else self._before(min(timestamp, self.newest + self.longest_gap))

    def _before(self, timestamp: float) -> list[Slot]:
        slots = []
        while (time := self.origin + (self._next + 0.5) * self.interval) < timestamp:
            assert self.newest is not None
            is_late = time - self.newest > self.interval + _SLACK
            slots.append(Slot(self._next, self._image(), self.newest, is_late))
            self._next += 1
        return slots

    def _image(self) -> Tensor:
        if self._prepared is None:
            assert self._frame is not None
            image = np.asarray(self._frame() if callable(self._frame) else self._frame)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise InputError(f"a frame is {image.dtype} {image.shape}: give RGB, uint8 (height, width, 3)")
            self._prepared = self._transform(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None])[0]
        return self._prepared
