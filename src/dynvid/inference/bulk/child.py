"""The process that reads videos and computes: it holds the recognizer, answers its parent, and may die of a video.

It is told videos by number and path, one after the other. Those of a company walk the route together, through
`Recognizer.many`, until it is told that no more come; one that is read alone is the only one in its hands. It says of
each video that it begins before it opens it. One that cannot be read in company is read once more, by itself: that
tells whether the video is at fault or the machine. When its parent is gone it ends, whatever it is doing.
"""

import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from dynvid.data.store import OF_THE_FILE, RemoteFile, is_uri
from dynvid.errors import DynvidError, InputError
from dynvid.inference.bulk.digests import digest_of_model
from dynvid.inference.bulk.rows import Row

if TYPE_CHECKING:
    from dynvid.inference.recognizer import Recognition, Recognizer


@dataclass(frozen=True)
class Settings:
    """What a process needs to know to label videos.

    Attributes:
        model: A checkpoint, a folder, or a name, as `Recognizer.load` takes it.
        device: As `Recognizer.load` takes it; likewise the next three.
        precision: `auto`, `float32`, `bfloat16` or `int8`.
        optimize: `none`, `default` or `compile`.
        runtime: `torch`, `onnx` or `openvino`.
        batch_size: Videos that are computed together.
        workers: Threads that decode; None takes one per CPU, up to 8.
        audit: Share of videos that are audited.
        audited: What the audit of an earlier process said at last, to go on from.
        digest: Of the model, as `digest_of_model` takes it; another one is refused. None takes any.
    """

    model: str
    device: str = "auto"
    precision: str = "auto"
    optimize: str = "default"
    runtime: str = "torch"
    batch_size: int = 8
    workers: int | None = None
    audit: float | None = None
    audited: dict[str, Any] | None = None
    digest: str | None = None


# What a parent sends, beside the settings at first: ("video", number, path), ("end",) of a company, or
# ("alone", number, path). What it gets: ("ready", words, precision), ("refused", reason), ("begun", number),
# ("row", number, row, doubtful), ("audit", state), ("end",), ("broken", reason).
# A row is doubtful if the machine may be to blame for it.
Message = tuple[Any, ...]

STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
"""Signals that come to a whole group of processes, and are for the parent alone: when that ends, this one does."""


def main(pipe: int) -> None:
    """What the process does.

    Args:
        pipe: The file descriptor of its end of the pipe to its parent.
    """
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    parent: Connection[Message, Message] = Connection(pipe)
    settings: Settings = parent.recv()  # type: ignore[assignment]
    orders: SimpleQueue[Message] = SimpleQueue()
    Thread(target=_listen, args=(parent, orders), daemon=True).start()
    try:
        from dynvid.inference.recognizer import Recognizer

        names = ("device", "precision", "optimize", "runtime", "audit")
        how: dict[str, Any] = {name: getattr(settings, name) for name in names}
        recognizer = Recognizer.load(settings.model, **how)
        if settings.digest is not None and digest_of_model(settings.model) != settings.digest:
            raise InputError(f"{settings.model}: is another model than the one that was begun with; bring that back")
        if settings.audited and recognizer.audit:
            recognizer.audit.resume(settings.audited)
    except (DynvidError, OSError) as error:
        parent.send(("refused", str(error)))
        return
    precision = recognizer.recipe.precision if recognizer.recipe else settings.precision
    parent.send(("ready", recognizer.notes(), precision))
    while True:
        order = orders.get()
        try:
            if order[0] == "alone":
                parent.send(("begun", order[1]))
                parent.send(("row", order[1], *_alone(recognizer, order[2])))
            elif order[0] == "video":
                _together(recognizer, settings, order, orders, parent)
            if recognizer.audit:
                parent.send(("audit", recognizer.audit.plain() | {"said": str(recognizer.audit)}))
            parent.send(("end",))
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            with suppress(OSError):  # the parent may be what is gone
                parent.send(("broken" if _is_out_of_memory(error) else "failed", said))
            os._exit(1)  # at once, although threads may still be decoding


def _listen(parent: "Connection[Message, Message]", orders: "SimpleQueue[Message]") -> None:
    """Take orders, so that the parent never waits to give one; without a parent there is nothing left to do."""
    try:
        while True:
            orders.put(parent.recv())
    except (EOFError, OSError):
        os._exit(1)


def _together(
    recognizer: "Recognizer",
    settings: Settings,
    first: Message,
    orders: "SimpleQueue[Message]",
    parent: "Connection[Message, Message]",
) -> None:
    begun: deque[tuple[int, str]] = deque()

    def videos() -> Iterator[Any]:
        order = first
        while order[0] == "video":
            _, number, path = order
            begun.append((number, path))
            parent.send(("begun", number))
            yield _source(path)
            order = orders.get()

    from dynvid.data.dataset import Skipped

    for found in recognizer.many(videos(), settings.batch_size, settings.workers):
        number, path = begun.popleft()
        if isinstance(found, Skipped):
            parent.send(("row", number, *_alone(recognizer, path)))
        else:
            parent.send(("row", number, _row(recognizer, path, found), False))


def _alone(recognizer: "Recognizer", path: str) -> tuple[Row, bool]:
    """The row of a video, and whether the machine may be to blame for it."""
    from dynvid.inference.recognizer import reason

    source = _source(path)
    try:
        return _row(recognizer, path, recognizer(source)), False
    except Exception as error:
        if _is_out_of_memory(error):
            raise  # the machine's fault, not the video's
        doubtful = getattr(source, "failed", False) or any(map(_is_of_the_machine, _causes(error)))
        return Row(path, error=reason(path, error)), doubtful


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came of, and so on; but not what FFmpeg says, since damaged files make it say anything."""
    import av

    while error is not None:
        if not isinstance(error, av.FFmpegError):
            yield error
        error = error.__cause__ or error.__context__


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    kinds = (torch.OutOfMemoryError, MemoryError)
    return any(isinstance(e, kinds) or "can't allocate memory" in str(e) for e in _causes(error))


def _is_of_the_machine(error: BaseException) -> bool:
    # Pillow says what is wrong with a picture by an OSError without a number.
    return isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_FILE


def _source(path: str) -> Any:
    return RemoteFile(path) if is_uri(path) else path


def _row(recognizer: "Recognizer", path: str, found: "Recognition") -> Row:
    return Row(
        path,
        found.label,
        found.probability,
        found.exit.frames,
        found.exit.depth,
        found.gmacs,
        1 - found.gmacs / recognizer.full_gmacs,
        found.milliseconds,
        answered=found.answered,
    )
