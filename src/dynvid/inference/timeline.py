"""What happens when in a long video: segments with a label, found by windows that overlap.

The file is read once from front to back, whatever its length; windows share its frames, and what these cost where the
net has no shift. Each window leaves by the first exit that is sure.

Shapes: T frames of a window; frames of the net lie `window / T` seconds apart and are called slots.
"""

import csv
import io
import math
from html import escape
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynvid.calibration import reject_level
from dynvid.data.reading.forward import ForwardVideo
from dynvid.data.transforms import decode_size, eval_transform
from dynvid.errors import InputError
from dynvid.inference.recognizer import Recognizer
from dynvid.inference.slots import Slots
from dynvid.inference.walk import Track
from dynvid.inference.windows import Windows
from dynvid.text import printable

NONE = "none"
"""The label where nothing is sure enough, answers are withheld, or the background or a class of `NO_CLASS` is."""

NO_CLASS = frozenset({"none", "background", "no action", "no_action"})
"""Names of classes, in lower case, that stand for no class."""


class Segment(NamedTuple):
    """A stretch of a video with one label.

    Attributes:
        start: In seconds since the first frame.
        end: Likewise.
        label: Name of the class, or its number where classes have no names; `none` where nothing is sure enough.
        probability: Of that class, at the temperatures of the exits that windows left by: the mean over the stretch.
            Of `none`, that of the best class.
    """

    start: float
    end: float
    label: str
    probability: float


