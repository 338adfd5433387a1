"""Full against dynamic inference, measured in turns on the program that deployment runs: the pool.

Full inference is the same net with its last exit alone, through the same pool. At batch size 1 each video is a call of
its own; from 2 on, videos are decoded ahead and walk the route together.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dynvid.errors import InputError
from dynvid.inference.forced import HeldClip
from dynvid.inference.pool import Clip, Pool, at_once
from dynvid.inference.timing import Clock, Peak, Spread, Time, clock_of, in_turns
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy

Open = Callable[[], Clip]
By = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Contender:
    """A net that is compared.

    Attributes:
        name: What it is called.
        net: In eval mode, as fast as it was made.
        policy: Makes the policy of one pass; None where the net has full inference only.
        clips: The videos with all their frames in memory: what the model takes alone.
        files: The same videos as files, from which a label is made; none where there are no files.
    """

    name: str
    net: ExitNet
    policy: Callable[[], ThresholdPolicy] | None
    clips: Sequence[HeldClip]
    files: Sequence[Open] = ()


class Pass(NamedTuple):
    """What one pass over the videos gave.

    Attributes:
        exits: Position of the exit that each video took.
        milliseconds: From asking for a video to its answer, waiting included.
        decode: Spent on opening and reading, by all threads that did.
        megabytes: The most memory in use.
    """

    exits: list[int]
    milliseconds: list[float]
    decode: Time
    megabytes: float


class Saving(NamedTuple):
    """What dynamic inference saves of full inference, as shares; medians of the ratios of pairs.

    Attributes:
        macs: Of the MACs.
        time: Of the time.
        per: Time saved / MACs saved; NaN where no MACs are saved.
    """

    macs: float
    time: Spread
    per: Spread

    @classmethod
    def of(cls, macs: float, full: Sequence[float], dynamic: Sequence[float]) -> "Saving":
        """Of what both took in the same rounds.

        >>> Saving.of(0.5, [10.0, 20.0], [6.0, 12.0]).per.median
        0.8
        """
        saved = [1 - b / a for a, b in zip(full, dynamic, strict=True)]
        return cls(macs, Spread.of(saved), Spread.of([s / macs if macs > 0 else float("nan") for s in saved]))

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "macs_saved": self.macs,
            "time_saved": self.time.median,
            "time_saved_low_high": [self.time.low, self.time.high],
            "time_saved_per_macs_saved": self.per.median,
            "time_saved_per_macs_saved_low_high": [self.per.low, self.per.high],
        }


def compare(
    contenders: Sequence[Contender],
    batch_size: int = 8,
    repeats: int = 5,
    workers: int = 1,
    by: By = "wall",
    clock: Clock | None = None,
    seconds: float = float("inf"),
    warm_up: int | None = None,
) -> dict[str, Any]:
    """Run full and dynamic inference of each net in turns.

    Args:
        contenders: The nets, with the same videos; what the first one takes in full is what all are compared with.
        batch_size: Videos of a step.
        repeats: Rounds.
        workers: Threads that decode.
        by: The clock of which ratios are made: of the wall, or of the processor.
        clock: Says what time it is; by default after the device has finished.
        seconds: No round begins later than this after the first began.
        warm_up: Videos that go before, unmeasured; by default all of them once.

    Returns:
        Plain data: what was saved (of the first net that has dynamic inference), and a row for each net and kind of
        inference, times in milliseconds per video.

    Raises:
        ValueError: A number is below 1, or there is nothing to measure.
        VideoError: A file cannot be read.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> from dynvid.inference.forced import ForcedExits, random_clips
        >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32).eval()
        >>> contender = Contender("net", net, lambda: ForcedExits([1, 1, 1, 1]), random_clips(net, 8))
        >>> found = compare([contender], batch_size=2, repeats=1)
        >>> [(row["inference"], row["exits"]) for row in found["rows"]]
        [('full', [8]), ('dynamic', [2, 2, 2, 2])]
    """
    if len({len(contender.clips) for contender in contenders} - {0}) != 1 or min(batch_size, repeats, workers) < 1:
        raise InputError(f"batch_size={batch_size}, repeats={repeats}, workers={workers}: 1 or more, as of videos")
    videos, decoded = len(contenders[0].clips), bool(contenders[0].files)
    kinds = [kind for contender in contenders for kind in _kinds(contender)]
    programs = []
    for kind in kinds:
        sources: list[tuple[Sequence[Open], int]] = [([partial(_same, clip) for clip in kind.of.clips], 0)]
        if decoded:
            sources.append((kind.of.files, workers))
        for source, threads in sources:
            _pass(kind, source[:warm_up], batch_size, threads)
            programs.append(partial(_pass, kind, source, batch_size, threads))
    rounds = in_turns(programs, repeats, clock or clock_of(contenders[0].net.device), seconds)
    columns = list(zip(*rounds, strict=True))  # the rounds of each program
    step = 2 if decoded else 1
    rows = [_Row(kind, columns[step * i], columns[step * (i + 1) - 1], videos, by) for i, kind in enumerate(kinds)]
    full = rows[0]
    result: dict[str, Any] = {"batch_size": batch_size, "videos": videos, "repeats": len(rounds)}
    if contenders[0].policy:
        saved = 1 - rows[1].gmacs / full.gmacs
        result |= Saving.of(saved, full.seconds("total"), rows[1].seconds("total")).plain()
        result["model"] = Saving.of(saved, full.seconds("model"), rows[1].seconds("model")).plain()
    result["full_gflops"] = 2 * full.gmacs / statistics.median(full.seconds("model"))
    return result | {"rows": [row.plain(full, decoded) for row in rows]}


class _Kind(NamedTuple):
    """Full or dynamic inference of a net."""

    of: Contender
    inference: Literal["full", "dynamic"]
    walked: ExitNet
    policy: Callable[[], ThresholdPolicy]


def _kinds(contender: Contender) -> Iterator[_Kind]:
    yield _Kind(contender, "full", last_exit_alone(contender.net), partial(ThresholdPolicy, 1))
    if contender.policy:
        yield _Kind(contender, "dynamic", contender.net, contender.policy)


def last_exit_alone(net: ExitNet) -> ExitNet:
    """The same net, weights and all, that stops at its last exit only."""
    alone = copy.copy(net)
    alone.route, alone.head_of = net.route[-1:], net.head_of[-1:]
    for name in ("gmacs", "full_gmacs", "cell_costs", "head_depths"):
        alone.__dict__.pop(name, None)
    return alone


@dataclass(frozen=True)
class _Row:
    """What came of one kind of inference, over the rounds.

    Attributes:
        kind: Which.
        model: Passes over frames in memory.
        total: Passes over files; where there are none, the same as `model`.
        videos: Of a pass.
        by: The clock of ratios.
    """

    kind: _Kind
    model: Sequence[tuple[Time, Pass]]
    total: Sequence[tuple[Time, Pass]]
    videos: int
    by: By

    @property
    def exits(self) -> list[int]:
        """Videos that left at each exit."""
        taken = self.model[0][1].exits
        return [taken.count(position) for position in range(len(self.kind.walked.route))]

    @property
    def gmacs(self) -> float:
        """Per video, in the mean."""
        net = self.kind.of.net
        costs = (net.full_gmacs,) if self.kind.inference == "full" else net.gmacs
        return sum(cost * count for cost, count in zip(costs, self.exits, strict=True)) / self.videos

    def seconds(self, part: Literal["total", "model"]) -> list[float]:
        """Per video, by the clock of ratios, round by round."""
        passes = self.total if part == "total" else self.model
        return [getattr(spent, self.by) / self.videos for spent, _ in passes]

    def plain(self, full: "_Row", decoded: bool) -> dict[str, Any]:
        """As JSON has it, compared with the full inference of the first net."""
        waits = sorted(wait for _, one in self.total for wait in one.milliseconds)
        pairs = zip(self.seconds("total"), full.seconds("total"), strict=True)
        return {
            "net": self.kind.of.name,
            "inference": self.kind.inference,
            "exits": self.exits,
            "gmacs": self.gmacs,
            "macs_ratio": self.gmacs / full.gmacs,
            "time_ratio": Spread.of([mine / its for mine, its in pairs])._asdict(),
            "decode_ms": self._milliseconds([one.decode for _, one in self.total]) if decoded else None,
            "model_ms": self._milliseconds([spent for spent, _ in self.model]),
            "total_ms": self._milliseconds([spent for spent, _ in self.total]),
            "videos_per_second": Spread.of([self.videos / spent.wall for spent, _ in self.total])._asdict(),
            "p50_ms": quantile(waits, 0.50),
            "p95_ms": quantile(waits, 0.95),
            "peak_memory_mb": max(one.megabytes for _, one in self.total),
        }

    def _milliseconds(self, spent: Sequence[Time]) -> dict[str, dict[str, float]]:
        """Per video, by both clocks."""
        by_clock = {name: [1000 * getattr(s, name) / self.videos for s in spent] for name in Time._fields}
        return {name: Spread.of(values)._asdict() for name, values in by_clock.items()}


def quantile(ascending: Sequence[float], share: float) -> float:
    """The least of the values that at least this share of them do not exceed.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5), quantile([1.0, 2.0, 3.0, 4.0], 0.95)
    (2.0, 4.0)
    """
    return ascending[max(ceil(share * len(ascending)) - 1, 0)]


@torch.inference_mode()
def _pass(kind: _Kind, videos: Sequence[Open], batch_size: int, workers: int) -> Pass:
    """Take all videos through the pool; `workers` is 0 where their frames are in memory."""
    device = kind.walked.device
    policy = kind.policy().to(device)
    peak, spent = Peak(device), list[Time]()
    openers = [partial(_timed, video, spent) for video in videos] if workers else videos
    if batch_size == 1 or not workers:
        # At batch size 1, one call for each, as `Recognizer.__call__` makes it.
        calls = [[opener] for opener in openers] if batch_size == 1 else [openers]
        outcomes = [o for call in calls for o in Pool(kind.walked, policy, batch_size, at_once).run(call)]
    else:
        with ThreadPoolExecutor(workers, "dynvid-decode") as executor:
            outcomes = list(Pool(kind.walked, policy, batch_size, executor.submit).run(openers))
    last = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        last.append(outcome[-1])
    decode = Time(sum(t.wall for t in spent), sum(t.cpu for t in spent))
    return Pass([a.position for a in last], [a.milliseconds for a in last], decode, peak.megabytes())


def _same(clip: HeldClip) -> HeldClip:
    return clip


def _timed(opener: Open, spent: list[Time]) -> "_TimedClip":
    """Open a video and note how long that took."""
    began = _thread_time()
    clip = opener()
    spent.append(_thread_time().since(began))  # from several threads, which a list stands
    return _TimedClip(clip, spent)


class _TimedClip(NamedTuple):
    """A clip that notes how long its reading took."""

    clip: Clip
    spent: list[Time]

    def read(self, positions: Sequence[int]) -> Tensor:
        """See `Clip`."""
        began = _thread_time()
        frames = self.clip.read(positions)
        self.spent.append(_thread_time().since(began))
        return frames


def _thread_time() -> Time:
    """Of this thread alone."""
    return Time(time.perf_counter(), time.thread_time())
