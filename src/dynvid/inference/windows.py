"""Windows: clips whose frames arrive one by one, on their way along a route.

A window walks as far as the frames that have come allow, and leaves at the first exit that is sure, as a clip does: its
answers are those of a clip of the same frames. Windows that stand at the same exit are computed together. Where the net
has no shift, or is never reset, windows that overlap share what each of their frames has cost (`shared.py`).
"""

import time
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from dynvid.calibration import Audit
from dynvid.errors import InputError
from dynvid.inference.runtimes import Program
from dynvid.inference.shared import SharedWalk
from dynvid.inference.walk import Said, StreamWalk, Track, Walk, Window
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit, Route


class Windows:
    """Takes windows along the route of a net, as their frames arrive.

    Args:
        net: The net, in eval mode.
        policy: Says when an exit is sure enough.
        every_frame: Answer also between exits, where each depth has its classifier (`heads="depth"`): after each frame
            that comes next in the net's order, at the depth of the next exit. These answers stop no window.
        max_gmacs: The most that may be spent on a window, in GMACs.
        batch_size: Windows that take a step together, at most.
        audit: Takes some windows on to the last exit when their answers stand; none where `max_gmacs` may end a walk.
        continual: Never reset a net with the online shift: each frame is computed once.

    Attributes:
        route: The exits that are computed, the added ones included.
        gmacs: GMACs up to each of them, of a window that shares nothing.
        steps: Position and size of the last steps that were run.

    Raises:
        ValueError: `max_gmacs` does not reach to the first exit, the net is not one of torch, or `continual` does not
            fit it.
    """

    def __init__(
        self,
        net: ExitNet | Program,
        policy: ThresholdPolicy,
        every_frame: bool = False,
        max_gmacs: float | None = None,
        batch_size: int = 8,
        audit: Audit | None = None,
        continual: bool = False,
    ) -> None:
        if not isinstance(net, ExitNet):
            raise InputError("frames that arrive one by one are computed by torch alone: load with runtime='torch'")
        self._audit = audit if max_gmacs is None else None
        by_depth = _heads_by_depth(net)
        if continual:
            _check_continual(net, by_depth)
        between = every_frame and by_depth and net.shift_kind != "bidirectional"  # which needs all frames at once
        exits = with_answers(net.route, net.order) if between else list(enumerate(net.route))
        self._own = [own for own, _ in exits]
        self.route: Route = tuple(e for _, e in exits)
        self.gmacs: Sequence[float] = net.cell_costs.of(self.route) if by_depth else net.gmacs
        walked = net.along(self.route) if len(exits) > len(net.route) else net
        self.net, self.policy, self.batch_size = net, policy, batch_size
        self._arrives = [max(net.order[: e.frames]) for e in self.route]  # the last frame that each exit waits for
        self.steps: deque[tuple[int, int]] = deque(maxlen=1000)
        self._last = self._within(max_gmacs)
        shared = by_depth and (continual or net.shift_kind == "none")
        self._walk: Walk = SharedWalk(walked) if shared else StreamWalk(walked, self.gmacs)

    def _within(self, max_gmacs: float | None) -> int:
        """The last exit of the net's own within a budget, by its position among those that are computed."""
        own = [k for k, position in enumerate(self._own) if position is not None]
        within = [k for k in own if max_gmacs is None or self.gmacs[k] <= max_gmacs]
        if not within:
            raise InputError(f"max_gmacs={max_gmacs:g}: the first exit takes {self.gmacs[own[0]]:.4g} GMACs")
        return within[-1]

    def add(self, track: Track, frame: Tensor) -> None:
        """The next frame of a track, uint8 (C, H, W) as the net takes it."""
        track.frames[track.count] = frame.to(self.net.device, non_blocking=True)
        track.count += 1

    def begin(self, track: Track, start: int) -> Window:
        """A window over the T frames of a track from `start` on; those that have come must not be forgotten yet."""
        window = Window(track, start, audited=self._audit is not None and self._audit.draw())
        track.windows.append(window)
        return window

    def is_whole(self, window: Window) -> bool:
        """Whether all its frames have come."""
        return window.track.count - window.start >= self.net.num_frames

    @torch.inference_mode()
    def go_on(self, windows: Sequence[Window], until: float = float("inf")) -> None:
        """Take windows as far as their frames allow.

        Args:
            windows: Those that may go on; others that walk with them stay where they are.
            until: Time of `time.perf_counter` after which no step begins; windows whose frames have all come keep the
                answer that they have then. A window's first answer is always computed.
        """
        going = [window for window in windows if not window.ended]
        for position in range(self._last + 1):
            ready = [w for w in going if w.position == position and self._may_pass(w)]
            for begin in range(0, len(ready), self.batch_size):
                if position == 0 or time.perf_counter() < until:
                    self._step(position, ready[begin : begin + self.batch_size])
        if time.perf_counter() >= until:
            self.stop([window for window in going if self.is_whole(window)])

    def stop(self, windows: Sequence[Window]) -> None:
        """Let windows keep the answers that they have; audits under way are given up."""
        open_ones = [window for window in windows if not window.ended]
        for window in open_ones:
            window.done, window.audited = True, False
        self._walk.release(open_ones)

    def forget(self, track: Track, before: int) -> None:
        """Let go of the frames of a track before a number, except those that windows still need."""
        needed = [window.start for window in track.windows if not window.ended]
        self._walk.forget(track, min([before, *needed]))

    def _may_pass(self, window: Window) -> bool:
        return not window.ended and window.start + self._arrives[window.position] < window.track.count

    def _step(self, position: int, windows: Sequence[Window]) -> None:
        self.steps.append((position, len(windows)))
        rows, logits = self._walk.advance(windows, position)
        own = self._own[position]
        # An answer between exits is said at the temperature of the next one.
        exit_of = own if own is not None else next(k for k in self._own[position:] if k is not None)
        answers, probabilities = self.policy.answers(logits), self.policy.class_probabilities(exit_of, logits)
        sure = torch.zeros(len(rows), device=logits.device)
        if own is not None:
            earlier = None
            if self.policy.looks_back:
                earlier = torch.stack([torch.cat([answers[:0], *w.labels]) for w in rows], 1)
            sure = self.policy.confident(own, logits, earlier)
        columns = [sure, self.policy.probability(exit_of, logits), probabilities, answers]
        # The one time that the device is waited for.
        found = torch.cat([x.double().reshape(len(rows), -1) for x in columns], 1).cpu()
        classes = logits.shape[-1]
        for n, (window, (stops, probability, *others)) in enumerate(zip(rows, found.tolist(), strict=True)):
            label = self.policy.label(others[classes:])
            window.position += 1
            if own is not None:
                window.labels.append(answers[n : n + 1])
            if not window.done:
                window.said = Said(self.route[position], label, probability, found[n, 2 : 2 + classes])
                window.done = bool(stops) or position == self._last
            if window.audited and position == self._last:
                window.audited = False
                if self._audit is not None and window.said is not None:
                    self._audit.add(window.said.label != label)
        self._walk.release([window for window in rows if window.ended])


