"""Listed videos on disk, and the lists themselves."""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dynvid.data.video import VIDEO_SUFFIXES
from dynvid.errors import InputError, MissingFileError


def find_names(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Find videos by name, however they are sorted into folders and whatever they were encoded to.

    Every folder is listed once, however many links lead to it; of files with one name, the least nested is taken, then
    the first by path.

    Args:
        folder: Where to look, at any depth. Hidden folders and the frames of frame folders are passed over.
        names: Names of video files without their ending, or of frame folders; best a set.

    Returns:
        `{name: path}` of those that are there.
    """
    found: dict[str, str] = {}
    folders, seen = [str(folder)], set()
    for current in folders:  # grows on the way: breadth first
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() in VIDEO_SUFFIXES and stem in names:
                    found.setdefault(stem, entry.path)
                elif entry.is_dir():
                    if entry.name in names:
                        found.setdefault(entry.name, entry.path)
                    elif not entry.name.startswith("."):
                        folders.append(entry.path)
    return found


def find_paths(paths: Collection[str]) -> dict[str, str]:
    """Find videos by their exact paths, listing each of their folders once.

    Args:
        paths: Video files or frame folders.

    Returns:
        `{path: path}` of those that are there.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[os.path.dirname(path)].append(path)
    found: dict[str, str] = {}
    for folder, inside in by_folder.items():
        names = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        found |= {path: path for path in inside if os.path.basename(path) in names}
    return found


def read_text(file: Path, hint: str) -> str:
    """The text of an annotation file.

    Args:
        file: A file in UTF-8.
        hint: What to do where it is missing.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is in another encoding.
    """
    if not file.exists():
        raise MissingFileError(f"{file} does not exist: {hint}")
    try:
        return file.read_text(encoding="utf-8-sig")  # -sig: spreadsheets add a mark
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: not UTF-8; save the file in that encoding") from error


def read_lines(file: Path, hint: str) -> list[tuple[int, str]]:
    """Numbered lines of a list file, less the blank ones: official files mix line ends and trailing blanks.

    Arguments and errors are those of `read_text`.
    """
    # Not splitlines: it also breaks at characters that titles may hold.
    lines = enumerate(read_text(file, hint).split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_rows(file: Path, hint: str) -> "csv.DictReader[str]":
    """Rows of a CSV file with a header; a cell that a row lacks is empty.

    Arguments and errors are those of `read_text`.
    """
    return csv.DictReader(io.StringIO(read_text(file, hint)), restval="", skipinitialspace=True)


def read_json(file: Path, hint: str) -> Any:
    """The content of a JSON file; arguments and errors are those of `read_text`, and ValueError for other content."""
    try:
        return json.loads(read_text(file, hint))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: not JSON ({error.msg}); download it again") from error


def read_excluded(file: str | Path) -> set[str]:
    """Absolute paths in the `path` column of a CSV file.

    Raises:
        ValueError: It has no such column.
    """
    with Path(file).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        rows = csv.DictReader(lines)
        if "path" not in (rows.fieldnames or []):
            raise InputError(f"{file}, line 1: no column path; `exclude` takes a file with the columns path,reason")
        return {os.path.abspath(row["path"]) for row in rows}


def write_missing(names: Sequence[str], folder: str | Path, split: str) -> Path:
    """Write names of missing videos to `folder/missing_<split>.txt`, one per line."""
    file = Path(folder) / f"missing_{split}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")
    return file
