"""Decode every video of a data set once, to find what cannot be read before a training run does."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from os import cpu_count
from pathlib import Path
from typing import Literal, TextIO, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import Split
from dynvid.data.files import csv_line, parse_rows, place, short, whole_path, write_csv, write_missing
from dynvid.data.overview import class_table, findings
from dynvid.data.video import verified_video
from dynvid.data.workers import Lost, apply
from dynvid.errors import DamagedVideoError, InputError
from dynvid.text import printable
from dynvid.whole import write_whole

Status = Literal["ok", "damaged", "unreadable"]
_STATUSES: dict[str, Status] = {status: status for status in get_args(Status)}


@dataclass(frozen=True)
class Checked:
    """What decoding a video from end to end showed.

    Attributes:
        path: The video.
        status: Whether all of it could be read, and whether FFmpeg flagged errors in what it decoded.
        reason: What is wrong, in one line.
        frames: Number of frames.
        fps: Frames per second that the file states; 0 where it states none, as for folders of frames.
        key_frame_spacing: Mean distance of its key frames, in frames.
    """

    path: str
    status: Status
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
        damaged: Number of those that decode with errors, so that some of their frames are wrong.
    """

    videos: int
    unreadable: int
    statistics: dict[str, tuple[float, float, float]]
    damaged: int = 0


def check_data(
    data: VideoDataModule,
    folder: str | Path = "check",
    num_workers: int | None = None,
    splits: Sequence[Split] = get_args(Split),
    time_limit: float = 600.0,
) -> Summary:
    """Check the videos of a data module, and print what was found: sizes, what cannot be read, what is listed twice.

    Args:
        data: Whose videos to check.
        folder: For the results: those of `check_videos`, `missing_<split>.txt` where videos are missing, and
            `duplicates.csv` where one content is in two splits or under two labels.
        num_workers: Processes; None takes one per CPU, 0 stays in this one.
        splits: Which splits to check.
        time_limit: Seconds that a video may take, as in `check_videos`.

    Raises:
        FileNotFoundError: More videos are missing than `data.max_missing` allows.
        ValueError: Another check is writing to the folder, or it holds damaged results.
    """
    data.prepare_data()
    console, sets = Console(), {split: data.videos(split) for split in splits}
    for split, missing in data.missing.items():
        if missing and split in sets:
            file = write_missing(missing, folder, split)
            _say(console, f"{split}: {len(missing)} listed videos are missing; they are named in {printable(file)}")
    console.print(class_table(sets, data.class_names))
    paths = [video.path for videos in sets.values() for video in videos]
    summary = check_videos(paths, folder, num_workers, time_limit)
    _print(console, summary, Path(folder))
    for line in findings(sets, data.class_names, Path(folder)):
        _say(console, line)
    return summary


