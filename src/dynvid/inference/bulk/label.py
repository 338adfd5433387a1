"""Label very many videos, each once whatever is stopped on the way, and keep what was found in a folder."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dynvid.data.store import is_uri
from dynvid.errors import InputError, ModeError
from dynvid.inference.bulk.child import Settings
from dynvid.inference.bulk.digests import digest_of_model, digest_of_names
from dynvid.inference.bulk.journal import Journal
from dynvid.inference.bulk.results import Results
from dynvid.inference.bulk.rows import Row, Totals
from dynvid.inference.bulk.supervisor import Supervisor

Engine = Literal["local", "ray"]


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        totals: Over all rows in the results, those of earlier runs included.
        earlier: Videos of earlier runs among them.
        new: Videos of this run.
        seconds: Since this run gave its first row; 0 before.
        repeated: Videos that were given although they were done, or given before.
        audit: What the audit says so far, as `dynvid.calibration.Audit.plain` does and, as `said`, in words.
    """

    totals: Totals
    earlier: int = 0
    new: int = 0
    seconds: float = 0.0
    repeated: int = 0
    audit: dict[str, Any] | None = None
    _begun: float | None = None

    @property
    def rate(self) -> float:
        """Videos per second in this run, without the time that loading the model took; 0 before there are two."""
        return (self.new - 1) / self.seconds if self.seconds > 0 else 0.0

    def _count(self) -> None:
        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        self.new, self.seconds = self.new + 1, now - self._begun


def label_files(
    model: str | Path,
    videos: Iterable[str | Path | Row],
    out: str | Path,
    *,
    engine: Engine = "local",
    device: str = "auto",
    precision: str = "auto",
    optimize: str = "default",
    runtime: str = "torch",
    batch_size: int = 8,
    workers: int | None = None,
    actors: int | None = None,
    address: str | None = None,
    time_limit: float = 600.0,
    audit: float | None = None,
    listing: dict[str, str] | None = None,
    retry_errors: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
    part_rows: int = 10_000,
    part_seconds: float = 60.0,
) -> Progress:
    """Label videos, and keep a row of each in Parquet parts, which `parts_of` names; see `Results` for their columns.

    What is done is done once: a run that was stopped, whatever it was stopped by, is taken up by the same call. Videos
    that cannot be read are rows with the reason, and so is a video that twice ended the process that was reading it
    alone (a crash of a decoder, no memory left, no word for `time_limit`). The memory of this process grows by eight
    bytes per video.

    Args:
        model: What `Recognizer.load` takes.
        videos: Paths of files or folders of frames, or addresses such as `s3://bucket/a.mp4`; a `Row` is kept as it is.
        out: A folder; with object storage an address such as `s3://bucket/results`, where nothing keeps a second
            process off.
        engine: `local` reads by one process of this machine; `ray` by Ray Data's actors, on as many as Ray knows.
        device: As for `Recognizer.load`; likewise the next three.
        precision: `auto`, `float32`, `bfloat16` or `int8`.
        optimize: `none`, `default` or `compile`.
        runtime: `torch`, `onnx` or `openvino`.
        batch_size: Videos that are computed together.
        workers: Threads that decode; None takes one per CPU, up to 8, and for each of Ray's actors one.
        actors: How many of Ray's actors; None takes as many as there is room for, those that come later included.
        address: Of Ray's cluster; None takes the one of `RAY_ADDRESS`, or starts Ray on this machine.
        time_limit: Seconds without any answer after which a process is taken for hung.
        audit: As for `Recognizer`; a run that is taken up goes on with it. For the local engine.
        listing: Names what `videos` are, such as the digest of a list; results of another listing are refused. None
            takes a digest of `videos`, if they are a sequence.
        retry_errors: Withdraw the rows of videos that earlier runs could not read, and do those again.
        report: Called after each row.
        say: Called with a line when something happens that a user should know.
        part_rows: Rows of a full part.
        part_seconds: Seconds after which a part is written although it is not full: what a kill costs at most.

    Returns:
        How far it came, which is to the end.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The model cannot be loaded; `out` cannot be written, holds results of another model, other settings
            or other videos, or another process is writing there; there is no such cluster.
        ModeError: The process that reads cannot run.

    Example:
        >>> from dynvid.inference import label_files
        >>> done = label_files("best.ckpt", ["a.mp4", "b.mp4"], "results")  # doctest: +SKIP
        >>> done.totals.videos, done.totals.errors  # doctest: +SKIP
        (2, Counter())
    """
    if sys.platform == "win32":
        raise ModeError("many files are labelled on Linux and macOS only")
    if engine not in ("local", "ray"):
        raise InputError(f"engine={engine!r}: local or ray")
    if batch_size < 1 or (workers is not None and workers < 1) or (actors is not None and actors < 1):
        raise InputError(f"batch_size={batch_size}, workers={workers}, actors={actors}: 1 or more")
    if audit is not None and engine == "ray":
        raise InputError("audit goes with the local engine: actors would each know of their own videos only")
    if not time_limit > 0:
        raise InputError(f"time_limit={time_limit}: more than 0 seconds")
    if listing is None and isinstance(videos, Sequence):
        listing = {"listed": digest_of_names(absolute(each.path if isinstance(each, Row) else each) for each in videos)}
    identity: dict[str, Any] = {
        "model": digest_of_model(model),
        "settings": {"precision": precision, "optimize": optimize, "runtime": runtime},
        "videos": listing or {},
    }
    where = absolute(model) if os.path.exists(model) else str(model)  # other processes start elsewhere
    with Results(out, identity, part_rows, part_seconds, retry_errors) as results:
        settings = Settings(
            model=where,
            device=device,
            precision=results.identity["settings"]["precision"],
            optimize=optimize,
            runtime=runtime,
            batch_size=batch_size,
            workers=workers,
            audit=audit,
            audited=results.audit,
            digest=identity["model"],
        )
        progress = Progress(results.totals, results.totals.videos, audit=results.audit)

        def add(row: Row) -> None:
            results.add(row)
            progress._count()
            report(progress)

        def waiting() -> Iterator[str]:
            for video in videos:
                row = video if isinstance(video, Row) else None
                path = absolute(video.path if isinstance(video, Row) else video)
                if not results.take(path):
                    progress.repeated += 1
                elif row is not None:
                    add(row._replace(path=path))
                else:
                    yield path

        if engine == "ray":
            from dynvid.inference.bulk.ray import Cluster

            worker: Supervisor | Cluster = Cluster(settings, time_limit, actors, address, say)
        else:
            journal = Journal(results.store.journal)
            results.written = journal.compact
            worker = Supervisor(settings, time_limit, journal, say)
        try:
            for row in worker.run(waiting()):
                results.audit = progress.audit = worker.audit or results.audit
                results.identity["settings"]["precision"] = worker.precision
                add(row)
        finally:
            worker.close()
        results.audit = progress.audit = worker.audit or results.audit
        results.finish()
    return progress


def absolute(path: str | Path) -> str:
    """A path as it is written into results: absolute, or an address as it is.

    `..` stays: after a link it leads elsewhere than the names suggest.

    >>> absolute("/a/./link/../b.mp4"), absolute("s3://bucket/./b.mp4")
    ('/a/link/../b.mp4', 's3://bucket/./b.mp4')
    """
    return str(path) if is_uri(str(path)) else str(Path(path).absolute())
