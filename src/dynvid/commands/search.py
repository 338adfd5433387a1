"""The videos among the files and folders that `classify` is given; nothing is passed over in silence."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from dynvid.data.video import VIDEO_SUFFIXES, is_frame
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
            folder = os.path.isdir(path)
            entries = sorted(os.scandir(path), key=lambda entry: entry.name) if folder else []
        except OSError as error:
            nowhere = isinstance(error, FileNotFoundError) and os.path.islink(path)
            reason = "a link that leads nowhere" if nowhere else error.strerror or error
            yield Found(path, f"{path}: cannot be read ({reason})")
            continue
        if not folder:
            yield Found(path, "" if S_ISREG(status.st_mode) else f"{path}: neither a file nor a folder")
            continue
        if (status.st_dev, status.st_ino) in seen:
            passed["met twice"] += 1
            continue
        seen.add((status.st_dev, status.st_ino))
        images, inside, videos = 0, [], False
        for entry in entries:
            child = Path(entry.path)
            ending = child.suffix.lower()
            if entry.name.startswith("."):
                passed["hidden"] += 1
            elif _is_folder(entry):
                inside.append(child)
            elif ending in VIDEO_SUFFIXES:
                inside.append(child)
                videos = True
            elif is_frame(child):
                images += 1
            elif entry.is_symlink() and not os.path.exists(child):
                inside.append(child)
            else:
                passed[ending or "without an ending"] += 1
        if images and videos:
            passed["images beside videos"] += images
        elif images:
            yield Found(path)
        waiting += reversed(inside)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False
