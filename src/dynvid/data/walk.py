"""What lies in a folder, and which folders were seen already: for all that looks for videos at any depth."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dynvid.data.suffixes import VIDEO_SUFFIXES, is_frame


class Contents(NamedTuple):
    """What lies in a folder, by kind."""

    hidden: list[Path]
    folders: list[Path]
    videos: list[Path]
    frames: list[Path]
    others: list[Path]

    @property
    def is_video(self) -> bool:
        """Whether its images are the frames of a video; an image beside a video is its thumbnail."""
        return bool(self.frames) and not self.videos


def entries_once(folder: str | Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]] | None:
    """The entries of a folder in the order of their names; None where a link led to it before.

    Args:
        folder: What to list.
        seen: Folders listed so far, by device and number; this one is added.

    Raises:
        OSError: It cannot be read.
    """
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return None
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    seen.add((status.st_dev, status.st_ino))
    return listed


def by_kind(entries: Iterable[os.DirEntry[str]]) -> Contents:
    """Sort the entries of a folder by what their names say they are."""
    contents = Contents([], [], [], [], [])
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            contents.hidden.append(path)
        elif is_folder(entry):
            contents.folders.append(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            contents.videos.append(path)
        elif is_frame(path):
            contents.frames.append(path)
        else:
            contents.others.append(path)
    return contents


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; no link to itself is."""
    try:
        return entry.is_dir()
    except OSError:
        return False
