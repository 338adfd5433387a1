"""Time measured in turns: what is compared runs in the same rounds, so that a busy machine slows all of it."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import torch

Result = TypeVar("Result")


class Time(NamedTuple):
    """Seconds.

    Attributes:
        wall: On the wall.
        cpu: Of the processor, all threads of the process together.
    """

    wall: float
    cpu: float

    def since(self, began: "Time") -> "Time":
        """What passed since then."""
        return Time(self.wall - began.wall, self.cpu - began.cpu)


Clock = Callable[[], Time]


class Spread(NamedTuple):
    """A figure that was measured several times.

    Attributes:
        median: Of the repeats.
        low: The lowest of them.
        high: The highest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of at least one value.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.0, high=3.0)
        """
        return cls(statistics.median(values), min(values), max(values))


def clock_of(device: torch.device) -> Clock:
    """A clock that lets the device finish before it is read."""

    def now() -> Time:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Time(time.perf_counter(), time.process_time())

    return now


def in_turns(
    programs: Sequence[Callable[[], Result]], repeats: int, clock: Clock, seconds: float = float("inf")
) -> list[list[tuple[Time, Result]]]:
    """Run programs one after the other, again and again, every second round backwards.

    Args:
        programs: What is to be compared.
        repeats: Rounds.
        clock: Says what time it is.
        seconds: No round begins later than this after the first began.

    Returns:
        For each round, what each program took and gave, in the order of `programs`; at least one round.

    Example:
        >>> ticks = iter(range(100))
        >>> rounds = in_turns([lambda: "a", lambda: "b"], 2, lambda: Time(next(ticks), 0.0))
        >>> [[given for _, given in one] for one in rounds]
        [['a', 'b'], ['a', 'b']]
    """
    rounds: list[list[tuple[Time, Result]]] = []
    start = clock().wall
    while len(rounds) < repeats and (not rounds or clock().wall - start < seconds):
        order = range(len(programs))
        found: dict[int, tuple[Time, Result]] = {}
        for place in order if len(rounds) % 2 == 0 else reversed(order):
            began = clock()
            given = programs[place]()
            found[place] = clock().since(began), given
        rounds.append([found[place] for place in order])
    return rounds


def matrix_rate(device: torch.device, dtype: torch.dtype, clock: Clock, repeats: int = 30) -> Time:
    """Products of large matrices, in GFLOP/s: the best of several, by each clock; float32 as convolutions compute it.

    Args:
        device: Where.
        dtype: Of the matrices.
        clock: Says what time it is.
        repeats: Products that are timed.
    """
    size, products = (8192, 10) if device.type == "cuda" else (1024, 1)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    exact = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        taken = []
        for _ in range(repeats + 1):
            began = clock()
            for _ in range(products):
                torch.mm(a, b)
            taken.append(clock().since(began))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = exact
    work = products * 2 * size**3 / 1e9
    return Time(work / min(t.wall for t in taken[1:]), work / max(min(t.cpu for t in taken[1:]), 1e-9))


class Peak:
    """The most memory that was in use: of the GPU, or of the process with all that it held before.

    Attributes:
        known: Whether the system tells it.

    Example:
        >>> peak = Peak(torch.device("cpu"))
        >>> (peak.megabytes() > 0) == peak.known
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self.known = True
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(self._gpu)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
            except OSError:
                self.known = False

    def megabytes(self) -> float:
        """Since this object was made; NaN where it is not known."""
        if self._gpu:
            return torch.cuda.max_memory_allocated(self._gpu) / 1e6
        if self.known:
            with suppress(OSError):
                for line in Path("/proc/self/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024 / 1e6
        return float("nan")