def check_videos(
    paths: Iterable[str], folder: str | Path, num_workers: int | None = None, time_limit: float = 600.0
) -> Summary:
    """Decode videos completely, one per process at a time.

    Each result is appended to `folder/checked.csv` as it comes. Videos that are there already are not decoded
    again, so an interrupted check goes on where it stopped; remove the file to start afresh. What cannot be read
    or is damaged is listed in `folder/unreadable.csv` with the reason: give that file to a data module as `exclude`.
    What is returned is also written to `folder/summary.json`.

    Args:
        paths: Video files or folders of frames.
        folder: For the results; made if need be. One check at a time may write there.
        num_workers: Processes; None takes one per CPU, 0 stays in this one, where nothing can be stopped.
        time_limit: Seconds that a video may take; one that takes longer counts as unreadable.

    Raises:
        ValueError: Another check is writing to the folder, or `checked.csv` is damaged.
    """
    if num_workers is not None and num_workers < 0:
        raise InputError(f"num_workers={num_workers}: 0 or more")
    if not time_limit > 0:
        raise InputError(f"time_limit={time_limit}: more than 0 seconds")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(paths))
    bar = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[bad]} unreadable")
    with (folder / "checked.csv").open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
        _lock(file, folder)
        results = _resume(file, folder / "checked.csv")
        waiting = [path for path in names if path not in results]
        bad = sum(path in results and results[path].status != "ok" for path in names)
        with Progress(*bar) as progress:
            task = progress.add_task("", total=len(names), completed=len(names) - len(waiting), bad=bad)
            for result in _check_all(waiting, (cpu_count() or 1) if num_workers is None else num_workers, time_limit):
                results[result.path] = result
                file.write(csv_line(asdict(result).values()))
                file.flush()
                bad += result.status != "ok"
                progress.update(task, advance=1, bad=bad)
        # All that were ever found: those already left out by `exclude` are not among `paths`.
        unreadable = [(whole_path(result.path), result.reason) for result in results.values() if result.status != "ok"]
        write_csv(folder / "unreadable.csv", [("path", "reason"), *unreadable])
        statuses = Counter(results[path].status for path in names)
        statistics = _statistics([results[path] for path in names])
        summary = Summary(len(names), statuses["unreadable"], statistics, statuses["damaged"])
        write_whole(folder / "summary.json", (json.dumps(asdict(summary), indent=2) + "\n").encode())
    return summary


def check_video(path: str) -> Checked:
    """Decode a video from end to end with error detection on."""
    try:
        reader = verified_video(path)
    except Exception as error:  # whatever it is, one file must not stop the check of the others
        status: Status = "damaged" if isinstance(error, DamagedVideoError) else "unreadable"
        return Checked(path, status, " ".join(str(error).split()) or type(error).__name__)
    spacing = len(reader) / max(len(reader.key_frames), 1)
    return Checked(path, "ok", "", len(reader), reader.fps or 0.0, round(spacing, 2))


def _check_all(paths: Sequence[str], num_workers: int, time_limit: float) -> Iterator[Checked]:
    """Check videos side by side, in no particular order."""
    if not num_workers:
        yield from map(check_video, paths)
        return
    for path, result in apply(check_video, paths, num_workers, time_limit):
        yield Checked(path, "unreadable", f"{path}: {result.reason}") if isinstance(result, Lost) else result


def _lock(file: TextIO, folder: Path) -> None:
    """Hold the folder until the file is closed or the process dies, however it does."""
    import fcntl  # not on Windows, where the rest of the package may be imported

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{printable(folder)}: another check is writing there; wait until it ends, or choose another folder"
        ) from error


def _resume(file: TextIO, path: Path) -> dict[str, Checked]:
    """The results of an earlier run; removes a line that was cut off, and begins a new file with its header."""
    columns = [field.name for field in fields(Checked)]
    header, content = csv_line(columns), path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    hint = "remove the file to check everything again"
    if not whole and not header.encode().startswith(content):
        raise InputError(f"{place(path, 1)}: no result of a check; {hint}")
    results = {}
    for number, row in parse_rows(whole.decode(errors="surrogateescape"), path, columns, hint, True) if whole else ():
        try:
            frames, fps, spacing = int(row["frames"]), float(row["fps"]), float(row["key_frame_spacing"])
            result = Checked(row["path"], _STATUSES[row["status"]], row["reason"], frames, fps, spacing)
            if not all(0 <= value < 1e12 for value in (frames, fps, spacing)):  # no nan either
                raise InputError("a number out of range")
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{place(path, number)}: no result of a check ({printable(short(str(error)))}); {hint}"
            ) from error
        results[result.path] = result
    file.truncate(len(whole))
    if not whole:
        file.write(header)
        file.flush()
    return results


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
    counts = f"{summary.videos} videos checked, {summary.unreadable} unreadable, {summary.damaged} damaged"
    _say(console, f"{counts}; see {printable(folder / 'unreadable.csv')}")


def _say(console: Console, line: str) -> None:
    """Print a line as it is: names may hold brackets, and be long."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
