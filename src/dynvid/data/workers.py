"""A function applied to files side by side, in processes that can be killed one by one and end with their parent."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from threading import Thread
from typing import Generic, TypeVar

from dynvid.errors import ModeError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """What stands for the result of a file that took its process down, or too long.

    Attributes:
        reason: Which of the two, in words.
    """

    reason: str


@dataclass
class _Worker(Generic[Result]):
    process: ForkServerProcess
    pipe: "Connection[str, Result]"
    path: str | None = None  # None until it is ready for the first
    deadline: float = inf

    def end(self) -> None:
        self.process.kill()
        self.process.join(5)  # longer only where a dead disk holds it
        self.pipe.close()


def apply(
    function: Callable[[str], Result], paths: Iterable[str], num_workers: int, time_limit: float
) -> Iterator[tuple[str, Result | Lost]]:
    """Apply a function to paths, in no particular order.

    Args:
        function: One that can be imported; what it gives is pickled.
        paths: Each goes to one process.
        num_workers: How many processes, 1 or more.
        time_limit: Seconds that one path may take before its process is killed.

    Yields:
        A path and its result, or `Lost`.

    Raises:
        ModeError: A process ends before it has begun: not the fault of a file.
    """
    waiting = deque(paths)
    workers: list[_Worker[Result]] = []
    try:
        while waiting or workers:
            while len(workers) < min(num_workers, len(waiting) + sum(worker.path is not None for worker in workers)):
                workers.append(_start(function))
            first = min(worker.deadline for worker in workers)
            ready = wait(
                [worker.pipe for worker in workers], None if first == inf else max(0, first - time.monotonic())
            )
            for worker in workers.copy():
                path, lost = worker.path, None
                if worker.pipe in ready:
                    try:
                        result = worker.pipe.recv()
                    except (EOFError, OSError):
                        lost = Lost("the process died while decoding (a crash, or out of memory)")
                elif time.monotonic() >= worker.deadline:
                    lost = Lost(f"took longer than {time_limit:g} s")
                else:
                    continue
                if lost and path is None:
                    raise ModeError(
                        "a process to decode in could not start; a script needs `if __name__ == '__main__':` around "
                        "its calls, or num_workers=0"
                    )
                if lost or not waiting:
                    workers.remove(worker)
                    worker.end()
                else:
                    worker.path = waiting.popleft()
                    worker.deadline = time.monotonic() + time_limit
                    with suppress(OSError):  # where it has just died, its pipe tells next
                        worker.pipe.send(worker.path)
                if path is not None:
                    yield path, lost or result
    finally:
        for worker in workers:
            worker.end()


def _start(function: Callable[[str], Result]) -> _Worker[Result]:
    # Not forked from here, where the threads of torch and FFmpeg may hold locks, but from a process that has imported
    # the function once: so that one which was killed is soon replaced.
    context = get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the process inherits it: Ctrl-C is ours
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()  # so that ours ends with the process
    return _Worker(process, ours)


def _work(pipe: "Connection[Result | None, str]", function: Callable[[str], Result]) -> None:
    """What a process does: answer one path after the other."""
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        pipe.send(None)
        while True:
            pipe.send(function(pipe.recv()))


def _end_with_parent() -> None:
    """A parent that was killed can end nobody."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
