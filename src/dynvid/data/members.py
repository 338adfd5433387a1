"""Clips within shards: a path that says which bytes of which file they are; and what any listed path is read from."""

import os
import re
from typing import BinaryIO, NamedTuple, cast

from dynvid.data.store import RemoteFile, is_uri
from dynvid.errors import DynvidError

_MEMBER = re.compile(r"(?P<shard>.+?)#(?P<offset>[0-9]{1,15})\+(?P<length>[0-9]{1,15})/(?P<name>.*)", re.DOTALL)


class Member(NamedTuple):
    """A clip within a shard.

    Attributes:
        shard: The shard's path or address.
        offset: Its first byte there.
        length: Its bytes.
        name: What it was called where it was packed.
    """

    shard: str
    offset: int
    length: int
    name: str

    @property
    def path(self) -> str:
        """All of this in one path, as which it is listed, recorded and named in errors.

        >>> Member("s3://bucket/shard-000000.tar", 1536, 20480, "train/swim/a.mp4").path
        's3://bucket/shard-000000.tar#1536+20480/train/swim/a.mp4'
        """
        return f"{self.shard}#{self.offset}+{self.length}/{self.name}"


def member_of(path: str) -> Member | None:
    """The clip that a path names within a shard; None where it names a file of its own.

    >>> member_of("shard-000000.tar#1536+20480/a.mp4")
    Member(shard='shard-000000.tar', offset=1536, length=20480, name='a.mp4')
    """
    if "#" not in path or os.path.lexists(path):  # a folder may be called so
        return None
    found = _MEMBER.fullmatch(path)
    return Member(found["shard"], int(found["offset"]), int(found["length"]), found["name"]) if found else None


def source_of(path: str) -> str | BinaryIO:
    """What a listed video is read from: a path on disk as it is, else a binary file, which nobody has opened yet.

    Addresses are read: this is for videos that a data module has listed below a `root` of the user's.

    Args:
        path: Of a file or a folder of frames, an address, or a clip within a shard.
    """
    if member := member_of(path):
        return cast(BinaryIO, RemoteFile(member.shard, (member.offset, member.length), path))
    return cast(BinaryIO, RemoteFile(path)) if is_uri(path) and not os.path.lexists(path) else path


def size_of(path: str) -> int:
    """The bytes of a listed video file; 0 where it cannot be read, or is a folder."""
    try:
        source = source_of(path)
        if not isinstance(source, str):
            return source.seek(0, os.SEEK_END)
        return os.stat(path).st_size if os.path.isfile(path) else 0
    except (OSError, DynvidError):
        return 0
