"""What a server counts, in Prometheus' text format."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from dynvid.inference.recognizer import Recognition

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
VIDEOS = (1, 2, 4, 8, 16, 32)


class Histogram:
    """Counts of values up to each of some bounds.

    Args:
        bounds: Ascending.

    Example:
        >>> sizes = Histogram([1, 2])
        >>> for size in (1, 2, 2, 5):
        ...     sizes.add(size)
        >>> list(sizes.lines("size"))
        ['size_bucket{le="1"} 1', 'size_bucket{le="2"} 3', 'size_bucket{le="+Inf"} 4', 'size_sum 10', 'size_count 4']
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        """As Prometheus has it."""
        total = 0
        for bound, count in zip((*map(_number, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {_number(self.sum)}"
        yield f"{name}_count {total}"


class Metrics:
    """What a server has done since it began; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: Counter[int] = Counter()
        self._exits: Counter[tuple[int, int]] = Counter()
        self._seconds, self._videos = Histogram(SECONDS), Histogram(VIDEOS)
        self._spent = self._full = 0.0

    def answered(self, code: int, seconds: float) -> None:
        """Count a request for a prediction, by the status it was answered with; 499 is a client that left."""
        with self._lock:
            self._codes[code] += 1
            if code == 200:
                self._seconds.add(seconds)

    def recognised(self, found: Recognition, full_gmacs: float) -> None:
        """Count a video and what it cost."""
        with self._lock:
            self._exits[found.exit.frames, found.exit.depth] += 1
            self._spent += found.gmacs
            self._full += full_gmacs

    def stepped(self, videos: int) -> None:
        """Count a step of the pool."""
        with self._lock:
            self._videos.add(videos)

    def text(self, now: dict[str, float]) -> str:
        """The page that Prometheus reads.

        Args:
            now: Names and values of gauges, as they are at this moment.
        """
        with self._lock:
            return "\n".join([*self._lines(now), ""])

    def _lines(self, now: dict[str, float]) -> Iterator[str]:
        yield from _head("dynvid_requests_total", "counter", "Requests for a prediction, by HTTP status (499: left)")
        for code, count in sorted(self._codes.items()):
            yield f'dynvid_requests_total{{code="{code}"}} {count}'
        yield from _head("dynvid_request_seconds", "histogram", "From the first byte of a request to its answer")
        yield from self._seconds.lines("dynvid_request_seconds")
        yield from _head("dynvid_step_videos", "histogram", "Videos that were computed together")
        yield from self._videos.lines("dynvid_step_videos")
        yield from _head("dynvid_exits_total", "counter", "Videos by the exit that answered")
        for (frames, depth), count in sorted(self._exits.items()):
            yield f'dynvid_exits_total{{frames="{frames}",depth="{depth}"}} {count}'
        yield from _head("dynvid_gmacs_spent_total", "counter", "GMACs spent on videos that were answered")
        yield f"dynvid_gmacs_spent_total {_number(self._spent)}"
        yield from _head("dynvid_gmacs_full_total", "counter", "GMACs that full inference would have spent on them")
        yield f"dynvid_gmacs_full_total {_number(self._full)}"
        for name, value in now.items():
            yield from _head(f"dynvid_{name}", "gauge", name.replace("_", " "))
            yield f"dynvid_{name} {_number(value)}"


def _head(name: str, kind: str, said: str) -> list[str]:
    return [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]


def _number(value: float) -> str:
    return f"{value:.15g}"
