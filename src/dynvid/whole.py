"""Files that are whole or absent, whatever stops the process that writes them."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from dynvid.errors import InputError

UNFINISHED = ".unfinished"


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Replace a file in one step, its folder made where it is missing.

    A symbolic link at `path` is replaced, never followed: what it points to stays as it is.

    Raises:
        InputError: The file cannot be written; what was there before is still there.
    """
    path, unfinished = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        unfinished, file = _begin(path.parent)
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # there an open file cannot be moved
            os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; what was there stays") from error
    finally:
        if unfinished is not None:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
    with suppress(OSError):  # the name survives a power cut too, on file systems that can say so of a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _begin(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new file that nobody takes for a leftover, since this process holds its lock."""
    while True:
        path = folder / f".{uuid4().hex}{UNFINISHED}"
        file = path.open("xb")
        _lock(file, wait=True)
        if path.exists():
            return path, file
        file.close()  # another writer was there between the two lines and has removed it


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left: whoever still writes a file holds a lock on it."""
    for leftover in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError), leftover.open("rb+") as file:
            if _lock(file):
                leftover.unlink()


def _lock(file: IO[bytes], wait: bool = False) -> bool:
    """Whether nobody else holds the lock, which goes when its holder ends; a file system without locks says no."""
    if sys.platform == "win32":
        return True  # there a file that is open cannot be removed anyway
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
