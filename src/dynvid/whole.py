"""Files and folders that are whole or absent, whatever stops the process that writes them."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from dynvid.errors import DynvidError, InputError

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
    _sync(path.parent)  # the name survives a power cut too


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which is at `path` once the block has ended, with all that is in it, and not before.

    Nothing is replaced: `path` must not be there, or be an empty folder. What killed processes left beside it is
    removed.

    Yields:
        Where to write; gone if the block raises.

    Raises:
        InputError: There is something at `path` already, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with whole_folder(f"{parent}/new") as folder:
        ...         _ = (folder / "a.txt").write_text("a")
        ...     os.listdir(parent), os.listdir(f"{parent}/new")
        (['new'], ['a.txt'])
    """
    path = Path(os.path.abspath(path))  # so that "." and "a/.." have a parent
    check_new_folder(path)
    unfinished = lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_folders_left(path.parent)
        unfinished, lock = _begin_folder(path.parent)
        yield unfinished
        for inside in sorted(unfinished.rglob("*"), reverse=True):
            _sync(inside)
        _sync(unfinished)
        if sys.platform == "win32" and path.is_dir():
            path.rmdir()  # there a folder takes no other's place, be it empty
        os.rename(unfinished, path)  # which replaces no folder that holds something
    except DynvidError:
        raise  # some of them are the operating system's kind too
    except OSError as error:
        check_new_folder(path)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    _sync(path.parent)


def check_new_folder(path: str | Path) -> None:
    """Say before any work that a folder cannot be new.

    Raises:
        InputError: There is something else than an empty folder.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: is there already, and no folder; name another")
    if path.is_dir() and next(path.iterdir(), None) is not None:
        raise InputError(f"{path}: holds files already; name a new folder, nothing is replaced")


def check_new_file(path: str | Path) -> None:
    """Say before any work that a file cannot be new; its folder is made only when it is written.

    Raises:
        InputError: Something is there, or its folder cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise InputError(f"{path}: is there already; name a new file")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, on file systems that can say so."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _begin_folder(parent: Path) -> tuple[Path, int | None]:
    """A new folder that nobody takes for a leftover, and the lock that says so."""
    while True:
        folder = parent / _name()
        folder.mkdir()
        try:
            lock = _locked(folder)
        except (FileNotFoundError, BlockingIOError):
            continue  # another writer, there between the two lines, took it for a leftover, and removes it
        if folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Hold the lock of a folder until the file descriptor is closed; None on a system or file system without locks.

    Raises:
        BlockingIOError: Somebody else holds it.
        FileNotFoundError: The folder is gone.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return file


def _remove_folders_left(parent: Path) -> None:
    """Remove the folders that killed processes left: whoever still fills one holds its lock."""
    for leftover in _left(parent):
        with suppress(OSError):
            if leftover.is_dir() and not leftover.is_symlink() and (lock := _locked(leftover)) is not None:
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)


def hold(path: Path) -> IO[bytes] | None:
    """Open a file and hold its lock until it is closed, or the process ends, however it does.

    A file system without locks holds nobody off.

    Returns:
        The file, or None where another process holds it.

    Raises:
        OSError: It cannot be opened.
    """
    file = path.open("ab")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass
    return file


def _name() -> str:
    """What a file or folder is called until it is whole."""
    return f".{uuid4().hex}{UNFINISHED}"


def _left(folder: Path) -> list[Path]:
    """What is in a folder by such a name; whatever else is called unfinished there is somebody's own."""
    ours = re.compile(rf"\.[0-9a-f]{{32}}\{UNFINISHED}")
    return [path for path in folder.glob(f".*{UNFINISHED}") if ours.fullmatch(path.name)]


def _begin(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new file that nobody takes for a leftover, since this process holds its lock."""
    while True:
        path = folder / _name()
        file = path.open("xb")
        _lock(file, wait=True)
        if path.exists():
            return path, file
        file.close()  # another writer was there between the two lines and has removed it


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left: whoever still writes a file holds a lock on it."""
    for leftover in _left(folder):
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