class Timeline(list[Segment]):
    """Segments that cover a video without overlap, in their order, and what they cost.

    Attributes:
        windows: Windows that were looked at.
        gmacs: Spent on all of them.
        full_gmacs: What full inference of each would have cost.
        exits: Windows that left by each exit of the net.
        damaged: Frames and packets left out, since they are flagged as damaged or cannot be decoded.
        window: Seconds of a window.
        hop: Seconds from the start of one window to that of the next.
    """

    def __init__(self, exits: int, window: float, hop: float) -> None:
        super().__init__()
        self.windows = self.damaged = 0
        self.gmacs = self.full_gmacs = 0.0
        self.exits = [0] * exits
        self.window, self.hop = window, hop

    def plain(self) -> dict[str, Any]:
        """As JSON has it; times in seconds."""
        return {
            "segments": [segment._asdict() for segment in self],
            "window": self.window,
            "hop": self.hop,
            "windows": self.windows,
            "exits": self.exits,
            "gmacs": self.gmacs,
            "full_gmacs": self.full_gmacs,
            "saved": 1 - self.gmacs / self.full_gmacs if self.full_gmacs else 0.0,
            "damaged": self.damaged,
        }

    def csv(self) -> str:
        """A table with a heading; times in seconds."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(Segment._fields)
        writer.writerows((f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.probability:.4f}") for s in self)
        return table.getvalue()

    def vtt(self) -> str:
        """WebVTT, which players show as subtitles; where the label is `none`, there are none."""
        cues = ["WEBVTT\n"]
        for s in self:
            start, end = round(s.start * 1000), round(s.end * 1000)
            if s.label != NONE and start < end:
                text = escape(printable(s.label), quote=False)
                cues.append(f"{_clock(start)} --> {_clock(end)}\n{text} ({100 * s.probability:.0f} %)\n")
        return "\n".join(cues)


def timeline(
    recognizer: Recognizer,
    video: str | Path | bytes | BinaryIO,
    window: float | None = None,
    hop: float | None = None,
    min_length: float | None = None,
    min_probability: float = 0.3,
    max_gmacs: float | None = None,
    batch_size: int = 8,
) -> Timeline:
    """Find what happens when in a video.

    Memory does not depend on the length of the video, save for the segments that are found: the file is decoded once,
    from its first frame to its last, and a batch of windows is in memory. So there is no limit on its length; but
    nothing is skipped in decoding either, and what is cut off at the end is read like an end.

    Args:
        recognizer: A trained net at work.
        video: The path of a video file, its bytes, or a binary file object.
        window: Seconds that the net looks at, at a time: as long as the clips that it was trained on. By default 4, or
            the whole video where that is shorter.
        hop: Seconds from the start of one window to that of the next, in whole slots; at most a window, by
            default a quarter of one.
        min_length: Segments that are shorter, in seconds, are given to a neighbour; by default half of a window.
        min_probability: Below it, the label is `none`. Means of windows on both sides of a boundary are low, too. So it
            is where the recognizer withholds the answers of half of the windows, or more.
        max_gmacs: The most that is spent on a window, in GMACs.
        batch_size: Windows that are computed together.

    Raises:
        VideoError: The file cannot be opened or read.
        ValueError: A number is out of its range, or the labels of the recognizer are sets.

    Example:
        >>> import tempfile
        >>> from dynvid import UnifiedExitNet
        >>> from dynvid.data.synthetic import write_clip
        >>> path = Path(tempfile.mkdtemp(), "long.mp4")
        >>> write_clip(path, np.zeros((240, 32, 32, 3), np.uint8), fps=12)
        >>> net = UnifiedExitNet("test_resnet", num_classes=2, num_frames=4, input_size=32)
        >>> found = timeline(Recognizer(net), path, min_probability=0.0)
        >>> [(segment.start, segment.end) for segment in found], found.windows
        ([(0.0, 20.0)], 17)
    """
    for name, seconds in (("window", window), ("hop", hop)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise InputError(f"{name}={seconds}: seconds, above 0")
    if not 0 <= min_probability <= 1 or batch_size < 1:
        raise InputError(f"min_probability={min_probability}, batch_size={batch_size}: 0 to 1, and 1 or more")
    if hop is not None and hop > (window or 4.0):
        raise InputError(f"hop={hop}: at most a window, {window or 4.0:g} seconds; what lies between is not looked at")
    if min_length is not None and not 0 <= min_length < math.inf:
        raise InputError(f"min_length={min_length}: seconds, 0 or more")
    if recognizer.policy.multi_label:
        raise InputError(
            "timeline: this model answers with sets of labels, and a segment has one; `dynvid live` takes it, which "
            "gives the set of each window"
        )
    net = recognizer.net
    windows = Windows(net, recognizer.policy, max_gmacs=max_gmacs, batch_size=batch_size, audit=recognizer.audit)
    reader = ForwardVideo(video, short_side=decode_size(net.input_size))
    stretch: _Stretch | None = None
    last = 0.0
    for frame in reader:
        if stretch is None:  # now the file is open, and its length is known where it is stated
            length = min(4.0, reader.duration or 4.0) if window is None else window
            interval = length / net.num_frames
            step = min(max(1, round((length / 4 if hop is None else hop) / interval)), net.num_frames)
            found = Timeline(len(net.route), length, step * interval)
            segments = _Segments(found, recognizer, min_probability, length / 2 if min_length is None else min_length)
            slots = Slots(interval, length, eval_transform(net.input_size))
            stretch = _Stretch(windows, step, slots, segments)
        elif slots.gap(frame.timestamp):
            for slot in slots.finish(last + 1 / reader.fps):
                stretch.add(slot.frame)
            stretch.finish()
            stretch = _Stretch(windows, step, slots, segments)
        last = frame.timestamp
        for slot in slots.push(frame.image, last):
            stretch.add(slot.frame)
    assert stretch is not None  # a video without frames is an error
    end = last + 1 / reader.fps
    for slot in slots.finish(end):
        stretch.add(slot.frame)
    stretch.finish()
    segments.finish(end)
    found.full_gmacs, found.damaged = found.windows * recognizer.full_gmacs, reader.damaged
    return found


class _Stretch:
    """Frames without a gap, and the windows over them.

    Args:
        windows: Computes them.
        step: Slots from the start of one window to that of the next.
        slots: Where frames come from.
        segments: Is given the probabilities of each slot, the mean of the windows over it, and after them the share of
            these windows whose answers are withheld.
    """

    def __init__(self, windows: Windows, step: int, slots: Slots, segments: "_Segments") -> None:
        self._windows, self._step, self._segments = windows, step, segments
        self._slots, self._frames = slots, windows.net.num_frames
        self._track = Track()
        self._sums: dict[int, tuple[NDArray[np.float64], int]] = {}  # of slots that more windows may look at
        self._given = 0

    def add(self, frame: Tensor) -> None:
        """The frame of the next slot."""
        self._origin, self._last = self._slots.origin, frame
        self._windows.add(self._track, frame)
        start = self._track.count - self._frames
        if start >= 0 and start % self._step == 0:
            self._windows.begin(self._track, start)
        if len(self._track.windows) >= self._windows.batch_size:
            self._go_on()
        self._windows.forget(self._track, start)  # the last window may begin there

    def finish(self) -> None:
        """No frame comes any more: the last window ends with the last slot."""
        slots = self._track.count
        for _ in range(self._frames - slots if slots else 0):
            self.add(self._last)  # of a stretch that is shorter than a window
        if slots > self._frames and (slots - self._frames) % self._step:
            self._windows.begin(self._track, slots - self._frames)
        self._go_on()
        self._give(slots)
        self._windows.forget(self._track, self._track.count)

    def _go_on(self) -> None:
        track, found = self._track, self._segments.found
        self._windows.go_on(list(track.windows))
        while track.windows:
            window = track.windows.popleft()
            assert window.said is not None
            withheld = float(window.said.probability < self._segments.level)
            said = np.append(window.said.probabilities.numpy(), withheld)
            for slot in range(window.start, window.start + self._frames):
                total, count = self._sums.get(slot, (0.0, 0))
                self._sums[slot] = total + said, count + 1
            found.windows, found.gmacs = found.windows + 1, found.gmacs + window.gmacs
            found.exits[self._windows.route.index(window.said.exit)] += 1
            self._give(window.start)  # the last window of all may begin behind this one, and before the next

    def _give(self, before: int) -> None:
        """Hand on the slots before a number, at which no more windows look."""
        for slot in range(self._given, before):
            total, count = self._sums.pop(slot)
            start, interval = self._origin + slot * self._slots.interval, self._slots.interval
            self._segments.add(start, start + interval, total / count)
        self._given = max(self._given, before)


class _Run:
    """Slots with one label; `scores` are summed over them, the last being that of `none`."""

    def __init__(self, label: int, start: float) -> None:
        self.label, self.start, self.end, self.slots = label, start, start, 0
        self.scores: NDArray[np.float64] | float = 0.0
        self.best = 0.0

    def take(self, other: "_Run") -> None:
        """Slots that follow."""
        self.end, self.slots = other.end, self.slots + other.slots
        self.scores, self.best = self.scores + other.scores, self.best + other.best


class _Segments:
    """Makes segments of slots, one after the other; those that are too short go to the neighbour that fits better.

    Args:
        found: Is given the segments.
        recognizer: Knows the names of the classes, and which answers are withheld.
        min_probability: Below it, the label is `none`.
        min_length: Of a segment, in seconds.
    """

    def __init__(self, found: Timeline, recognizer: Recognizer, min_probability: float, min_length: float) -> None:
        self.found, self._least = found, min_length
        classes = recognizer.net.num_classes
        self._names = [*(recognizer.class_names or map(str, range(classes))), NONE]
        self._empty = np.array([n.lower() in NO_CLASS or n == recognizer.background for n in self._names[:-1]])
        self.level = reject_level(recognizer.reject)
        self._floor = min_probability
        self._before: _Run | None = None  # long enough, or the first of all
        self._run: _Run | None = None
        self._end = 0.0

    def add(self, start: float, end: float, said: NDArray[np.float64] | None) -> None:
        """The slot from `start` to `end`, in seconds, and what windows say of it; None where there were no frames."""
        if start > self._end + (end - start) / 2:
            self.add(self._end, start, None)
        none = len(self._names) - 1
        one = _Run(none, round(start, 6))  # sums of intervals are not exact
        one.end, one.slots = round(end, 6), 1
        one.scores = np.zeros(none + 1)
        if said is None:
            one.scores[-1] = 1.0
        else:
            probabilities, withheld = said[:-1], said[-1]
            one.scores[:-1] = np.where(self._empty, 0.0, probabilities)
            one.scores[-1] = 1.0 if withheld >= 0.5 else max(self._floor, probabilities[self._empty].sum())
            one.label, one.best = int(one.scores.argmax()), float(probabilities.max())
        self._end = end
        if self._run is None:
            self._run = one
        elif self._run.label == one.label:
            self._run.take(one)
        else:
            self._close(one)

    def finish(self, end: float) -> None:
        """The video ends there."""
        if self._run and self._before and self._is_short(self._run):
            self._before.take(self._run)
            self._run = None
        for run in (self._before, self._run):
            if run:
                self._said(run)
        while self.found and self.found[-1].start >= end:
            self.found.pop()
        if self.found:
            self.found[-1] = self.found[-1]._replace(end=round(end, 6))

    def _is_short(self, run: _Run) -> bool:
        return run.end - run.start < self._least - 1e-6

    def _close(self, following: _Run) -> None:
        """A run is over; it is kept until it is known that the next one does not bring it back."""
        run, before = self._run, self._before
        assert run is not None
        if not self._is_short(run):
            if before:
                self._said(before)
            self._before, self._run = run, following
        elif before and (before.label == following.label or self._fits(run, before) >= self._fits(run, following)):
            before.take(run)
            if before.label == following.label:
                before.take(following)
                self._before, self._run = None, before
            else:
                self._run = following
        else:
            run.label = following.label
            run.take(following)
        # The first run has nothing before it, so that a short one goes to what follows.

    def _fits(self, run: _Run, other: _Run) -> float:
        assert not isinstance(run.scores, float)
        return float(run.scores[other.label])

    def _said(self, run: _Run) -> None:
        assert not isinstance(run.scores, float)
        label = self._names[run.label]
        score = run.best if label == NONE else float(run.scores[run.label])
        if self.found and self.found[-1].label == label:  # what was between them went to one of them
            last = self.found[-1]
            both = (run.end - run.start) + (last.end - last.start)
            mean = (last.probability * (last.end - last.start) + score / run.slots * (run.end - run.start)) / both
            self.found[-1] = Segment(last.start, run.end, label, mean)
        else:
            self.found.append(Segment(run.start, run.end, label, score / run.slots))


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"
