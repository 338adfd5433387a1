"""What happened to one video on its way, with all that a page shows of it."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dynvid.data.reading.reader import FrameReader
from dynvid.inference.benchmark import last_exit_alone
from dynvid.inference.pool import Answer, Clip, Pool, at_once
from dynvid.inference.preparation import Source
from dynvid.inference.recognizer import Passed, Recognizer
from dynvid.inference.runtimes import Program
from dynvid.inference.timing import clock_of, in_turns
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit

ROUNDS, SECONDS = 5, 1.0  # of what is timed: none begins later than that after the first
SIDE = 128  # most pixels of a picture's side


class Step(NamedTuple):
    """One exit on the way.

    Attributes:
        passed: What it said, as `Recognition.trace` has it.
        frames: The frames that it asked for, by their place in time, in the order of asking.
        score: How sure it was, by the policy's score.
        sure: Whether that was enough, or it was the last.
    """

    passed: Passed
    frames: list[int]
    score: float
    sure: bool


class Walk(NamedTuple):
    """What happened to one video.

    Attributes:
        steps: The exits that it passed.
        route: All exits of the net.
        thresholds: What they ask for; infinite where an exit is off.
        score: Which score that is.
        pictures: The frames that were read, as data URIs, by their place in time.
        num_frames: Frames of a clip.
        classes: How many the net knows; where labels are sets, how many sets.
        full: What full inference answered.
        full_gmacs: What it cost.
        answered: Whether the answer is given; else it is too unsure for that.
    """

    steps: list[Step]
    route: Sequence[Exit]
    thresholds: list[float]
    score: str
    pictures: dict[int, str]
    num_frames: int
    classes: int
    full: Passed
    full_gmacs: float
    answered: bool = True

    @property
    def last(self) -> Passed:
        """The answer."""
        return self.steps[-1].passed

    @property
    def saved(self) -> float:
        """The share of full inference's GMACs that were not spent; below 0 where all exits were passed."""
        return 1 - self.last.gmacs / self.full_gmacs


def watch(recognizer: Recognizer, video: Source, policy: ThresholdPolicy | None = None) -> Walk:
    """Label a video and keep what happened on the way, then take full inference through it too.

    Times are of whole runs, from opening the file to the answer: medians of a few of both in turns, after one that is
    not counted.

    Args:
        recognizer: What labels it.
        video: A path, bytes, or a binary file object that can seek.
        policy: Says when an exit is sure enough; by default the recognizer's.

    Raises:
        VideoError: The video cannot be read.
    """
    policy = policy or recognizer.policy
    scored = Scored(policy)
    clip, answers = _walked(recognizer, recognizer.net, video, scored)
    rounds = in_turns(
        [lambda: _walked(recognizer, recognizer.net, video, policy)[1], lambda: _full(recognizer, video)],
        ROUNDS,
        clock_of(recognizer.net.device),
        SECONDS,
    )
    mine, full = zip(*([answers for _, answers in one] for one in rounds), strict=True)
    found, net = recognizer._said(answers, ""), recognizer.net
    steps = []
    for k, (passed, score) in enumerate(zip(found.trace, scored.scores, strict=True)):
        before = net.route[k - 1].frames if k else 0
        milliseconds = median(each[min(k, len(each) - 1)].milliseconds for each in mine)
        frames = list(net.order[before : passed.exit.frames])
        steps.append(Step(passed._replace(milliseconds=milliseconds), frames, score, k == len(answers) - 1))
    at_full = full[0][-1]._replace(
        position=len(net.route) - 1, milliseconds=median(each[-1].milliseconds for each in full)
    )
    return Walk(
        steps,
        tuple(net.route),
        policy.thresholds.tolist(),
        policy.score_name,
        {place: picture(frame) for place, frame in clip.frames.items()},
        net.num_frames,
        2**net.num_classes if policy.multi_label else net.num_classes,
        recognizer._said([at_full], "").trace[0],
        recognizer.full_gmacs,
        found.answered,
    )


class Scored(ThresholdPolicy):
    """A policy that keeps the scores it decided by, of one video.

    Args:
        policy: Decides.
    """

    def __init__(self, policy: ThresholdPolicy) -> None:
        super().__init__(None, policy.thresholds, policy.score_name, policy.temperatures, policy.multi_label)
        self.scores: list[float] = []

    def confident(self, position: int, logits: Tensor, earlier: Tensor | None = None) -> Tensor:
        """See `ThresholdPolicy`."""
        score = self._score(position, logits, earlier)
        self.scores.append(float(score[0]))
        sure: Tensor = score >= self.thresholds[position]
        return sure


class _Watched:
    """A clip that keeps the frames that were read of it."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.frames = clip, dict[int, Tensor]()

    def read(self, positions: Sequence[int]) -> Tensor:
        """See `Clip`."""
        read = self.clip.read(positions)
        self.frames.update(zip(positions, read, strict=True))
        return read


def _walked(
    recognizer: Recognizer, net: ExitNet | Program, video: Source, policy: ThresholdPolicy
) -> tuple[_Watched, list[Answer]]:
    clips: list[_Watched] = []

    def opened() -> _Watched:
        if not isinstance(video, str | Path | bytes | FrameReader):
            video.seek(0)  # it was read before
        clips.append(_Watched(recognizer.preparation.open(video)))
        return clips[-1]

    (outcome,) = Pool(net, policy, 1, at_once).run([opened])
    if isinstance(outcome, Exception):
        raise outcome
    return clips[-1], outcome


def _full(recognizer: Recognizer, video: Source) -> list[Answer]:
    """Full inference: all frames, the whole depth, the last exit's head only."""
    net = recognizer.net
    alone = last_exit_alone(net) if isinstance(net, ExitNet) else net  # a program takes its exits as they are
    policy = ThresholdPolicy(len(alone.route), multi_label=recognizer.policy.multi_label)
    return _walked(recognizer, alone, video, policy.to(net.device))[1]


def picture(frame: Tensor) -> str:
    """A frame, uint8 (3, H, W), as a data URI.

    >>> picture(torch.zeros(3, 8, 8, dtype=torch.uint8))[:22]
    'data:image/jpeg;base64'
    """
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def as_share(score: float, kind: str, exits: int, classes: int) -> float:
    """A score as a share of the most that it can be, for a bar: in [0, 1].

    >>> as_share(0.9, "max_probability", 4, 10), as_share(0.0, "negative_entropy", 4, 10)
    (0.9, 1.0)
    """
    if kind == "negative_entropy":
        score = 1 + score / math.log(max(classes, 2))
    elif kind == "patience":
        score = score / exits
    return min(max(score, 0.0), 1.0)


def settings(curve: Tensor) -> Tensor:
    """Thresholds that a slider moves along, (M, K): those of a curve, each once; none where all are full inference.

    >>> settings(torch.tensor([[0.5, -torch.inf], [0.5, -torch.inf], [torch.inf, -torch.inf]]))
    tensor([[0.5000,   -inf],
            [   inf,   -inf]])
    """
    rows: Tensor = torch.unique_consecutive(curve, dim=0)
    return rows if len(rows) > 1 else rows[:0]
