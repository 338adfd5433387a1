"""Decode every video of a data set once, to find what cannot be read before a training run does."""

import csv
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from os import cpu_count
from os.path import abspath
from pathlib import Path
from typing import Literal, TextIO, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import Split
from dynvid.data.files import write_missing
from dynvid.data.video import open_video

_CHUNK = 32  # frames held in memory at a time, rounded up to a group of pictures


@dataclass(frozen=True)
class Checked:
    """What decoding a video from end to end showed.

    Attributes:
        path: The video.
        status: Whether all of it could be read.
        reason: Why not, in one line.
        frames: Number of frames.
        fps: Frames per second that the file states; 0 where it states none, as for folders of frames.
        key_frame_spacing: Mean distance of its key frames, in frames.
    """

    path: str
    status: Literal["ok", "unreadable"]
    reason: str = ""
    frames: int = 0
    fps: float = 0.0
    key_frame_spacing: float = 0.0


@dataclass(frozen=True)
class Summary:
    """What a check found.

    Attributes:
        videos: Number of videos checked, in this run or the ones it resumes.
        unreadable: Number of those that cannot be read.
        statistics: `{quantity: (5 %, median, 95 %)}` over the readable videos, for `frames`, `seconds`, `fps` and
            `key_frame_spacing`; a quantity that no video has is left out.
    """

    videos: int
    unreadable: int
    statistics: dict[str, tuple[float, float, float]]


def check_data(
    data: VideoDataModule,
    folder: str | Path = "check",
    num_workers: int | None = None,
    splits: Sequence[Split] = get_args(Split),
) -> Summary:
    """Check the videos of a data module, list what is missing, and print what was found.

    Args:
        data: Whose videos to check.
        folder: For the results: those of `check_videos`, and `missing_<split>.txt` where videos are missing.
        num_workers: Processes; None takes one per CPU, 0 stays in this one.
        splits: Which splits to check.

    Raises:
        FileNotFoundError: More videos are missing than `data.max_missing` allows.
    """
    data.prepare_data()
    paths: list[str] = []
    console = Console()
    for split in splits:
        paths += [video.path for video in data.videos(split)]
        if missing := data.missing[split]:
            file = write_missing(missing, folder, split)
            console.print(f"{split}: {len(missing)} listed videos are missing; they are named in {file}")
    summary = check_videos(paths, folder, num_workers)
    _print(console, summary, Path(folder))
    return summary


def check_videos(paths: Iterable[str], folder: str | Path, num_workers: int | None = None) -> Summary:
    """Decode videos completely, one per process at a time.

    Each result is appended to `folder/checked.csv` as it comes. Videos that are there already are not decoded
    again, so an interrupted check goes on where it stopped; remove the file to start afresh. What cannot be read
    is listed in `folder/unreadable.csv` with the reason: give that file to a data module as `exclude`. What is
    returned is also written to `folder/summary.json`.

    Args:
        paths: Video files or folders of frames.
        folder: For the results; made if need be.
        num_workers: Processes; None takes one per CPU, 0 stays in this one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = _read(folder / "checked.csv")
    names = list(dict.fromkeys(paths))
    waiting = [path for path in names if path not in results]
    bar = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[bad]} unreadable")
    with _open(folder / "checked.csv", "a") as file, Progress(*bar) as progress:
        rows = csv.DictWriter(file, [field.name for field in fields(Checked)], lineterminator="\n")
        if not file.tell():
            rows.writeheader()
            file.flush()
        bad = sum(path in results and results[path].status != "ok" for path in names)
        task = progress.add_task("", total=len(names), completed=len(names) - len(waiting), bad=bad)
        for result in _check_all(waiting, (cpu_count() or 1) if num_workers is None else num_workers):
            results[result.path] = result
            rows.writerow(asdict(result))
            file.flush()
            bad += result.status != "ok"
            progress.update(task, advance=1, bad=bad)
    with _open(folder / "unreadable.csv", "w") as file:
        # All that were ever found: those already left out by `exclude` are not among `paths`.
        unreadable = [(abspath(result.path), result.reason) for result in results.values() if result.status != "ok"]
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *unreadable])
    summary = Summary(len(names), bad, _statistics([results[path] for path in names]))
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def check_video(path: str) -> Checked:
    """Decode a video from end to end, a group of pictures at a time, as training would read it."""
    try:
        reader = open_video(path)
        start = 0
        for stop in [*reader.key_frames, len(reader)]:
            if stop - start >= _CHUNK or stop == len(reader):
                reader.read(range(start, stop), short_side=16)
                start = stop
    except Exception as error:  # whatever it is, one file must not stop the check of the others
        return Checked(path, "unreadable", " ".join(str(error).split()) or type(error).__name__)
    spacing = len(reader) / max(len(reader.key_frames), 1)
    return Checked(path, "ok", "", len(reader), reader.fps or 0.0, round(spacing, 2))


def _check_all(paths: Sequence[str], num_workers: int) -> Iterator[Checked]:
    """Check videos side by side, in no particular order; a file that kills its process is reported as such."""
    if not num_workers:
        yield from map(check_video, paths)
        return
    waiting = deque(paths)
    while waiting:
        running: dict[Future[Checked], str] = {}
        try:
            with _pool(num_workers) as pool:
                while waiting or running:
                    while waiting and len(running) < 2 * num_workers:
                        running[pool.submit(check_video, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        del running[future]
                        yield result
        except BrokenProcessPool:  # one of those running did it: each on its own tells which
            yield from map(_check_alone, running.values())


def _check_alone(path: str) -> Checked:
    with _pool(1) as pool:
        pool.submit(abs, 0).result()  # raises where no process can start: not the file's fault
        try:
            return pool.submit(check_video, path).result()
        except BrokenProcessPool:
            return Checked(path, "unreadable", f"{path}: the process died while decoding (a crash, or out of memory)")


def _pool(num_workers: int) -> ProcessPoolExecutor:
    # Not forked: the threads of torch and FFmpeg may hold locks.
    return ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"))


def _open(file: Path, mode: Literal["a", "w"]) -> TextIO:
    return file.open(mode, newline="", encoding="utf-8", errors="surrogateescape")


def _read(file: Path) -> dict[str, Checked]:
    """The results of an earlier run; a line that was cut off is removed from the file."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        file.write_bytes(whole)
    rows = csv.DictReader(io.StringIO(whole.decode(errors="surrogateescape"), newline=""))
    return {
        row["path"]: Checked(
            row["path"],
            "ok" if row["status"] == "ok" else "unreadable",
            row["reason"],
            int(row["frames"]),
            float(row["fps"]),
            float(row["key_frame_spacing"]),
        )
        for row in rows
    }


def _statistics(results: Sequence[Checked]) -> dict[str, tuple[float, float, float]]:
    readable = [result for result in results if result.status == "ok"]
    timed = [result for result in readable if result.fps]
    values = {
        "frames": [float(result.frames) for result in readable],
        "seconds": [result.frames / result.fps for result in timed],
        "fps": [result.fps for result in timed],
        "key_frame_spacing": [result.key_frame_spacing for result in readable],
    }
    return {name: _quantiles(column) for name, column in values.items() if column}


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return low, median, high


def _print(console: Console, summary: Summary, folder: Path) -> None:
    table = Table("", "5 %", "median", "95 %", box=None)
    for name, quantiles in summary.statistics.items():
        table.add_row(name.replace("_", " "), *(f"{value:.4g}" for value in quantiles))
    console.print(table)
    console.print(f"{summary.videos} videos checked, {summary.unreadable} unreadable; see {folder / 'unreadable.csv'}")
