"""Where results lie: a folder, or an address. Either way a file is there whole or not at all."""

import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from dynvid.errors import InputError
from dynvid.whole import UNFINISHED, hold, write_whole

_ADDRESS = re.compile(
    r"(?P<root>[A-Za-z][A-Za-z0-9+.-]+://[^/]*)(?P<path>(?:/.*?)?)(?P<options>\?[^/?]*=[^/?]*)?", re.DOTALL
)
_OBJECTS = ("s3", "gcs", "abfs")  # where an object that is closed takes the place of another in one step


class Store(Protocol):
    """What results ask of the place where they lie.

    Attributes:
        name: What errors call it.
        journal: A local file for what must survive the process, but not the machine; None where there is no such place.
    """

    name: str
    journal: Path | None

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, so that it survives a power cut, before this returns."""

    def names(self) -> list[str]:
        """The files that are there."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def close(self) -> None:
        """Let others write there."""


def is_uri(path: str) -> bool:
    """Whether a path is an address such as `s3://bucket/a.mp4`, and no file of this machine.

    >>> is_uri("s3://bucket/a.mp4"), is_uri("C:/a.mp4"), is_uri("/a/b.mp4")
    (True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The file system of an address, as pyarrow knows it, and the path in it.

    Args:
        uri: Its path is taken as it is, not percent-encoded; options of pyarrow may follow, such as
            `s3://bucket/a.mp4?region=eu-north-1`.

    Raises:
        InputError: pyarrow has no such file system.
    """
    parts = _ADDRESS.fullmatch(uri)
    if parts is None:
        raise InputError(f"{uri}: no address")
    try:
        system, root = _root(parts["root"], parts["options"] or "")
    except Exception as error:  # pyarrow's, or whatever its drivers raise
        raise InputError(f"{uri}: pyarrow opens no such address ({' '.join(str(error).split())})") from error
    return system, f"{root.rstrip('/')}{parts['path']}"


def inside(place: str, name: str) -> str:
    """The path or address of a file in a folder.

    >>> inside("results", "a"), inside("s3://bucket/results/?region=eu-north-1", "a")
    ('results/a', 's3://bucket/results/a?region=eu-north-1')
    """
    parts = _ADDRESS.fullmatch(place)
    if parts is None:
        return os.path.join(place, name)
    return f"{parts['root']}{parts['path'].rstrip('/')}/{name}{parts['options'] or ''}"


@cache
def _root(root: str, options: str) -> tuple[Any, str]:
    """A client per bucket, not per file: to make one takes a request."""
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(f"{root}/{options}")
    return system, str(path)


def read(path: str) -> bytes | None:
    """What a file holds, of this machine or by its address; None where there is none.

    Raises:
        InputError: It cannot be read.
    """
    try:
        if not is_uri(path):
            return Path(path).read_bytes()
        system, inside = filesystem_of(path)
        with system.open_input_stream(inside) as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def store_at(out: str | Path) -> Store:
    """The folder or address, made ready and held: one process at a time may write there.

    Raises:
        InputError: Another process holds it, or it cannot be made.
    """
    if not is_uri(str(out)):
        return Folder(Path(out))
    from pyarrow.fs import LocalFileSystem

    system, path = filesystem_of(str(out))
    return Folder(Path(path)) if isinstance(system, LocalFileSystem) else Bucket(str(out))


class Folder:
    """A folder of this machine, or one that machines share; see `Store`."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.journal: Path | None = path / "begun.journal"
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = hold(path / ".lock")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
        if lock is None:
            raise InputError(f"{path}: another process is writing there; wait until it ends, or take another folder")
        self._lock: IO[bytes] = lock

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        return read(inside(self.name, name))

    def write(self, name: str, content: bytes) -> None:
        """See `Store`."""
        write_whole(self.path / name, content)

    def names(self) -> list[str]:
        """See `Store`."""
        return [file.name for file in self.path.iterdir() if not file.name.endswith(UNFINISHED)]

    def remove(self, name: str) -> None:
        """See `Store`."""
        (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """See `Store`."""
        self._lock.close()


class Bucket:
    """An address of a file system that is not this machine's; see `Store`.

    In object storage an object appears whole when it is closed; elsewhere a file is moved to its name when it is whole.
    There are no locks: that only one process writes there is up to its user.
    """

    def __init__(self, uri: str) -> None:
        self.name = uri
        self.journal: Path | None = None
        self._system, self._path = filesystem_of(uri.rstrip("/"))
        self._unfinished = "" if self._system.type_name in _OBJECTS else UNFINISHED
        with suppress(OSError):  # object storage has no folders, and may forbid to make a bucket
            self._system.create_dir(self._path, recursive=True)

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        return read(inside(self.name, name))

    def write(self, name: str, content: bytes) -> None:
        """See `Store`."""
        path = f"{self._path}/{name}"
        try:
            with self._system.open_output_stream(path + self._unfinished) as file:
                file.write(content)
            if self._unfinished:
                self._system.move(path + self._unfinished, path)
        except OSError as error:
            said = " ".join(str(error).split())
            raise InputError(f"{inside(self.name, name)}: cannot be written ({said})") from error

    def names(self) -> list[str]:
        """See `Store`."""
        from pyarrow.fs import FileSelector, FileType

        found = self._system.get_file_info(FileSelector(self._path, allow_not_found=True))
        return [each.base_name for each in found if each.type == FileType.File]

    def remove(self, name: str) -> None:
        """See `Store`."""
        with suppress(FileNotFoundError):
            self._system.delete_file(f"{self._path}/{name}")

    def close(self) -> None:
        """See `Store`."""
