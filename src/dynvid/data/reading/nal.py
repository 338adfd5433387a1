"""NAL units of H.264 and HEVC packets: where parameter sets lie, and whether a picture needs none before it."""

import re
from collections.abc import Iterator
from typing import Any

CODECS = frozenset({"h264", "hevc"})
"""FFmpeg's names of the codecs whose packets consist of NAL units."""

_START_CODE = re.compile(rb"\x00\x00\x01")
# ITU-T H.264, table 7-1: SPS and PPS; IDR slice. ITU-T H.265, table 7-1: VPS, SPS and PPS; BLA, IDR and CRA pictures.
_PARAMETER_SETS = {"h264": frozenset({7, 8}), "hevc": frozenset({32, 33, 34})}
_INSTANTANEOUS = {"h264": frozenset({5}), "hevc": frozenset(range(16, 22))}


def parameter_sets(codec: str, extradata: bytes, packet: Any) -> list[bytes]:
    """The parameter sets that a packet carries itself.

    Args:
        codec: One of `CODECS`.
        extradata: Of the decoder, which says in which form the units of the packet are.
        packet: Its content.
    """
    content = memoryview(packet)
    wanted = _PARAMETER_SETS[codec]
    return [
        bytes(content[start:stop]).rstrip(b"\0")
        for start, stop in _units(codec, extradata, content)
        if _kind(codec, content[start]) in wanted
    ]


def is_whole_set(codec: str, units: list[bytes]) -> bool:
    """Whether these parameter sets are of every kind that the codec has."""
    return {_kind(codec, unit[0]) for unit in units} == _PARAMETER_SETS[codec]


def is_instantaneous(codec: str, extradata: bytes, packet: Any) -> bool:
    """Whether a packet holds a picture that begins a stream: nothing before it is referred to, and it is shown."""
    content = memoryview(packet)
    return any(_kind(codec, content[start]) in _INSTANTANEOUS[codec] for start, _ in _units(codec, extradata, content))


def _kind(codec: str, first: int) -> int:
    return first & 31 if codec == "h264" else first >> 1 & 63


def _units(codec: str, extradata: bytes, packet: memoryview) -> Iterator[tuple[int, int]]:
    """Where the units of a packet begin and end that are not empty, without start codes or lengths."""
    if extradata[:1] != b"\1":  # start codes, as in transport streams and AVI
        starts = [match.end() for match in _START_CODE.finditer(packet)]
        if not starts:
            return
        stops = [*(start - 3 for start in starts[1:]), len(packet)]
        yield from ((start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop)
        return
    # ISO/IEC 14496-15: the records of MP4 and Matroska say how many bytes a length has.
    place = 4 if codec == "h264" else 21
    size = (extradata[place] & 3) + 1 if len(extradata) > place else 4
    start = size
    while start < len(packet):
        stop = start + int.from_bytes(packet[start - size : start])
        if start < stop:
            yield start, stop
        start = stop + size
