"""Which videos are being read at this moment, on the disk: what a killed process leaves for the next one.

The journal never says what is done; the manifest alone does. It says which videos were in the hands of a process that
did not come back, so that these are tried one by one, and how often each of them was tried alone in vain. It is a
sequence of records of nine bytes, of which a torn last one is passed over; appended to as videos begin and end, and
written anew, whole, whenever a part is.
"""

import os
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dynvid.errors import InputError
from dynvid.whole import write_whole

_RECORD = struct.Struct("<cQ")
_BEGUN, _ALONE, _ANSWERED = b"+", b"!", b"-"


class Journal:
    """The videos that are begun and not answered, by key.

    Args:
        path: The file; None keeps all of it in memory.

    Attributes:
        begun: Keys of the videos that a process has begun and not answered.
        tries: How often a process has begun each of them alone, as the only one, and not answered.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.begun: set[int] = set()
        self.tries: Counter[int] = Counter()
        self._path, self._file = path, -1
        if path is not None:
            content = path.read_bytes() if path.exists() else b""
            for kind, key in _RECORD.iter_unpack(content[: len(content) // _RECORD.size * _RECORD.size]):
                self._take(kind, key)
            self.compact()

    def begin(self, key: int, alone: bool = False) -> None:
        """A process is about to open a video; alone, this is written so that a power cut does not lose it."""
        self._append(_ALONE if alone else _BEGUN, key)
        if alone and self._file >= 0:
            os.fsync(self._file)

    def answer(self, key: int) -> None:
        """A video is read, or has failed without harm."""
        self._append(_ANSWERED, key)

    def forgive(self, keys: Iterable[int]) -> None:
        """Take back one try of each: it was not to blame."""
        for key in keys:
            self.tries[key] -= 1
            if self.tries[key] <= 0:
                del self.tries[key]
        self.compact()

    def release(self, alone: Iterable[int] = ()) -> None:
        """The process was ended on purpose: no video that it had begun is to blame, nor the one that it read alone."""
        self.begun.clear()
        self.forgive(alone)

    def compact(self, written: Iterable[int] = ()) -> None:
        """Write the journal anew, less the tries of videos whose rows are in a part by now."""
        for key in written:
            self.tries.pop(key, None)
            self.begun.discard(key)
        if self._path is None:
            return
        self.close()
        alone = [_RECORD.pack(_ALONE, key) * count for key, count in self.tries.items()]
        others = [_RECORD.pack(_BEGUN, key) for key in self.begun if key not in self.tries]
        write_whole(self._path, b"".join(alone + others))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, kind: bytes, key: int) -> None:
        self._take(kind, key)
        if self._file < 0:
            return
        try:
            whole = os.write(self._file, _RECORD.pack(kind, key)) == _RECORD.size
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        if not whole:
            raise InputError(f"{self._path}: cannot be written: the disk is full")

    def _take(self, kind: bytes, key: int) -> None:
        if kind == _ANSWERED:
            self.begun.discard(key)
            self.tries.pop(key, None)
        else:
            self.begun.add(key)
            if kind == _ALONE:
                self.tries[key] += 1