def with_answers(route: Route, order: Sequence[int]) -> list[tuple[int | None, Exit]]:
    """A route with an answer after each frame that comes next in the order, as early as frames arrive.

    An added exit lies at the depth of the next exit of the route, where its frames are needed anyway. There is none
    where the frame after it is there already.

    Args:
        route: The exits.
        order: Temporal indices of the frames in processing order.

    Returns:
        Exits, each with its position on the route, None for those that were added.

    Example:
        >>> [tuple(e) for _, e in with_answers((Exit(2, 2), Exit(4, 3), Exit(4, 4)), [0, 3, 1, 2])]
        [(1, 2), (2, 2), (4, 3), (4, 4)]
    """
    arrival = [max(order[:n]) for n in range(1, len(order) + 1)]
    found: list[tuple[int | None, Exit]] = []
    before = 0
    for position, e in enumerate(route):
        between = [n for n in range(before + 1, e.frames) if arrival[n - 1] < arrival[n]]
        found += [(None, Exit(n, e.depth)) for n in between]
        found.append((position, e))
        before = e.frames
    return found


def _heads_by_depth(net: ExitNet) -> bool:
    try:
        return bool(net.head_depths)
    except InputError:  # each exit has its own
        return False


def _check_continual(net: ExitNet, by_depth: bool) -> None:
    """Raise ValueError unless each frame needs only those before it, and exits only the mean over a window."""
    if not by_depth:
        raise InputError("continual: each exit of this net has its own classifier; train with --model.net.heads depth")
    if net.shift_kind == "bidirectional":
        raise InputError("continual: this net's shift looks ahead; train with --model.net.shift online")
    if net.shift_kind == "online" and (list(net.order) != list(range(net.num_frames)) or any(net.fresh[1:])):
        raise InputError("continual: this net takes its frames out of order; train one with frame_order chronological")
