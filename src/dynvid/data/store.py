"""Files by their address in object storage, and where results lie: a folder, or an address."""

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

from dynvid.errors import InputError, MissingFileError, VideoError
from dynvid.whole import UNFINISHED, hold, write_whole

_ADDRESS = re.compile(
    r"(?P<root>[A-Za-z][A-Za-z0-9+.-]+://[^/]*)(?P<path>(?:/.*?)?)(?P<options>\?[^/?]*=[^/?]*)?", re.DOTALL
)
_OBJECTS = ("s3", "gcs", "abfs")  # where an object that is closed takes the place of another in one step
_BLOCK = 8 * 2**20  # bytes of a request: a clip is one, and many may be open at once

OF_THE_FILE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
}
"""What the operating system says of one file; anything else, such as too many open files, it says of itself."""


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


def parts_of_address(uri: str) -> tuple[str, str, str]:
    """Root, path without a slash at its end, and options of an address.

    >>> parts_of_address("s3://bucket/a/b/?region=eu-north-1")
    ('s3://bucket', '/a/b', '?region=eu-north-1')

    Raises:
        InputError: It is none.
    """
    parts = _ADDRESS.fullmatch(uri)
    if parts is None:
        raise InputError(f"{uri}: no address")
    return parts["root"], parts["path"].rstrip("/"), parts["options"] or ""


@contextmanager
def requested(uri: str) -> Iterator[None]:
    """What a store says instead of an answer is an error of one line that names the address.

    Raises:
        InputError: It did not answer as it should.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{uri}: cannot be read ({' '.join(str(error).split())})") from error


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The file system of an address, as pyarrow knows it, and the path in it.

    Args:
        uri: Its path is taken as it is, not percent-encoded; options of pyarrow may follow, such as
            `s3://bucket/a.mp4?region=eu-north-1`.

    Raises:
        InputError: pyarrow has no such file system.
    """
    start, path, options = parts_of_address(uri)
    try:
        system, root = _root(start, options, os.getpid())
    except Exception as error:  # pyarrow's, or whatever its drivers raise
        raise InputError(f"{uri}: pyarrow opens no such address ({' '.join(str(error).split())})") from error
    return system, f"{root.rstrip('/')}{path}"


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
def _root(root: str, options: str, process: int) -> tuple[Any, str]:
    """A client per bucket, for to make one takes a request; and per process, for a fork would share connections."""
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(f"{root}/{options}")
    return system, str(path)


def read(path: str) -> bytes | None:
    """What a file holds, of this machine or by its address; None where there is none.

    Raises:
        InputError: It cannot be read.
    """
    with requested(path), suppress(FileNotFoundError):
        if not is_uri(path):
            return Path(path).read_bytes()
        system, inside = filesystem_of(path)
        with system.open_input_stream(inside) as file:
            return bytes(file.read())
    return None


class RemoteFile(io.RawIOBase):
    """A file in object storage, or a part of one there or here: for what reads a video from a binary file.

    It is opened when it is first read: by whatever decodes, not where videos are listed. It is asked for in blocks, so
    that a clip is one request.

    Args:
        path: Its address; of a part, perhaps a path.
        part: First byte and length; None for all of the file.
        name: What errors call it; by default its path.
        block: Bytes that are asked for at once, unless more are wanted.

    Attributes:
        failed: Whether object storage did not answer as it should, which is more than that there is no such file.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"0123456789") + (file.flush() or 0)
    ...     RemoteFile(file.name, (2, 3)).read()
    b'234'
    """

    def __init__(
        self, path: str, part: tuple[int, int] | None = None, name: str | None = None, block: int = _BLOCK
    ) -> None:
        self.name, self.failed, self._path, self._part, self._most = name or path, False, path, part, block
        self._at, self._block, self._begin = 0, b"", 0

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = not isinstance(error, FileNotFoundError) and error.errno not in OF_THE_FILE
            raise

    @cached_property
    def _file(self) -> Any:
        with self._watched():
            return _opened(self._path, os.getpid()) if self._part else _open(self._path)

    @cached_property
    def _size(self) -> int:
        return self._part[1] if self._part else int(self._file.size())

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readall(self) -> bytes:
        """See `io.RawIOBase`; by one request."""
        content = bytearray(max(self._size - self._at, 0))
        self.readinto(content)
        return bytes(content)

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`.

        Raises:
            OSError: The file cannot be read.
            VideoError: It ends before the part does.
        """
        if not self._begin <= self._at < self._begin + len(self._block):
            first, wanted = self._part[0] if self._part else 0, min(max(self._most, len(buffer)), self._size - self._at)
            if wanted <= 0:
                return 0
            file = self._file
            with self._watched():
                self._block, self._begin = file.read_at(wanted, first + self._at), self._at
            if len(self._block) < wanted:
                raise VideoError(f"{self.name}: cannot be read (the file ends before byte {first + self._at + wanted})")
        part = memoryview(self._block)[self._at - self._begin :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase`."""
        start = 0 if whence == os.SEEK_SET else self._at if whence == os.SEEK_CUR else self._size
        self._at = max(start + offset, 0)
        return self._at

    def tell(self) -> int:
        """See `io.IOBase`."""
        return self._at


def _open(path: str) -> Any:
    """A file by its path or address, to be read at any place."""
    from pyarrow.fs import LocalFileSystem

    if is_uri(path):
        system, inside = filesystem_of(path)
        return system.open_input_file(inside)
    if not os.path.isfile(path):  # a pipe would keep us waiting
        raise MissingFileError("there is no such file")
    return LocalFileSystem().open_input_file(path)


@lru_cache(64)
def _opened(path: str, process: int) -> Any:
    """A shard, of which many clips are read: to open it takes a request."""
    return _open(path)


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
            if self._unfinished and "/" in name:
                self._system.create_dir(path.rpartition("/")[0], recursive=True)
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
