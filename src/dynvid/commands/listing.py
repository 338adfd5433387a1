"""Very many videos, one after the other: from folders and lists that are longer than the memory."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from dynvid.data.store import is_uri
from dynvid.data.suffixes import VIDEO_SUFFIXES, is_frame
from dynvid.data.walk import is_folder
from dynvid.errors import InputError, MissingFileError
from dynvid.inference.bulk.digests import digest_of_file
from dynvid.inference.bulk.keys import Keys, key_of
from dynvid.inference.bulk.label import absolute
from dynvid.inference.bulk.rows import Row

LISTS = frozenset({".csv", ".txt"})
"""Lower-case endings of files that list videos."""


def check(paths: Sequence[str]) -> None:
    """Refuse a path that is missing, before any work.

    Raises:
        FileNotFoundError: There is no such path.
    """
    for path in paths:
        if not is_uri(path) and not os.path.lexists(path):
            raise MissingFileError(f"{path}: no such file or folder")


def is_list(path: str) -> bool:
    """Whether a path is taken for a list of videos: by its ending alone.

    >>> is_list("videos.TXT"), is_list("a.mp4"), is_list("s3://bucket/a.csv")
    (True, False, False)
    """
    return Path(path).suffix.lower() in LISTS and not is_uri(path) and not os.path.isdir(path)


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """What tells these arguments from others: a list by its content, everything else by its name."""
    return {absolute(path): digest_of_file(path) if is_list(path) else "named" for path in paths}


def stream(paths: Sequence[str], passed: Counter[str]) -> Iterator[str | Row]:
    """Find videos and folders of frames by the rules of `search`, keeping none of them in memory.

    They come in the order in which the file system lists them, and may come twice where links lead to them. A file that
    ends in `.txt` or `.csv` is a list of videos: one path or address a line, or those in the column `path` of a CSV (in
    its first column, where none is called so). Relative paths count from the folder that one is in.

    Args:
        paths: Files, folders, lists, or addresses of videos.
        passed: Counts what is passed over, by kind.

    Yields:
        A path, or a row that says what is wrong with it.

    Raises:
        ValueError: A list cannot be read.
    """
    seen = Keys()
    for path in paths:
        if is_uri(path):
            yield path
        elif is_list(path):
            yield from _listed(Path(path))
        else:
            empty, before = True, passed["met twice"]
            for found in _walk(path, seen, passed):
                empty = False
                yield found
            if empty and passed["met twice"] == before:
                yield _wrong(path, "holds no video and no frames")


def _listed(file: Path) -> Iterator[str]:
    try:
        # Names of files may be no UTF-8, and spreadsheets put a mark in front.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            if file.suffix.lower() != ".csv":
                yield from (line for line in (line.rstrip("\r\n") for line in lines) if line.strip())
                return
            reader, column = csv.reader(lines, strict=True), -1
            for cells in reader:
                if not "".join(cells).strip():
                    continue
                if column < 0:
                    header = [cell.strip().lower() for cell in cells]
                    column = header.index("path") if "path" in header else 0
                    if "path" in header:
                        continue
                if len(cells) <= column or not cells[column]:
                    raise InputError(f"{file}, line {reader.line_num}: has no path")
                yield cells[column]
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: no CSV ({error})") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error


@dataclass
class _Open:
    """A folder that is being listed."""

    path: str
    entries: Iterator[os.DirEntry[str]]
    videos: int = 0
    frames: int = 0


def _walk(path: str, seen: Keys, passed: Counter[str]) -> Iterator[str | Row]:
    """What a file or folder holds; as many folders are open at a time as lie within one another."""
    opened: list[_Open] = []

    def enter(path: str) -> Row | str | None:
        try:
            status = os.stat(path)
            if not S_ISDIR(status.st_mode):
                return path if S_ISREG(status.st_mode) else _wrong(path, "neither a file nor a folder")
            if seen.add(key_of(f"{status.st_dev}:{status.st_ino}")):
                opened.append(_Open(path, os.scandir(path)))
            else:
                passed["met twice"] += 1
        except OSError as error:
            return _unreadable(path, error)
        return None

    if (found := enter(path)) is not None:
        yield found
    while opened:
        folder = opened[-1]
        try:
            entry = next(folder.entries, None)
        except OSError as error:
            opened.pop()
            yield _unreadable(folder.path, error)
            continue
        if entry is None:
            opened.pop()
            if folder.frames and not folder.videos:
                yield folder.path
            passed["images beside videos"] += folder.frames if folder.videos else 0
            continue
        name = Path(entry.name)
        if entry.name.startswith("."):
            passed["hidden"] += 1
        elif is_folder(entry):
            if (found := enter(entry.path)) is not None:
                yield found
        elif name.suffix.lower() in VIDEO_SUFFIXES:
            folder.videos += 1
            found = entry.path if _is_file(entry) else enter(entry.path)
            if found is not None:
                yield found
        elif is_frame(name):
            folder.frames += 1
        elif entry.is_symlink() and not os.path.exists(entry.path):
            if (found := enter(entry.path)) is not None:
                yield found
        else:
            passed[name.suffix.lower() or "without an ending"] += 1


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, without asking the disk again where the listing says so."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _unreadable(path: str, error: OSError) -> Row:
    nowhere = isinstance(error, FileNotFoundError) and os.path.islink(path)
    return _wrong(path, f"cannot be read ({'a link that leads nowhere' if nowhere else error.strerror or error})")


def _wrong(path: str, reason: str) -> Row:
    return Row(path, error=f"{path}: {reason}")
