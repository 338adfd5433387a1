"""Continuous batching: many videos on their way along a route, a full batch at a time.

The pool is the only place that knows about several videos at once. Videos wait at the exit that they have passed until
enough of them stand there; so deep steps run as full as the first ones, although most videos have left by then.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dynvid.nets import ExitNet, Stream
from dynvid.policy import ThresholdPolicy


class Clip(Protocol):
    """What the pool asks of a video; `PreparedClip` is one."""

    def read(self, positions: Sequence[int]) -> Tensor:
        """Frames by their place in time, uint8 (n, C, H, W)."""


class Answer(NamedTuple):
    """What one exit said of one video.

    Attributes:
        position: Of the exit on the route.
        label: Class index.
        probability: Of that class.
        milliseconds: From the moment that the video was asked for to this answer, waiting included.
    """

    position: int
    label: int
    probability: float
    milliseconds: float


class Limits(NamedTuple):
    """What a video may cost at most.

    Attributes:
        last: The last exit that may be computed, by its position.
        seconds: Time after which no further step begins.
    """

    last: int
    seconds: float = float("inf")


Submit = Callable[..., "Future[Tensor]"]
Outcome = list[Answer] | Exception
"""The answers of the exits that a video has passed, or what went wrong with it."""


@dataclass(eq=False)
class _Video:
    number: int
    began: float
    clip: Clip | None = None
    frames: "Future[Tensor] | None" = None  # what the next exit needs; None where that is no new frame
    answers: list[Answer] = field(default_factory=list)


@dataclass(eq=False)
class _Batch:
    """Videos that walk together; `labels` are what the exits so far said, int64 (exits, b)."""

    videos: list[_Video]
    stream: Stream | None = None
    labels: Tensor | None = None

    @property
    def ready(self) -> bool:
        return all(video.frames is None or video.frames.done() for video in self.videos)


class Pool:
    """Takes videos along the route of a net.

    Args:
        net: The net, in eval mode.
        policy: Says when an exit is sure enough.
        batch_size: Videos of a full step. While videos are still coming, no step runs with fewer; it may run with more,
            since videos that have walked together stay together.
        submit: Reads frames: as `Executor.submit`, or at once (`at_once`).
        limits: What each video may cost.

    Attributes:
        steps: Position and size of the last steps that were run.
        most_opened: Most videos that are being opened, or wait for the first exit; fewer than two batches wait at each
            of the others.
        most_ahead: Most videos that are begun while the next result to be given is not there yet.
    """

    def __init__(
        self, net: ExitNet, policy: ThresholdPolicy, batch_size: int, submit: Submit, limits: Limits | None = None
    ) -> None:
        self.net, self.policy, self.batch_size, self.submit = net, policy, batch_size, submit
        self.limits = limits or Limits(len(net.route) - 1)
        self.steps: deque[tuple[int, int]] = deque(maxlen=10_000)
        self.most_opened = 2 * batch_size  # one batch is computed while the next is read
        self.most_ahead = 32 * batch_size  # finished results are small, and rare exits take long to fill a batch
        self._waiting: list[deque[_Batch]] = [deque() for _ in net.route]
        self._done: dict[int, Outcome] = {}

    def run(self, clips: Iterable[Callable[[], Clip]]) -> Iterator[Outcome]:
        """What comes of each video, in the order given.

        Args:
            clips: Functions that open a video; taken only as fast as results are.
        """
        source, coming, begun, given = iter(clips), True, 0, 0
        while True:
            while coming and begun - given < self.most_ahead and len(self._waiting[0]) < self.most_opened:
                opener = next(source, None)
                coming = opener is not None
                if opener is not None:
                    video = _Video(begun, time.perf_counter())
                    video.frames = self.submit(self._begin, video, opener)
                    self._waiting[0].append(_Batch([video]))
                    begun += 1
            if given in self._done:
                given += 1
                yield self._done.pop(given - 1)
            elif given < begun:
                self._go_on()
            else:
                return

    def _go_on(self) -> None:
        """Run a step, or wait until one can be run full."""
        position = self._next()
        if position is not None:
            self._step(position, self._take(position))
            return
        read = [v.frames for batches in self._waiting for batch in batches for v in batch.videos if v.frames]
        wait([frames for frames in read if not frames.done()], return_when=FIRST_COMPLETED)

    def _next(self) -> int | None:
        """The deepest exit before which a full step waits; without one, the first of all once nothing more comes."""
        ready = [sum(len(b.videos) for b in batches if b.ready) for batches in self._waiting]
        full = [position for position, count in enumerate(ready) if count >= self.batch_size]
        if full:
            return full[-1]
        if any(not batch.ready for batches in self._waiting for batch in batches):
            return None
        return next(position for position, count in enumerate(ready) if count)

    def _take(self, position: int) -> list[_Batch]:
        """Batches for one step: the first that are ready, up to a full one."""
        taken: list[_Batch] = []
        for batch in list(self._waiting[position]):
            if sum(len(b.videos) for b in taken) >= self.batch_size:
                break
            if batch.ready:
                self._waiting[position].remove(batch)
                taken.append(batch)
        return taken

    @torch.inference_mode()  # here, so that nobody else's code runs in it
    def _step(self, position: int, batches: list[_Batch]) -> None:
        batches = [batch for batch in map(self._less_the_unreadable, batches) if batch.videos]
        videos = [video for batch in batches for video in batch.videos]
        if not videos:
            return
        self.steps.append((position, len(videos)))
        source = self._frames_of(videos)
        streams = [batch.stream for batch in batches if batch.stream]
        stream = Stream.join(streams, source) if streams else Stream(self.net, source, len(videos))
        earlier = [batch.labels for batch in batches if batch.labels is not None]
        labels = (
            torch.cat(earlier, 1)
            if earlier
            else torch.zeros(0, len(videos), dtype=torch.long, device=stream.videos.device)
        )
        logits = stream.advance()
        sure, label, probability = self._decide(position, logits, labels)
        now = time.perf_counter()
        rows = []
        for row, video in enumerate(videos):
            video.frames = None
            video.answers.append(Answer(position, int(label[row]), probability[row], (now - video.began) * 1000))
            late = now - video.began >= self.limits.seconds
            if sure[row] or late or position >= self.limits.last:
                self._finish(video, video.answers)
            else:
                rows.append(row)
        if not rows:
            return
        labels = torch.cat([labels, logits.argmax(-1)[None]])
        if len(rows) < len(videos):
            alive = torch.tensor(rows, device=stream.videos.device)
            stream.keep_rows(alive)
            labels = labels[:, alive]
        batch = _Batch([videos[row] for row in rows], stream, labels)
        if self._needed(position + 1):
            for video in batch.videos:
                video.frames = self.submit(self._read, video, self._needed(position + 1))
        self._waiting[position + 1].append(batch)

    def _decide(self, position: int, logits: Tensor, earlier: Tensor) -> tuple[list[float], list[float], list[float]]:
        """Whether the exit is sure, its label and probability: the one time in a step that the device is waited for."""
        sure = self.policy.confident(position, logits, earlier if self.policy.looks_back else None)
        answer = [sure, logits.argmax(-1), self.policy.probability(position, logits)]
        found: list[list[float]] = torch.stack([x.double() for x in answer]).tolist()
        return found[0], found[1], found[2]

    def _begin(self, video: _Video, opener: Callable[[], Clip]) -> Tensor:
        video.clip = opener()
        return self._read(video, self._needed(0))

    def _read(self, video: _Video, frames: list[int]) -> Tensor:
        """Read frames, from whichever thread decodes, to where a GPU can fetch them from."""
        assert video.clip is not None
        read = video.clip.read(frames)
        return read.pin_memory() if self.net.mean.device.type == "cuda" else read

    def _needed(self, position: int) -> list[int]:
        """The frames that the exit at a position needs beyond those of the exit before, by their place in time."""
        before = self.net.route[position - 1].frames if position else 0
        return self.net.order[before : self.net.route[position].frames]

    def _less_the_unreadable(self, batch: _Batch) -> _Batch:
        """A batch without the videos whose frames could not be read: these are done."""
        failed = {}
        for row, video in enumerate(batch.videos):
            error = video.frames.exception() if video.frames else None
            if isinstance(error, torch.OutOfMemoryError):
                raise error  # the machine's fault, not the video's
            if isinstance(error, Exception):
                failed[row] = error
            elif error is not None:
                raise error
        if not failed:
            return batch
        for row, error in failed.items():
            self._finish(batch.videos[row], error)
        rows = [row for row in range(len(batch.videos)) if row not in failed]
        kept = _Batch([batch.videos[row] for row in rows], batch.stream, batch.labels)
        if batch.stream and batch.labels is not None and rows:
            alive = torch.tensor(rows, device=batch.labels.device)
            batch.stream.keep_rows(alive)
            kept.labels = batch.labels[:, alive]
        return kept

    def _finish(self, video: _Video, outcome: Outcome) -> None:
        video.clip = video.frames = None  # decoders and frames are not needed while the result waits to be taken
        self._done[video.number] = outcome

    def _frames_of(self, videos: Sequence[_Video]) -> Callable[[Tensor, list[int]], Tensor]:
        """A source of frames that were read before: (b, n, C, H, W)."""

        def frames(_: Tensor, __: list[int]) -> Tensor:
            device = self.net.mean.device
            read = [video.frames.result().to(device, non_blocking=True) for video in videos if video.frames]
            # Gathered as the net wants them, frame by frame and channels last: (n, b, H, W, C).
            return torch.stack([x.permute(0, 2, 3, 1) for x in read], 1).permute(1, 0, 4, 2, 3)

        return frames


def at_once(function: Callable[..., Tensor], *arguments: object) -> "Future[Tensor]":
    """Call a function now, as `Executor.submit` does later."""
    future: Future[Tensor] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future
