"""Packets that stay on the disk until they are decoded."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple, overload

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from dynvid.errors import VideoError

_TRIES = 3  # key packets to search for before the file is read from its start


class UnlistedError(Exception):
    """A packet is not what the tables of its file say; reading the file through tells what it is."""


class Head(NamedTuple):
    """What is known of a packet without its content."""

    pts: int | None
    dts: int | None
    pos: int | None
    size: int
    is_keyframe: bool
    is_discard: bool
    is_corrupt: bool


def head_of(packet: "Packet[VideoStream]") -> Head:
    """The head of a packet."""
    return Head(
        packet.pts, packet.dts, packet.pos, packet.size, packet.is_keyframe, packet.is_discard, packet.is_corrupt
    )


Demuxed = tuple[InputContainer, VideoStream]


class DiskPackets(Sequence["Packet[VideoStream]"]):
    """The packets of a stream, read when they are asked for; one after the other they are read once.

    The file stays open as long as this object lives.

    Args:
        begin: Opens the file.
        heads: Of all packets of its stream that hold data, in the order of decoding.
        name: What errors call the video.
        opened: The file, opened, from which nothing has been read.
        check: Called with each packet that was not looked at when the heads were made, before its times are set.
    """

    def __init__(
        self,
        begin: Callable[[], Demuxed],
        heads: list[Head],
        name: str,
        opened: Demuxed | None = None,
        check: "Callable[[Packet[VideoStream], Head], None] | None" = None,
    ) -> None:
        self._begin, self._heads, self._name, self._check = begin, heads, name, check
        self._numbers = {_identity(head): i for i, head in enumerate(heads)}
        self._keys = [i for i, head in enumerate(heads) if head.is_keyframe]
        self._next = 0  # number of the packet that comes next
        self._start(opened or begin())

    @property
    def can_seek(self) -> bool:
        """Whether packets can be told from each other by where they lie, so that one knows where a seek has led."""
        return len(self._numbers) == len(self._heads)

    def __len__(self) -> int:
        return len(self._heads)

    @overload
    def __getitem__(self, i: int) -> "Packet[VideoStream]": ...
    @overload
    def __getitem__(self, i: slice) -> "list[Packet[VideoStream]]": ...
    def __getitem__(self, i: "int | slice") -> "Packet[VideoStream] | list[Packet[VideoStream]]":
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        try:
            packet = self._read(i)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self._name}: packet {i} cannot be read ({error.strerror or error})") from error
        if packet is None:
            raise VideoError(f"{self._name}: packet {i} is gone; the file has changed since it was opened")
        if self._check:
            self._check(packet, self._heads[i])
        packet.pts, packet.dts = self._heads[i].pts, self._heads[i].dts  # behind a seek some are not known
        return packet

    def _read(self, i: int) -> "Packet[VideoStream] | None":
        """Read on to packet `i`, or first search for the key packet before it where that is nearer."""
        keys = self._keys[: bisect_right(self._keys, i)]
        if not (keys[-1] if keys else 0) <= self._next <= i:
            self._search(keys)
            if self._next <= i and (packet := self._onward(i)):
                return packet
            self._start(self._begin())  # a format that cannot be searched
        return self._onward(i)

    def _onward(self, i: int) -> "Packet[VideoStream] | None":
        """Packet `i`; None where what comes is not what came when the heads were made."""
        for packet in self._demuxed:
            if packet.size:
                found, self._next = self._next, self._next + 1
                if found >= len(self) or _identity(packet) != _identity(self._heads[found]):
                    break
                if found == i:
                    return packet
        self._next = len(self)  # unknown
        return None

    def _start(self, opened: Demuxed) -> None:
        self._container, self._stream = opened
        self._demuxed: Iterator[Packet[VideoStream]] = self._container.demux(self._stream)
        self._next = 0

    def _search(self, keys: list[int]) -> None:
        """Search for the last of some key packets, or an earlier one where that leads too far."""
        self._next = len(self)  # unknown
        for key in keys[: -_TRIES - 1 : -1]:
            if (time := self._heads[key].pts) is None:
                return
            with suppress(av.FFmpegError):
                self._container.seek(time, stream=self._stream)
                self._demuxed = self._container.demux(self._stream)
                first = next(self._demuxed)
                number = self._numbers.get(_identity(first), len(self))
                if number <= keys[-1]:
                    self._demuxed, self._next = chain([first], self._demuxed), number
                    return


def _identity(head: "Head | Packet[VideoStream]") -> tuple[int | None, int]:
    return head.pos, head.size
