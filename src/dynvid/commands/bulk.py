"""`dynvid classify --out`: label very many files, and say how far it has come."""

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from dynvid.commands.listing import check, names_of, stream
from dynvid.inference.bulk.child import STOPS
from dynvid.inference.bulk.label import Progress, label_files
from dynvid.text import printable

_EVERY = 30.0  # seconds between two lines, where there is no terminal


def classify_many(model: str, paths: list[str], out: str, **options: Any) -> int:
    """Label very many videos, and keep what was found as Parquet parts; see `dynvid.inference.label_files`.

    Args:
        model: A checkpoint, a folder, or a name.
        paths: Video files, folders, lists of videos, or addresses; see `dynvid.commands.listing.stream`.
        out: The folder for the results, or an address in object storage.
        options: Those of `label_files`.

    Returns:
        0, or 1 if something could not be read, in this run or the ones that it takes up.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: See `label_files`.
    """
    check(paths)
    passed: Counter[str] = Counter()
    with _stopped_like_ctrl_c(), _Shown(paths) as shown:
        done = label_files(
            model,
            stream(paths, passed),
            out,
            listing=names_of(paths),
            report=shown.report,
            say=shown.say,
            **options,
        )
    passed["met twice"] += max(done.repeated - done.earlier, 0)  # what is done comes again
    if passed := +passed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
        shown.say(f"passed over: {kinds}")
    print(summary(done, out))
    return int(done.totals.unreadable > 0)


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """Let whoever ends this process, or closes its terminal, interrupt it, so that what was found is written."""

    def interrupt(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # once is enough
        raise KeyboardInterrupt

    # What is ignored, as by nohup, stays so; and only the main thread may ask for signals.
    mine = threading.current_thread() is threading.main_thread()
    stops = [each for each in STOPS if mine and signal.getsignal(each) == signal.SIG_DFL]
    before = {each: signal.signal(each, interrupt) for each in stops}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def summary(done: Progress, out: str) -> str:
    """What came of it, in a few lines."""
    totals, rate = done.totals, f", {done.rate:.3g} videos/s" if done.rate else ""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in totals.errors.most_common())
    lines = [
        f"{totals.videos:,} videos in {printable(out)}, {done.new:,} of them now{rate}",
        f"{totals.share_saved:.1%} of the GMACs of full inference saved",
        f"{totals.unreadable:,} could not be read" + (f": {kinds}" if kinds else ""),
    ]
    if done.audit:
        lines.append(done.audit["said"])
    return "\n".join(lines)


class _Shown:
    """How far it has come: a bar on a terminal, else a line now and then; both on standard error.

    Args:
        paths: What is labelled; how many videos that are is counted beside the work.
    """

    def __init__(self, paths: list[str]) -> None:
        self._console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}")
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._bar.add_task("loading", total=None, said="")
        self._paths, self._total, self._stop = paths, 0, Event()
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        Thread(target=self._count, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._bar.stop()

    def say(self, line: str) -> None:
        """Say something that a user should know."""
        with self._bar._lock:
            print(f"dynvid: {printable(line)}", file=sys.stderr, flush=True)

    def report(self, progress: Progress) -> None:
        """Show how far it has come."""
        now, videos = time.monotonic(), progress.totals.videos
        if not self._bar.disable:
            if now - self._told > 0.2 or progress.new == 1:
                self._told = now
                self._bar.update(
                    self._task,
                    description=f"{videos:,} videos",
                    completed=videos,
                    total=max(self._total, videos) if self._total else None,
                    said=self._words(progress),
                )
        elif progress.new == 1:
            self._told = now
        elif now - self._told > _EVERY:
            self._told = now
            of = f" of {self._total:,}" if self._total else ""
            self.say(f"{videos:,}{of} videos, {self._words(progress)}")

    def _words(self, progress: Progress) -> str:
        words = [f"{progress.rate:.3g}/s", f"{progress.totals.share_saved:.0%} of GMACs saved"]
        left = self._total - progress.totals.videos
        if self._total and left > 0 and progress.rate:
            words.append(f"{_time(left / progress.rate)} left")
        if progress.totals.unreadable:
            words.append(f"{progress.totals.unreadable:,} unreadable")
        return ", ".join(words)

    def _count(self) -> None:
        try:
            total = 0
            for _ in stream(self._paths, Counter()):
                total += 1
                if self._stop.is_set():
                    return
            self._total = total
        except Exception:  # whoever labels them meets it too, and says so
            return


def _time(seconds: float) -> str:
    """A duration in two units.

    >>> _time(59), _time(3700), _time(200000)
    ('59 s', '1 h 1 min', '2 d 7 h')
    """
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
