"""Continuous batching: many videos on their way along a route, a full batch at a time.

The pool is the only place that knows about several videos at once. Videos wait at the exit that they have passed until
enough of them stand there; so deep steps run as full as the first ones, although most videos have left by then.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dynvid.calibration import Audit
from dynvid.inference.runtimes import Program, ProgramStream
from dynvid.multilabel import Label
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
        label: Class index, or the class indices of a set.
        probability: Of that label.
        milliseconds: From the moment that the video was asked for to this answer, waiting included.
    """

    position: int
    label: Label
    probability: float
    milliseconds: float


class GoneError(Exception):
    """The walk of a video was ended from outside."""


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
OnAnswer = Callable[[Answer], None]


@dataclass(eq=False)
class Video:
    """A video on its way.

    Attributes:
        gone: Nobody waits for it any more: whoever sets this ends its walk before its next step, with no answers.
        audited: Whether it is taken on to the last exit when it has got its answer.
        said: The label that it was given.
    """

    number: int
    began: float
    limits: Limits
    on_answer: OnAnswer | None = None
    gone: bool = False
    clip: Clip | None = None
    frames: "Future[Tensor] | None" = None  # what the next exit needs; None where that is no new frame
    answers: list[Answer] = field(default_factory=list)
    audited: bool = False
    said: Label | None = None


@dataclass(eq=False)
class _Batch:
    """Videos that walk together; `labels` are what the exits so far said, (exits, b, ...)."""

    videos: list[Video]
    stream: Stream | ProgramStream | None = None
    labels: Tensor | None = None

    @property
    def ready(self) -> bool:
        return all(video.gone or video.frames is None or video.frames.done() for video in self.videos)


