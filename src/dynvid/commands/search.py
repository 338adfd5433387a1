"""The videos among the files and folders that `classify` is given; nothing is passed over in silence."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

from dynvid.data.walk import by_kind, entries_once
from dynvid.errors import MissingFileError


class Found(NamedTuple):
    """A video file or a folder of frames, or what is wrong with it."""

    path: Path
    error: str = ""


def search(paths: Sequence[str | Path]) -> tuple[list[Found], Counter[str]]:
    """Find videos and folders of frames, at any depth.

    Folders are read in the order of their names, each once, however many links lead to it. A folder of images is a
    video, unless video files lie beside them. A file that was named is taken whatever its ending.

    Returns:
        What was found, each once, in the order of `paths`; and how many entries of which kind were passed over.

    Raises:
        FileNotFoundError: There is no such path.
    """
    found: dict[str, Found] = {}
    passed: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for path in map(Path, paths):
        if not os.path.lexists(path):
            raise MissingFileError(f"{path}: no such file or folder")
        known = passed["met twice"]
        inside = list(_search(path, seen, passed))
        if not inside and passed["met twice"] == known:
            inside = [Found(path, f"{path}: holds no video and no frames")]
        for each in inside:
            key = os.path.abspath(each.path)
            passed["met twice"] += key in found
            found.setdefault(key, each)
    return list(found.values()), +passed  # less those of none


def _search(path: Path, seen: set[tuple[int, int]], passed: Counter[str]) -> Iterator[Found]:
    waiting = [path]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
            folder = S_ISDIR(status.st_mode)
            entries = entries_once(path, seen) if folder else []
        except OSError as error:
            nowhere = isinstance(error, FileNotFoundError) and os.path.islink(path)
            reason = "a link that leads nowhere" if nowhere else error.strerror or error
            yield Found(path, f"{path}: cannot be read ({reason})")
            continue
        if not folder:
            yield Found(path, "" if S_ISREG(status.st_mode) else f"{path}: neither a file nor a folder")
            continue
        if entries is None:
            passed["met twice"] += 1
            continue
        inside = by_kind(entries, Path)
        if inside.is_video:
            yield Found(path)
        dangling = [other for other in inside.others if os.path.islink(other) and not os.path.exists(other)]
        others = set(inside.others).difference(dangling)
        passed["hidden"] += len(inside.hidden)
        passed["images beside videos"] += 0 if inside.is_video else len(inside.frames)
        passed.update(other.suffix.lower() or "without an ending" for other in others)
        waiting += sorted(inside.folders + inside.videos + dangling, reverse=True)
