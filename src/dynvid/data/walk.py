"""What lies in a folder, and which folders were seen already: for all that looks for videos at any depth."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from dynvid.data.address import Entry, Place, entries_at
from dynvid.data.store import is_uri
from dynvid.data.suffixes import VIDEO_SUFFIXES, is_frame

P = TypeVar("P", bound=Place)


class Contents(NamedTuple, Generic[P]):
    """What lies in a folder, by kind."""

    hidden: list[P]
    folders: list[P]
    videos: list[P]
    frames: list[P]
    others: list[P]

    @property
    def is_video(self) -> bool:
        """Whether its images are the frames of a video; an image beside a video is its thumbnail."""
        return bool(self.frames) and not self.videos


def entries_once(folder: str | Place, seen: set[tuple[int, int]]) -> Sequence[os.DirEntry[str] | Entry] | None:
    """The entries of a folder in the order of their names; None where a link led to it before.

    Args:
        folder: What to list.
        seen: Folders listed so far, by device and number; this one is added.

    Raises:
        OSError: It cannot be read.
    """
    folder = str(folder)
    if is_uri(folder):
        return entries_at(folder)  # there are no links
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return None
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    seen.add((status.st_dev, status.st_ino))
    return listed


def by_kind(entries: Iterable[os.DirEntry[str] | Entry], place: Callable[[str], P]) -> Contents[P]:
    """Sort the entries of a folder by what their names say they are."""
    contents: Contents[P] = Contents([], [], [], [], [])
    for entry in entries:
        path = place(entry.path)
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


def is_folder(entry: os.DirEntry[str] | Entry) -> bool:
    """Whether an entry is a folder or a link to one; no link to itself is."""
    try:
        return entry.is_dir()
    except OSError:
        return False
