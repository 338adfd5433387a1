"""Live video: an answer after each frame, at the cost and with the memory of one window, however long it lasts."""

import math
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dynvid.calibration import Audit, Reject, reject_level
from dynvid.data.transforms import decode_size, eval_transform
from dynvid.errors import InputError
from dynvid.inference.runtimes import Program
from dynvid.inference.slots import Frame, Slot, Slots, check_frame
from dynvid.inference.walk import Track, Window
from dynvid.inference.windows import Windows
from dynvid.multilabel import SEPARATOR, names_of
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit


class LiveAnswer(NamedTuple):
    """What is known when a frame has come, from the oldest window that reaches it.

    Attributes:
        stream: Which stream, as it was named in `push`; empty where there is one.
        timestamp: Of the newest frame that was taken, in seconds.
        label: Name of the class, or its number where classes have no names; of a set, names joined with `;`.
        probability: Of that label, at the exit's temperature.
        exit: Frames and depth of the exit that says so.
        start: Of the window, in seconds.
        end: Of the window, in seconds.
        is_final: Whether the window is sure, or has computed all that it may: its later answers are the same.
        is_last: Whether this is the window's last answer: its frames have all come, or no more will.
        gmacs: Spent on the window so far; where windows share frames, on what it was the first to ask for.
        milliseconds: From `push` to this answer.
        missing: Frames of the window so far that did not come in time, so that an older one stands in their place.
        gap: Seconds without frames that made this window begin anew; 0 for others.
        labels: The names in the label, one each.
        answered: Whether the label is an answer; where it is not, it is too unsure to be one.
    """

    stream: Hashable
    timestamp: float
    label: str
    probability: float
    exit: Exit
    start: float
    end: float
    is_final: bool
    is_last: bool
    gmacs: float
    milliseconds: float
    missing: int
    gap: float
    labels: tuple[str, ...] = ()
    answered: bool = True


@dataclass(eq=False)
class _Stream:
    slots: Slots
    missing: deque[bool]  # of the last T slots
    track: Track = field(default_factory=Track)
    gap: float = 0.0


