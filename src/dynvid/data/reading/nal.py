"""NAL units of H.264 and HEVC packets: where parameter sets lie, and whether a picture needs none before it."""

import re
from collections.abc import Iterator
from typing import Any

CODECS = frozenset({"h264", "hevc"})
"""FFmpeg's names of the codecs whose packets consist of NAL units."""

_START_CODE = re.compile(rb"\x00\x00\x01")
# ITU-T H.264, table 7-1: SPS and PPS; slices; IDR slice. ITU-T H.265, table 7-1: VPS, SPS and PPS; slices; BLA, IDR and
# CRA slices.
_PARAMETER_SETS = {"h264": frozenset({7, 8}), "hevc": frozenset({32, 33, 34})}
_SLICES = {"h264": frozenset(range(1, 6)), "hevc": frozenset(range(32))}
_INSTANTANEOUS = {"h264": frozenset({5}), "hevc": frozenset(range(16, 22))}


def parameter_sets(codec: str, extradata: bytes, packet: Any) -> list[bytes]:
    """The parameter sets that a packet carries itself; they come before its first slice.

    Args:
        codec: One of `CODECS`.
        extradata: Of the decoder, which says in which form the units of the packet are.
        packet: Its content, anything with the buffer protocol.
    """
    content, found = memoryview(packet), []
    for kind, start in _heads(codec, extradata, content):
        if kind in _SLICES[codec]:
            break
        if kind in _PARAMETER_SETS[codec]:
            found.append(bytes(content[start : _end(codec, extradata, content, start)]).rstrip(b"\0"))
    return found


def is_whole_set(codec: str, units: list[bytes]) -> bool:
    """Whether these parameter sets are of every kind that the codec has."""
    return {_kind(codec, unit[0]) for unit in units if unit} == _PARAMETER_SETS[codec]


def is_instantaneous(codec: str, extradata: bytes, packet: Any) -> bool:
    """Whether a packet holds a picture that begins a stream: nothing before it is referred to, and it is shown."""
    kinds = (kind for kind, _ in _heads(codec, extradata, memoryview(packet)) if kind in _SLICES[codec])
    return next(kinds, None) in _INSTANTANEOUS[codec]


def _kind(codec: str, first: int) -> int:
    return first & 31 if codec == "h264" else first >> 1 & 63


def _heads(codec: str, extradata: bytes, packet: memoryview) -> Iterator[tuple[int, int]]:
    """Kind and begin of each unit of a packet that is not empty."""
    size = _length_size(codec, extradata)
    if size is None:  # start codes, as in transport streams and AVI
        for match in _START_CODE.finditer(packet):
            if match.end() < len(packet):
                yield _kind(codec, packet[match.end()]), match.end()
        return
    start = size
    while start < len(packet):
        stop = start + int.from_bytes(packet[start - size : start])
        if start < stop:
            yield _kind(codec, packet[start]), start
        start = stop + size


def _end(codec: str, extradata: bytes, packet: memoryview, start: int) -> int:
    """Where the unit that begins at `start` ends."""
    size = _length_size(codec, extradata)
    if size is not None:
        return start + int.from_bytes(packet[start - size : start])
    following = _START_CODE.search(packet, start)
    return following.start() if following else len(packet)


def _length_size(codec: str, extradata: bytes) -> int | None:
    """Bytes of the length before each unit; None where start codes part them."""
    if extradata[:1] != b"\1":
        return None
    # ISO/IEC 14496-15: the records of MP4 and Matroska say it.
    place = 4 if codec == "h264" else 21
    return (extradata[place] & 3) + 1 if len(extradata) > place else 4
