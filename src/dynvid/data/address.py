"""A folder or file in object storage, with as much of `pathlib.Path` as data modules need of a root."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dynvid.data.store import filesystem_of, inside, is_uri, parts_of_address, read, requested
from dynvid.errors import MissingFileError


class Address:
    """A place in object storage.

    Args:
        uri: Such as `s3://bucket/videos`; options of pyarrow may follow, which everything below it has too.

    >>> root = Address("s3://bucket/videos/?region=eu-north-1")
    >>> print(root / "train" / "a.mp4", (root / "train" / "a.mp4").suffix)
    s3://bucket/videos/train/a.mp4?region=eu-north-1 .mp4
    """

    def __init__(self, uri: str) -> None:
        self.root, self.path, self.options = parts_of_address(uri)

    def __str__(self) -> str:
        return f"{self.root}{self.path}{self.options}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: object) -> "Address":
        return Address(str(name) if is_uri(str(name)) else inside(str(self), str(name)))

    @property
    def parts(self) -> tuple[str, ...]:
        """Its root, and the parts of its path."""
        return (self.root, *PurePosixPath(self.path).parts)

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> "Address":
        """The folder that it is in."""
        return Address(f"{self.root}{self.path.rpartition('/')[0]}{self.options}")

    def exists(self) -> bool:
        """Whether a file is there, or one below it."""
        return self._kind() != "NotFound"

    def is_dir(self) -> bool:
        """Whether a file is below it."""
        return self._kind() == "Directory"

    def is_file(self) -> bool:
        """Whether a file is there."""
        return self._kind() == "File"

    def _kind(self) -> str:
        with requested(str(self)):
            system, path = filesystem_of(str(self))
            return str(system.get_file_info(path).type.name)

    def read_bytes(self) -> bytes:
        """What the file holds."""
        content = read(str(self))
        if content is None:
            raise MissingFileError(f"{self} does not exist")
        return content

    def iterdir(self) -> Iterator["Address"]:
        """What lies in the folder."""
        return (self / entry.name for entry in entries_at(str(self)))

    def glob(self, pattern: str) -> Iterator["Address"]:
        """What lies in the folder under names of a pattern."""
        return (place for place in self.iterdir() if PurePosixPath(place.name).match(pattern))


class Entry:
    """What lies in a folder in object storage, as `os.DirEntry` says it of a disk."""

    def __init__(self, name: str, path: str, folder: bool, size: int) -> None:
        self.name, self.path, self._size, self._folder = name, path, size, folder

    def is_dir(self) -> bool:
        """Whether it is a folder: a part of names that has something below it."""
        return self._folder

    def stat(self) -> os.stat_result:
        """Its bytes, as `st_size`; all else is 0."""
        return os.stat_result((0, 0, 0, 0, 0, 0, self._size, 0, 0, 0))


def entries_at(uri: str) -> list[Entry]:
    """What lies in a folder in object storage, in the order of the names; nothing where it is not there.

    Raises:
        InputError: It cannot be listed.
    """
    from pyarrow.fs import FileSelector, FileType

    with requested(uri):
        system, path = filesystem_of(uri)
        found = system.get_file_info(FileSelector(path, allow_not_found=True))
    entries = [
        Entry(info.base_name, inside(uri, info.base_name), info.type == FileType.Directory, info.size or 0)
        for info in found
    ]
    return sorted(entries, key=lambda entry: entry.name)


Place = Path | Address


def place_at(root: str | Path | Address) -> Place:
    """A folder on disk, or in object storage; `file://` is the folder that it names.

    >>> place_at("s3://bucket/a"), str(place_at("a/b")), str(place_at("file:///a/b"))
    (Address('s3://bucket/a'), 'a/b', '/a/b')
    """
    if isinstance(root, Address):
        return root
    if not is_uri(str(root)):
        return Path(root)
    address = Address(str(root))
    return Path(address.path or "/") if address.root == "file://" else address
