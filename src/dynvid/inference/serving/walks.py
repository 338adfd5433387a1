"""Requests as they come, walking the route together: one thread steps, others decode."""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from dynvid.inference.pool import Answer, Limits, Outcome, Pool, Video
from dynvid.inference.preparation import Source
from dynvid.inference.recognizer import Recognizer

Tell = Callable[[Answer | Outcome], None]
logger = logging.getLogger(__name__)


class FaultError(Exception):
    """The machine's fault, or a bug: not the video's; its cause is what was raised."""


@dataclass(eq=False)
class Walk:
    """A request on its way.

    Attributes:
        number: In the order of their coming.
        source: Its video.
        limits: What it may cost.
        tell: Is told each exit's `Answer`, and at the end the `Outcome`, by the thread that computes.
        began: When it came, by `time.perf_counter`.
    """

    number: int
    source: Source
    limits: Limits
    tell: Tell
    began: float
    video: Video | None = None
    gone: bool = False


class Walks:
    """Takes requests as they come through one pool.

    No step waits until it is full: whatever stands beside the oldest request goes along with it, so batches form by
    themselves where requests come faster than they are answered.

    Args:
        recognizer: What answers.
        batch_size: Videos of a step at most, when they are joined.
        workers: Threads that decode.
        on_step: Told the number of videos of each step that was run.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> walks = Walks(Recognizer(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32)))
        >>> told = []
        >>> _ = walks.begin(b"no video", told.append)
        >>> walks.close()
        >>> print(told[0])
        <bytes>: cannot open (Invalid data found when processing input)
    """

    def __init__(
        self,
        recognizer: Recognizer,
        batch_size: int = 8,
        workers: int = 2,
        on_step: Callable[[int], None] = lambda videos: None,
    ) -> None:
        self.recognizer, self.batch_size, self.on_step = recognizer, batch_size, on_step
        self._executor = ThreadPoolExecutor(workers, "dynvid-decode")
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._wake, self._closed = threading.Event(), False
        self._coming: deque[Walk] = deque()
        self._walking: dict[int, Walk] = {}
        self._pool = self._new_pool()
        self._thread = threading.Thread(target=self._run, name="dynvid-pool")
        self._thread.start()

    def begin(
        self, source: Source, tell: Tell, max_gmacs: float | None = None, deadline_ms: float | None = None
    ) -> Walk:
        """Begin with a request; from any thread.

        Args:
            source: Its video.
            tell: Is told what comes of it, by the thread that computes: to be quick.
            max_gmacs: As `Recognizer.__call__` takes it.
            deadline_ms: Likewise, counted from now.

        Raises:
            ValueError: `max_gmacs` does not reach to the first exit, or `deadline_ms` is below 0.
        """
        limits = self.recognizer.limits(max_gmacs, deadline_ms)
        walk = Walk(next(self._numbers), source, limits, tell, time.perf_counter())
        self._coming.append(walk)
        self._wake.set()
        return walk

    def leave(self, walk: Walk) -> None:
        """End a walk before its next step, because nobody waits for it; from any thread."""
        with self._lock:
            walk.gone = True
            if walk.video:
                walk.video.gone = True
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Requests that have not been opened yet."""
        return len(self._coming)

    @property
    def alive(self) -> bool:
        """Whether the thread that computes is there."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Take no more, and wait until all that came are answered."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self._executor.shutdown(cancel_futures=True)

    def _new_pool(self) -> Pool:
        recognizer = self.recognizer
        return Pool(recognizer.net, recognizer.policy, self.batch_size, self._submit, audit=recognizer.audit)

    def _submit(self, function: Callable[..., Any], *arguments: object) -> "Future[Any]":
        future = self._executor.submit(function, *arguments)
        future.add_done_callback(lambda _: self._wake.set())
        return future

    def _run(self) -> None:
        while True:
            self._wake.clear()  # before looking, so that what comes meanwhile is seen
            moved = False
            try:
                self._take_in()
                moved = self._pool.step()
                if moved and self._pool.steps:
                    self.on_step(self._pool.steps.pop()[1])
            except Exception as error:
                logger.exception("dynvid: a step failed")
                self._pool = self._new_pool()
                for walk in [*self._walking.values()]:
                    fault = FaultError("the server failed on it")
                    fault.__cause__ = error.with_traceback(None)  # whose frames hold what fills the memory
                    self._end(walk.number, fault)
            for number, outcome in self._pool.ended().items():
                self._end(number, outcome)
            if self._closed and not self._coming and not self._walking:
                return
            if not moved:
                self._wake.wait()

    def _take_in(self) -> None:
        while self._coming and self._pool.wants_more:
            walk = self._coming.popleft()
            self._walking[walk.number] = walk
            opener = partial(self.recognizer.preparation.open, walk.source)
            with self._lock:
                walk.video = self._pool.begin(walk.number, opener, walk.limits, walk.began, walk.tell)
                walk.video.gone = walk.gone

    def _end(self, number: int, outcome: Outcome) -> None:
        walk = self._walking.pop(number)
        walk.video = None
        walk.tell(outcome)