class Pool:
    """Takes videos along the route of a net.

    Args:
        net: The net, in eval mode, or exported steps of one.
        policy: Says when an exit is sure enough.
        batch_size: Videos of a full step. While videos are still coming, no step runs with fewer; it may run with more,
            since videos that have walked together stay together.
        submit: Reads frames: as `Executor.submit`, or at once (`at_once`).
        limits: What each video may cost, unless it is begun with limits of its own.
        audit: Takes some videos on to the last exit when they have got their answer, by the policy's word, and sees
            whether full inference would have given another.

    Attributes:
        steps: Position and size of the last steps that were run.
        most_opened: Most videos that are being opened, or wait for the first exit; fewer than two batches wait at each
            of the others in `run`, and of audits in `step`.
        most_ahead: Most videos that are begun while the next result to be given is not there yet.
    """

    def __init__(
        self,
        net: ExitNet | Program,
        policy: ThresholdPolicy,
        batch_size: int,
        submit: Submit,
        limits: Limits | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.net, self.policy, self.batch_size, self.submit = net, policy, batch_size, submit
        self.limits, self.audit = limits or Limits(len(net.route) - 1), audit
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
            while coming and begun - given < self.most_ahead and self.wants_more:
                opener = next(source, None)
                coming = opener is not None
                if opener is not None:
                    self.begin(begun, opener)
                    begun += 1
            # Audits are done before the last result: whoever has all results may ask for no more.
            audits = not coming and given + 1 == begun and any(self._waiting)
            if given in self._done and not audits:
                given += 1
                yield self._done.pop(given - 1)
            elif given < begun:
                self._go_on()
            else:
                return

    def begin(
        self,
        number: int,
        opener: Callable[[], Clip],
        limits: Limits | None = None,
        began: float | None = None,
        on_answer: OnAnswer | None = None,
    ) -> Video:
        """Begin with a video: for those who have videos come as they will, and call `step` and `ended`.

        Args:
            number: Its number, of which no two on their way are equal; the lower, the older.
            opener: Opens it.
            limits: What it may cost; by default as all others.
            began: When it was asked for, by `time.perf_counter`; by default now.
            on_answer: Told what each exit says of it, as soon as that is known.
        """
        video = Video(number, time.perf_counter() if began is None else began, limits or self.limits, on_answer)
        # Where a limit may end walks, those that come to the last exit say nothing of the others.
        is_free = video.limits == Limits(len(self.net.route) - 1)
        video.audited = is_free and self.audit is not None and self.audit.draw()
        video.frames = self.submit(self._begin, video, opener)
        self._waiting[0].append(_Batch([video]))
        return video

    @property
    def wants_more(self) -> bool:
        """Whether fewer videos are being opened, or wait for the first exit, than may."""
        return len(self._waiting[0]) < self.most_opened

    def step(self) -> bool:
        """Run a step for the oldest video that can go on, and those that stand beside it; False where none can.

        Audits come last, since their videos have been answered, but for one step whenever a batch of them has gathered.
        No full step is waited for, so that videos that come one by one are not held up.
        """
        audits = sum(video.said is not None for batches in self._waiting for b in batches for video in b.videos)
        behind = audits >= self.batch_size
        ready = [
            (min(((video.said is not None) != behind, video.number) for video in batch.videos), position)
            for position, batches in enumerate(self._waiting)
            for batch in batches
            if batch.ready
        ]
        if ready:
            _, position = min(ready)
            self._step(position, self._take(position))
        return bool(ready)

    def ended(self) -> dict[int, Outcome]:
        """What came of the videos that have ended since this was last asked, by their numbers."""
        done, self._done = self._done, {}
        return done

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
        batches = [batch for batch in map(self._less_the_ended, batches) if batch.videos]
        videos = [video for batch in batches for video in batch.videos]
        if not videos:
            return
        self.steps.append((position, len(videos)))
        source = self._frames_of(videos)
        streams: list[Any] = [batch.stream for batch in batches if batch.stream]  # all of one kind
        stream = streams[0].join(streams, source) if streams else self.net.stream(source, len(videos))
        logits = stream.advance()
        answers = self.policy.answers(logits)
        earlier = [batch.labels for batch in batches if batch.labels is not None]
        labels = torch.cat(earlier, 1) if earlier else answers[None][:0]
        decided = self._decide(position, logits, answers, labels)
        now = time.perf_counter()
        rows = []
        for row, (video, (sure, label, probability)) in enumerate(zip(videos, decided, strict=True)):
            video.frames = None
            answer = Answer(position, label, probability, (now - video.began) * 1000)
            if self._goes_on(video, answer, sure):
                rows.append(row)
        if not rows:
            return
        labels = torch.cat([labels, answers[None]])
        if len(rows) < len(videos):
            alive = torch.tensor(rows, device=stream.videos.device)
            stream.keep_rows(alive)
            labels = labels[:, alive]
        batch = _Batch([videos[row] for row in rows], stream, labels)
        if self._needed(position + 1):
            for video in batch.videos:
                video.frames = self.submit(self._read, video, self._needed(position + 1))
        self._waiting[position + 1].append(batch)

    def _goes_on(self, video: Video, answer: Answer, sure: bool) -> bool:
        """Take in what an exit said of a video; whether it goes on to the next exit."""
        last = answer.position == len(self.net.route) - 1
        if video.said is None:
            video.answers.append(answer)
            if video.on_answer:
                video.on_answer(answer)
            late = answer.milliseconds >= video.limits.seconds * 1000
            if not (sure or late or answer.position >= video.limits.last):
                return True
            video.said = answer.label
            self._done[video.number] = video.answers
        if last and video.audited and self.audit is not None:
            self.audit.add(video.said != answer.label)
        goes_on = video.audited and not last
        if not goes_on:
            video.clip = None  # whoever began it may keep it
        return goes_on

    def _decide(
        self, position: int, logits: Tensor, answers: Tensor, earlier: Tensor
    ) -> list[tuple[bool, Label, float]]:
        """Whether the exit is sure, its label and probability: the one time in a step that the device is waited for."""
        sure = self.policy.confident(position, logits, earlier if self.policy.looks_back else None)
        columns = [sure, self.policy.probability(position, logits), answers]
        found = torch.cat([x.double().reshape(len(logits), -1) for x in columns], 1).tolist()
        return [(bool(sure), self.policy.label(answer), p) for sure, p, *answer in found]

    def _begin(self, video: Video, opener: Callable[[], Clip]) -> Tensor:
        video.clip = opener()
        return self._read(video, self._needed(0))

    def _read(self, video: Video, frames: list[int]) -> Tensor:
        """Read frames, from whichever thread decodes, to where a GPU can fetch them from."""
        assert video.clip is not None
        read = video.clip.read(frames)
        return read.pin_memory() if self.net.device.type == "cuda" else read

    def _needed(self, position: int) -> list[int]:
        """The frames that the exit at a position needs beyond those of the exit before, by their place in time."""
        before = self.net.route[position - 1].frames if position else 0
        return self.net.order[before : self.net.route[position].frames]

    def _less_the_ended(self, batch: _Batch) -> _Batch:
        """A batch without the videos that go no further: their frames could not be read, or nobody waits for them."""
        ended = {row: outcome for row, video in enumerate(batch.videos) if (outcome := self._before_step(video))}
        if not ended:
            return batch
        for row, outcome in ended.items():
            self._end(batch.videos[row], outcome)
        rows = [row for row in range(len(batch.videos)) if row not in ended]
        kept = _Batch([batch.videos[row] for row in rows], batch.stream, batch.labels)
        if batch.stream and batch.labels is not None and rows:
            alive = torch.tensor(rows, device=batch.labels.device)
            batch.stream.keep_rows(alive)
            kept.labels = batch.labels[:, alive]
        return kept

    def _before_step(self, video: Video) -> Outcome | None:
        """What came of a video that takes no further step; None where it goes on."""
        if video.gone:
            return GoneError("nobody waits for it any more")
        error = video.frames.exception() if video.frames else None
        if isinstance(error, torch.OutOfMemoryError):
            raise error  # the machine's fault, not the video's
        if error is not None and not isinstance(error, Exception):
            raise error
        return error

    def _end(self, video: Video, outcome: Outcome) -> None:
        """End a walk between two exits; of an audit that fails nothing is said, for its video has its answer."""
        video.clip = video.frames = None
        if video.said is None:
            self._done[video.number] = outcome

    def _frames_of(self, videos: Sequence[Video]) -> Callable[[Tensor, list[int]], Tensor]:
        """A source of frames that were read before: (b, n, C, H, W)."""

        def frames(_: Tensor, __: list[int]) -> Tensor:
            device = self.net.device
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
