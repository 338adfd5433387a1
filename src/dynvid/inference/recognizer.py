"""A trained net at work: videos in, labels out, each decoded and computed only as far as it needs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch

from dynvid.calibration import Audit, OperatingPoint, Reject, reject_level
from dynvid.checkpoint import (
    is_calibrated,
    net_from_checkpoint,
    policy_from_checkpoint,
    read_checkpoint,
    reject_from_checkpoint,
)
from dynvid.data.dataset import Skipped
from dynvid.data.reading.reader import FrameReader
from dynvid.errors import DynvidError, InputError
from dynvid.folder import local
from dynvid.inference.export import GraphRuntime
from dynvid.inference.hub import Shared
from dynvid.inference.live import LiveRecognizer
from dynvid.inference.pool import Answer, Limits, Outcome, Pool, Submit, at_once
from dynvid.inference.preparation import Preparation, Source
from dynvid.inference.recipe import Optimize, Precision, Recipe, prepare
from dynvid.inference.runtimes import Program, Runtime, load_program
from dynvid.inference.saving import Given, Loaded, as_checkpoint, save_model
from dynvid.multilabel import SEPARATOR, names_of
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit
from dynvid.text import printable


class Passed(NamedTuple):
    """What one exit on the way said.

    Attributes:
        exit: Frames and depth.
        label: Name of the class, or its number where classes have no names; of a set, names joined with `;`.
        probability: Of that label, at the exit's temperature.
        gmacs: Spent up to here, this exit's head included.
        milliseconds: From asking for the video to this answer, in a batch the waiting included.
        labels: The names in the label, one each; none of the empty set.
    """

    exit: Exit
    label: str
    probability: float
    gmacs: float
    milliseconds: float
    labels: tuple[str, ...] = ()


class Recognition(NamedTuple):
    """What was recognised, by the exit that was sure enough, or the last one that the limits allowed.

    Attributes:
        label: Name of the class, or its number where classes have no names; of a set, names joined with `;`.
        probability: Of that label, at the exit's temperature.
        exit: Frames and depth of the exit taken.
        frames_read: Frames that the net has seen.
        gmacs: Spent on the video.
        milliseconds: From asking for the video to the answer, decoding included; in a batch the waiting too.
        trace: One entry per exit passed, the one taken included.
        path: What the video is called: its path, or `<bytes>`.
        labels: The names in the label, one each: of the empty set none, and one where labels are no sets.
        answered: Whether the label is an answer; where it is not, it is too unsure to be one (`Recognizer.reject`).
    """

    label: str
    probability: float
    exit: Exit
    frames_read: int
    gmacs: float
    milliseconds: float
    trace: tuple[Passed, ...]
    path: str
    labels: tuple[str, ...] = ()
    answered: bool = True


class Recognizer(Shared):
    """Everything needed to label a video, nothing needed to train: no Lightning.

    Args:
        net: A net, which is put into eval mode; or exported steps of one.
        policy: Says when an exit is sure enough; by default no exit but the last is.
        class_names: Names of the classes.
        recipe: What was done to the net to make it fast; said only.
        point: What the thresholds of the policy were asked to do.
        calibrated: Whether the thresholds were found for the net's weights.
        audit: Share of videos that are taken on to the last exit when they have got their answer, to see whether the
            promise of `point` is kept (see `dynvid.calibration.Audit`, which it may be too); not those with limits of
            their own.
        reject: Which answers are withheld. It is of these thresholds, and of walks that limits do not end early: what
            such a walk says is judged by the same probability, but nothing is promised of it.
        background: The class of videos that show none of the others.

    Attributes:
        audit: What the audited videos say so far, by `print(recognizer.audit)`; None without audit.
        preparation: How videos are made into what the net takes.

    Example:
        >>> import numpy as np, tempfile
        >>> from PIL import Image
        >>> from dynvid import UnifiedExitNet
        >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32)
        >>> recognizer = Recognizer(net, ThresholdPolicy(thresholds=[0.0, 0.9, 0.9, 0.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(6):
        ...         Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(f"{folder}/{i}.png")
        ...     found = recognizer(folder)
        >>> tuple(found.exit), found.frames_read, len(found.trace)
        ((1, 2), 1, 1)
    """

    def __init__(
        self,
        net: ExitNet | Program,
        policy: ThresholdPolicy | None = None,
        class_names: Sequence[str] | None = None,
        recipe: Recipe | None = None,
        point: OperatingPoint | None = None,
        calibrated: bool = True,
        audit: float | Audit | None = None,
        reject: Reject | None = None,
        background: str | None = None,
    ) -> None:
        policy = policy or ThresholdPolicy(len(net.route))
        if policy.num_exits != len(net.route):
            raise InputError(f"the policy has {policy.num_exits} thresholds, the route {len(net.route)} exits")
        if class_names is not None and len(class_names) != net.num_classes:
            raise InputError(f"{len(class_names)} class names, the net has {net.num_classes} classes")
        self.net, self.policy = net.eval(), policy.to(net.device)
        self.class_names = None if class_names is None else list(class_names)
        if background is not None and background not in (class_names or ()):
            raise InputError(f"background={printable(background)}: not the name of a class")
        self.recipe, self.point, self.calibrated = recipe, point, calibrated
        self.reject, self.background = reject, background
        self.audit = Audit(audit, point) if isinstance(audit, int | float) else audit
        self.preparation = Preparation(net.num_frames, net.input_size)
        self._loaded: Loaded | None = None
        self._reject_left = False  # whether the model withholds answers, but not by its int8 graphs

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: str | torch.device = "auto",
        precision: Precision | Literal["int8"] = "auto",
        optimize: Optimize = "default",
        runtime: Runtime = "torch",
        audit: float | Audit | None = None,
    ) -> Self:
        """Load a checkpoint of `dynvid fit` or `dynvid calibrate`, or a model's folder, ready to label videos.

        Args:
            source: The file or folder; nothing in it is run, and only plain data is read. Where there is neither,
                `user/name` is a model on the Hugging Face hub.
            device: Such as `cpu` or `cuda:1`; `auto` takes a GPU where there is one.
            precision: `auto`, `float32` or `bfloat16`, as `dynvid.inference.prepare` takes it; but `auto` is float32
                where the checkpoint carries a promise, which was made in it. `int8` is for OpenVINO, and has thresholds
                and a promise of its own.
            optimize: `none`, `default` or `compile`.
            runtime: `onnx` and `openvino` run the graphs of a folder of `dynvid export`, on the processor, by default
                in float32.
            audit: As for the class.

        Raises:
            FileNotFoundError: There is no such file, folder, model or graph.
            ValueError: The file is damaged, or no dynvid checkpoint, or its parts do not fit together; or the runtime
                is not installed, or does not have this precision.
        """
        place = local(source, runtime)
        checkpoint = read_checkpoint(place)
        net = net_from_checkpoint(checkpoint, source).eval()
        policy = policy_from_checkpoint(checkpoint)
        saved = checkpoint["dynvid"]
        point = None if saved.get("operating_point") is None else OperatingPoint.from_plain(saved["operating_point"])
        reject = reject_from_checkpoint(checkpoint)
        if precision == "auto" and any(promise is not None and promise.promised for promise in (point, reject)):
            precision = "float32"  # rounding moves labels and exits, and a promise knows nothing of it
        calibrated = is_calibrated(checkpoint)
        withholds = reject is not None and reject.threshold is not None
        taken: ExitNet | Program
        if runtime == "torch":
            taken, recipe = prepare(net, optimize, precision, device)  # type: ignore[arg-type]  # it refuses int8
        else:
            taken, recipe, other = load_program(place, net, runtime, precision, optimize, device)
            if other is not None:
                policy = policy.at(other.thresholds)
                point, calibrated, reject = other.point, True, None  # found without labels, which a reject takes
        given = (taken, policy, saved["class_names"], recipe, point, calibrated, audit, reject)
        recognizer = cls(*given, saved.get("background"))
        recognizer.preparation = recognizer.preparation._replace(sampling=saved.get("sampling", "center"))
        if saved.get("gmacs"):
            *recognizer.gmacs, recognizer.full_gmacs = saved["gmacs"]
        recognizer._reject_left = withholds and reject is None
        recognizer._loaded = Loaded.at(place, recognizer._given(), precision == "int8")
        return recognizer

    def notes(self) -> list[str]:
        """What a user should know before it labels anything, a line each: such as no thresholds, or rounded answers."""
        lines = [] if self.calibrated else ["not calibrated: every video gets full inference"]
        if self.reject is not None and self.reject.threshold is None:
            lines.append(printable(self.reject))
        if self.reject is None and self._reject_left:
            lines.append("answers are not withheld: the int8 graphs have no reject threshold")
        if self.recipe and self.recipe.precision == "bfloat16":
            promised = any(promise is not None and promise.promised for promise in (self.point, self.reject))
            what = "its promise was made in float32" if promised else "exact"
            lines.append(f"{self.recipe}; {what}: --precision float32")
        return lines

    def save(self, folder: str | Path, runtimes: Sequence[GraphRuntime] = ()) -> None:
        """Write the model as a folder that `load` reads: weights, description, thresholds and a card.

        The weights are those of the checkpoint or folder that it was loaded from, which is read again; a net that was
        given by hand is written as it is. Class names, thresholds and all else that may be changed are written as they
        are now; where labels or exits depend on what was changed, the old promise is not.

        Args:
            folder: Where; nothing is replaced, so it must not be there, or be empty.
            runtimes: `onnx`, `openvino`: whose graphs are written too, for `load`.

        Raises:
            ValueError: There is a folder that holds something, or it cannot be written; or the net cannot describe
                itself, or cannot be exported.
        """
        if self._loaded is not None:
            self._loaded.save(folder, self._given(), runtimes)
            return
        if isinstance(self.net, Program):
            raise InputError("a program given by hand has no weights: save the net that it was exported from")
        given = self.net, self.policy, self.class_names, self.point, self.calibrated, self.preparation.sampling
        save_model(folder, as_checkpoint(*given, self.reject, self.background), "this net", runtimes)

    def _given(self) -> Given:
        sampling = self.preparation.sampling
        return Given.of(self.policy, self.class_names, self.point, sampling, self.reject, self.background)

    def __call__(self, video: Source, max_gmacs: float | None = None, deadline_ms: float | None = None) -> Recognition:
        """Label one video.

        Args:
            video: A path, the bytes of a file, a binary file object, or an open reader.
            max_gmacs: The most that may be spent on it, in GMACs: the best answer for no more.
            deadline_ms: Milliseconds after which no further step begins; the answer so far is given then. It comes late
                by one step at most. The first exit is always computed.

        Raises:
            VideoError: The video cannot be read.
            ValueError: `max_gmacs` does not reach to the first exit, or `deadline_ms` is below 0.
        """
        (outcome,) = self._walk([video], 1, at_once, self.limits(max_gmacs, deadline_ms))
        if isinstance(outcome, Exception):
            raise outcome
        return self._said(outcome, name_of(video))

    def many(
        self,
        videos: Iterable[Source],
        batch_size: int = 8,
        workers: int | None = None,
        max_gmacs: float | None = None,
    ) -> Iterator[Recognition | Skipped]:
        """Label many videos, in their order and with bounded memory.

        Videos are decoded ahead by threads and walk the route together: the sure ones leave, full batches go on.
        Results are those of one call each. Two batches are opened ahead of the first exit, and up to 32 are begun while
        a result that others wait for is not there yet; so `videos` should not be slow to give the next one.

        Args:
            videos: What a call takes, any number of them.
            batch_size: Videos of a step.
            workers: Threads that decode; None takes one per CPU, up to 8.
            max_gmacs: As for a call, for each of them.

        Yields:
            A `Recognition` for each video, or what was wrong with it: `Skipped(path, reason)`.

        Raises:
            ValueError: `batch_size` or `workers` is below 1, `videos` is one video, or `max_gmacs` does not reach the
                first exit.
        """
        if isinstance(videos, str | Path | bytes):
            raise InputError("many takes a list of videos, or whatever else gives one after the other")
        workers = min(os.cpu_count() or 1, 8) if workers is None else workers
        if batch_size < 1 or workers < 1:
            raise InputError(f"batch_size={batch_size}, workers={workers}: 1 or more")
        return self._many(videos, batch_size, workers, Limits(self._last(max_gmacs)))

    def live(
        self,
        window: float = 4.0,
        hop: int | None = None,
        deadline_ms: float | None = None,
        max_gmacs: float | None = None,
        continual: bool = False,
    ) -> LiveRecognizer:
        """Label frames as they come; see `LiveRecognizer` for the arguments.

        Raises:
            ValueError: An argument is out of its range or does not fit the net, or another runtime than torch runs it.
        """
        given = (window, hop, deadline_ms, max_gmacs, self.audit, continual, self.reject)
        return LiveRecognizer(self.net, self.policy, self.class_names, *given)

    def _many(
        self, videos: Iterable[Source], batch_size: int, workers: int, limits: Limits
    ) -> Iterator[Recognition | Skipped]:
        names: dict[int, str] = {}

        def named() -> Iterator[Source]:
            for number, video in enumerate(videos):
                names[number] = name_of(video)
                yield video

        executor = ThreadPoolExecutor(workers, "dynvid-decode")
        try:
            for number, outcome in enumerate(self._walk(named(), batch_size, executor.submit, limits)):
                name = names.pop(number)
                if isinstance(outcome, Exception):
                    yield Skipped(name, reason(name, outcome))
                else:
                    yield self._said(outcome, name)
        finally:
            executor.shutdown(cancel_futures=True)

    def _walk(
        self, videos: Iterable[Source], batch_size: int, submit: Submit, limits: Limits | None = None
    ) -> Iterator[Outcome]:
        pool = Pool(self.net, self.policy, batch_size, submit, limits, self.audit)
        return pool.run(partial(self.preparation.open, video) for video in videos)

    def limits(self, max_gmacs: float | None = None, deadline_ms: float | None = None) -> Limits:
        """What a video may cost, as the pool takes it.

        Raises:
            ValueError: `max_gmacs` does not reach to the first exit, or `deadline_ms` is below 0.
        """
        if deadline_ms is not None and not deadline_ms >= 0:  # nor is nan
            raise InputError(f"deadline_ms={deadline_ms}: 0 or more")
        return Limits(self._last(max_gmacs), float("inf") if deadline_ms is None else deadline_ms / 1000)

    def _last(self, max_gmacs: float | None) -> int:
        """The last exit within a budget, by its position."""
        if max_gmacs is None:
            return len(self.net.route) - 1
        within = [k for k, gmacs in enumerate(self.gmacs) if gmacs <= max_gmacs]
        if not within:
            raise InputError(f"max_gmacs={max_gmacs:g}: the first exit takes {self.gmacs[0]:.4g} GMACs")
        return within[-1]

    @cached_property
    def gmacs(self) -> Sequence[float]:
        """GMACs per video up to each exit, all heads on the way included."""
        return self.net.gmacs

    @cached_property
    def full_gmacs(self) -> float:
        """GMACs per video of full inference, which evaluates the last exit's head only."""
        return self.net.full_gmacs

    def _said(self, answers: list[Answer], path: str) -> Recognition:
        passed = tuple(map(self._passed, answers))
        exit, label, probability, gmacs, milliseconds, labels = passed[-1]
        answered, spent = probability >= reject_level(self.reject), (exit.frames, gmacs, milliseconds)
        return Recognition(label, probability, exit, *spent, passed, path, labels, answered)

    def _passed(self, answer: Answer) -> Passed:
        names, k = names_of(answer.label, self.class_names), answer.position
        label = SEPARATOR.join(names)
        return Passed(self.net.route[k], label, answer.probability, self.gmacs[k], answer.milliseconds, names)


def name_of(video: Source) -> str:
    """What errors call a video."""
    if isinstance(video, FrameReader):
        return video.name
    return str(video) if isinstance(video, str | Path) else str(getattr(video, "name", "<bytes>"))


def reason(name: str, error: Exception) -> str:
    """Why a video was skipped, in one line that names it."""
    if isinstance(error, DynvidError | OSError):
        return str(error)
    said = " ".join(str(error).split()) or "no reason given"  # whatever it is, one file must not stop the others
    return printable(f"{name}: {type(error).__name__}: {said}")