class LiveRecognizer:
    """Labels streams of frames as they come; `Recognizer.live` makes one.

    A window is `window` seconds long and takes the T frames of the net, one every `window / T` seconds of the frames'
    own timestamps: the newest frame at or before that time, as it is known when the next frame comes. It walks the
    route as its frames arrive and leaves by the first exit that is sure; without `continual`, label, exit and
    probability are those that the recognizer gives a clip of the same frames. Where each depth has its classifier,
    windows answer from their first frame on. Every window ends, so memory and the cost of a frame are bounded.

    Windows of all streams that stand at the same exit are computed together. Where the net has no shift, and each depth
    has its classifier, windows that overlap share what their frames have cost; else each is computed by itself, and a
    hop of T / 2 costs twice as much.

    A net whose shift is causal need not be reset at all: with `continual` each frame is computed once and hands its
    features on for ever, so that a window for each frame costs what windows side by side do (continual inference, as in
    Hedegaard and Iosifidis, ECCV Workshops 2022). Answers then depend on frames before the window, and a promise made
    on clips does not cover them.

    After more than `window` seconds without a frame the open window is closed and a new one begins with the next frame.
    Shorter gaps are filled with the newest frame before them, which answers count as `missing`.

    Args:
        net: The net, in eval mode.
        policy: Says when an exit is sure enough.
        class_names: Names of the classes.
        window: Seconds.
        hop: Frames of the net from the start of one window to that of the next: T, the default, begins anew with each
            window, fewer let windows overlap. With `continual` the default is 1.
        deadline_ms: Milliseconds after `push` was called after which no further step begins; a window whose frames have
            all come then keeps the answer that it has. Its first answer is always computed.
        max_gmacs: The most that is spent on a window, in GMACs.
        audit: Takes some windows on to the last exit when their answers stand, where neither limit is set. Windows that
            follow one another are much alike: one long scene can raise the alarm. Not with `continual`.
        continual: Never reset the net; it takes its frames in their order, with the online shift or none, and has a
            head per depth.
        reject: Which answers are withheld.

    Attributes:
        short_side: The short side in pixels that frames are shrunk to; larger ones may be given.

    Raises:
        ValueError: An argument is out of its range, or `continual` does not fit the net.

    Example:
        >>> import numpy as np
        >>> from dynvid import UnifiedExitNet
        >>> net = UnifiedExitNet("test_resnet", 5, num_frames=4, input_size=32, frame_order="chronological").eval()
        >>> live = LiveRecognizer(net, ThresholdPolicy(len(net.route)), window=2.0)
        >>> for i in range(60):  # at 15 frames per second
        ...     for answer in live.push(np.zeros((48, 64, 3), np.uint8), i / 15):
        ...         print(f"{answer.timestamp:.2f}", tuple(answer.exit), answer.is_final, answer.is_last)
        0.20 (1, 2) False False
        0.73 (2, 4) False False
        1.20 (3, 4) False False
        1.73 (4, 4) True True
        2.20 (1, 2) False False
        2.73 (2, 4) False False
        3.20 (3, 4) False False
        3.73 (4, 4) True True
    """

    def __init__(
        self,
        net: ExitNet | Program,
        policy: ThresholdPolicy,
        class_names: Sequence[str] | None = None,
        window: float = 4.0,
        hop: int | None = None,
        deadline_ms: float | None = None,
        max_gmacs: float | None = None,
        audit: Audit | None = None,
        continual: bool = False,
        reject: Reject | None = None,
    ) -> None:
        if continual and audit is not None:
            raise InputError("audit goes without continual: frames that it takes further change the answers after it")
        audit = audit if deadline_ms is None else None
        self._windows = Windows(net, policy, every_frame=True, max_gmacs=max_gmacs, audit=audit, continual=continual)
        frames = net.num_frames
        hop = (1 if continual else frames) if hop is None else hop
        if not 0 < window < math.inf:
            raise InputError(f"window={window}: seconds, above 0")
        if not 1 <= hop <= frames:
            raise InputError(f"hop={hop}: 1 to {frames}, the frames of a window")
        if deadline_ms is not None and not deadline_ms >= 0:  # nor is nan
            raise InputError(f"deadline_ms={deadline_ms}: 0 or more")
        self.class_names, self.window, self.hop = class_names, window, hop
        self._level = reject_level(reject)
        self.short_side = decode_size(net.input_size)
        self._num_frames, self._interval = frames, window / frames
        self._transform = eval_transform(net.input_size)
        self._seconds = math.inf if deadline_ms is None else deadline_ms / 1000
        self._streams: dict[Hashable, _Stream] = {}
        self._owed: list[LiveAnswer] = []  # to be given with the next call

    def push(self, frames: Frame | Mapping[Hashable, Frame], timestamp: float) -> list[LiveAnswer]:
        """Take a frame.

        Args:
            frames: RGB, uint8 (H, W, 3), or a function that gives it, which is called only if the frame is taken; or
                frames of several streams by their names, not always of all of them.
            timestamp: When it was taken, in seconds on any clock; of a stream they grow.

        Returns:
            An answer for each frame that the net takes, of each stream in its order; most frames are not taken. None
            before a window's first exit where each exit has its own classifier.

        Raises:
            ValueError: A frame is no image, or its time is not after that of the frame before; nothing was taken then.
            Exception: What a function raises that was given as a frame. It is left out, other streams go on, and what
                they say now comes with the next call.
        """
        began = time.perf_counter()
        given = frames if isinstance(frames, Mapping) else {"": frames}
        for name, frame in given.items():  # of all, before anything is taken
            check_frame(frame)
            if name in self._streams:
                self._streams[name].slots.check(timestamp)
        answers, self._owed = self._owed, []
        taken: dict[Hashable, list[Slot]] = {}
        failed: Exception | None = None
        for name, frame in given.items():
            stream = self._streams.get(name)
            if stream is None or (gap := stream.slots.gap(timestamp)):
                answers += [] if stream is None else self._close(name, stream, began)
                self._streams[name] = self._new(stream.slots if stream else None, gap if stream else 0.0)
            try:
                taken[name] = self._streams[name].slots.push(frame, timestamp)
            except Exception as error:
                failed = failed or error
        answers += self._take(taken, began)
        if failed:
            self._owed = answers
            raise failed
        return answers

    def finish(self, timestamp: float | None = None, stream: Hashable | None = None) -> list[LiveAnswer]:
        """End a stream, or all of them: what is known up to its end is answered, and it is forgotten.

        Args:
            timestamp: When it ended, in seconds; by default with its newest frame.
            stream: Its name; None for all.
        """
        began = time.perf_counter()
        ended = {n: s for n, s in self._streams.items() if stream is None or n == stream}
        ends = {name: (one.slots.newest or 0.0) if timestamp is None else timestamp for name, one in ended.items()}
        owed, self._owed = self._owed, []
        answers = owed + self._take({name: one.slots.finish(ends[name]) for name, one in ended.items()}, began)
        for name, one in ended.items():
            answers += self._close(name, one, began)
            del self._streams[name]
        return answers

    def _new(self, slots: Slots | None, gap: float) -> _Stream:
        slots = slots or Slots(self._interval, self.window, self._transform)
        return _Stream(slots, deque(maxlen=self._num_frames), gap=gap)

    def _take(self, taken: Mapping[Hashable, Sequence[Slot]], began: float) -> list[LiveAnswer]:
        """Take frames into windows, one of each stream at a time, so that those that come together go on together."""
        answers = []
        for turn in range(max(map(len, taken.values()), default=0)):
            now = {self._streams[name]: (name, slots[turn]) for name, slots in taken.items() if turn < len(slots)}
            for stream, (_, slot) in now.items():
                self._windows.add(stream.track, slot.frame)
                stream.missing.append(slot.is_late)
                if slot.number % self.hop == 0:
                    self._windows.begin(stream.track, slot.number)
            self._windows.go_on([window for stream in now for window in stream.track.windows], began + self._seconds)
            for stream, (name, slot) in now.items():
                window = stream.track.windows[0]
                is_last = self._windows.is_whole(window)
                if window.said:
                    answers.append(self._said(name, stream, window, slot.timestamp, is_last, began))
                if is_last:
                    stream.track.windows.popleft()
                self._windows.forget(stream.track, stream.track.count)
        return answers

    def _close(self, name: Hashable, stream: _Stream, began: float) -> list[LiveAnswer]:
        """End the open windows; the oldest says what it knows."""
        windows = list(stream.track.windows)
        self._windows.stop(windows)
        stream.track.windows.clear()
        self._windows.forget(stream.track, stream.track.count)
        if not windows or windows[0].said is None:
            return []
        return [self._said(name, stream, windows[0], stream.slots.newest or 0.0, True, began)]

    def _said(
        self, name: Hashable, stream: _Stream, window: Window, timestamp: float, is_last: bool, began: float
    ) -> LiveAnswer:
        said, start = window.said, stream.slots.origin + window.start * self._interval
        assert said is not None
        come = stream.track.count - window.start
        names = names_of(said.label, self.class_names)
        return LiveAnswer(
            stream=name,
            timestamp=timestamp,
            label=SEPARATOR.join(names),
            probability=said.probability,
            exit=said.exit,
            start=start,
            end=start + self.window,
            is_final=window.done,
            is_last=is_last,
            gmacs=window.gmacs,
            milliseconds=(time.perf_counter() - began) * 1000,
            missing=sum(list(stream.missing)[-come:]),
            gap=0.0 if window.start else stream.gap,
            labels=names,
            answered=said.probability >= self._level,
        )
