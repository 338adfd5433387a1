"""Frames at even distances, out of frames that come when they come: by their timestamps, never by an assumed rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
        self._known: list[Slot] = []
        self._frame: Frame | None = None
        self._prepared: Tensor | None = None

    def gap(self, timestamp: float) -> float:
        """Seconds since the newest frame, where they are too many to go on; else 0."""
        since = 0.0 if self.newest is None else timestamp - self.newest
        return since if since > self.longest_gap else 0.0

    def check(self, timestamp: float) -> None:
        """Raise ValueError unless a frame may come at that time; see `check_frame`, too."""
        if not np.isfinite(timestamp):
            raise InputError(f"a timestamp is {timestamp}: give seconds")
        if self.newest is not None and timestamp <= self.newest:
            raise InputError(f"a frame at {timestamp:.6g} s after one at {self.newest:.6g} s: times must grow")

    def push(self, frame: Frame, timestamp: float) -> list[Slot]:
        """Take a frame, and give the slots that are known by it.

        Raises:
            ValueError: Its time is not after that of the frame before, or the frame is no image. A function is called
                later, so what it raises may come with the next frame; it is not asked again, and frames go on.
        """
        self.check(timestamp)
        check_frame(frame)
        if self.newest is None or self.gap(timestamp):
            self.origin, self._next = timestamp, 0
        try:
            self._fill(timestamp - _SLACK)
        finally:
            self._frame, self._prepared, self.newest = frame, None, timestamp
        return self._filled(timestamp + _SLACK)

    def finish(self, timestamp: float) -> list[Slot]:
        """The slots before a time, when no frame comes any more: one at least, where there were frames."""
        if self.newest is None:
            return []
        first = self.origin + 0.5 * self.interval + _SLACK if self._next == 0 else timestamp
        return self._filled(max(first, min(timestamp, self.newest + self.longest_gap)))

    def _filled(self, timestamp: float) -> list[Slot]:
        """The slots before a time that nobody was given yet."""
        self._fill(timestamp)
        known, self._known = self._known, []
        return known

    def _fill(self, timestamp: float) -> None:
        while (time := self.origin + (self._next + 0.5) * self.interval) < timestamp:
            image = self._image()
            if image is None or self.newest is None:
                break
            is_late = time - self.newest > self.interval + _SLACK
            self._known.append(Slot(self._next, image, self.newest, is_late))
            self._next += 1

    def _image(self) -> Tensor | None:
        """The newest frame as the net takes it; None where it turned out to be no image, until another comes."""
        if self._frame is not None:
            frame, self._frame = self._frame, None
            image = check_frame(frame() if callable(frame) else frame)
            self._prepared = self._transform(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None])[0]
        return self._prepared


def check_frame(frame: Frame) -> Any:
    """An image as an array; functions are given back as they are.

    Raises:
        ValueError: It is no image.
    """
    if callable(frame):
        return frame
    image = np.asarray(frame)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"a frame is {image.dtype} {image.shape}: give RGB, uint8 (height, width, 3)")
    return image
