"""What the headers of a file state before FFmpeg takes memory for it: ISO media (MP4, MOV) and RIFF (AVI)."""

from collections.abc import Iterator
from typing import BinaryIO

# ISO/IEC 14496-12: boxes that hold boxes on the way to the tables of samples, and those that may begin a file.
_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_FIRST = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"sidx", b"uuid"}
_PER_SAMPLE = 0xF00  # flags of a track run: something is stored for each sample


def most_stated_frames(file: BinaryIO, start: int) -> int:
    """The most samples that a table of a video states without storing anything for each, so that its size bounds them.

    Args:
        file: Any file, which is left somewhere else; only ISO media is looked into.
        start: Where it begins.
    """
    file.seek(start)
    return max(_tables(file) if file.read(8)[4:] in _FIRST else (), default=0)


def stated_size(head: bytes) -> int:
    """The bytes that a RIFF file states, from its first 12; 0 where it states none."""
    size = int.from_bytes(head[4:8], "little")
    return size + 8 if head[:4] == b"RIFF" and 0 < size < 2**32 - 256 else 0


def _tables(file: BinaryIO) -> Iterator[int]:
    end = file.seek(0, 2)
    holders, is_video = [(0, end)], False
    while holders:
        at, stop = holders.pop()
        while at + 8 <= stop:
            file.seek(at)
            header = file.read(16)
            size, kind, content = int.from_bytes(header[:4]), header[4:8], at + 8
            if size == 1:
                size, content = int.from_bytes(header[8:16]), at + 16
            size = size or stop - at
            if size < content - at:
                break
            if kind in _HOLDERS:
                holders += [(at + size, stop), (content, min(at + size, stop))]  # this one first, then what follows
                break
            if kind in (b"hdlr", b"stsz", b"trun"):
                file.seek(content)
                table = file.read(12)
                if kind == b"hdlr" and table[8:12] in (b"vide", b"soun"):
                    is_video = table[8:12] == b"vide"
                elif kind == b"stsz" and any(table[4:8]) and is_video:
                    yield int.from_bytes(table[8:12])
                elif kind == b"trun" and not int.from_bytes(table[1:4]) & _PER_SAMPLE:
                    yield int.from_bytes(table[4:8])
            at += size
