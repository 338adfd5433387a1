"""The tables of MP4 and MOV files: they list all packets, so that large files open without being read through."""

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dynvid.data.reading.disk import Head

# ISO/IEC 14496-12: boxes on the way to the tables. Samples of these kinds carry no parameter sets (14496-15).
_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_KINDS = {b"avc1", b"hvc1", b"vp09", b"av01"}


def listed_heads(path: str, stream: VideoStream) -> list[Head]:
    """The heads of all packets of a video stream as the tables give them.

    Args:
        path: The file.
        stream: Its only video stream.

    Returns:
        The heads; nothing where the tables do not tell all, and the file is to be read through.
    """
    entries = getattr(stream, "index_entries", ())
    with open(path, "rb") as file:
        offsets = _display_offsets(file, len(entries))
    size = os.path.getsize(path)
    heads = []
    for entry, offset in zip(entries, [] if offsets is None else offsets.tolist(), strict=offsets is not None):
        if entry.is_discard or not 0 < entry.size <= size - entry.pos:
            return []
        time = entry.timestamp
        heads.append(Head(time + offset, time, entry.pos, entry.size, entry.is_keyframe, False, False))
    return heads


def _display_offsets(file: BinaryIO, count: int) -> NDArray[np.int64] | None:
    """By how much later each sample of the only video track is shown than decoded; None where that is not plain."""
    tracks: list[dict[bytes, bytes]] = []
    for kind, content in _boxes(file, 0, file.seek(0, 2)):
        if kind == b"moof":
            return None
        if kind == b"trak":
            tracks.append({})
        elif tracks:
            tracks[-1][kind] = content
    videos = [track for track in tracks if track.get(b"hdlr", b"")[8:12] == b"vide"]
    if len(videos) != 1:
        return None
    kinds, table = videos[0].get(b"stsd", b""), videos[0].get(b"ctts", bytes(8))
    if int.from_bytes(kinds[4:8]) != 1 or kinds[12:16] not in _KINDS:
        return None
    runs = np.frombuffer(table[8:], ">u4").reshape(-1, 2).astype(np.int64)
    if not len(runs):
        return np.zeros(count, np.int64)
    if runs[:, 0].sum() != count or runs[:, 1].max() >= 2**31:  # negative: FFmpeg shifts all times then
        return None
    return np.repeat(runs[:, 1], runs[:, 0])


def _boxes(file: BinaryIO, at: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
    """Kind of each box from `at` to `stop` and of those in holders, and the content of the tables that are needed."""
    while at + 8 <= stop:
        file.seek(at)
        header = file.read(16)
        size, kind, begin = int.from_bytes(header[:4]), header[4:8], at + 8
        if size == 1:
            size, begin = int.from_bytes(header[8:16]), at + 16
        end = min(at + (size or stop - at), stop)
        if end < begin:
            return
        file.seek(begin)
        yield kind, file.read(end - begin) if kind in (b"hdlr", b"stsd", b"ctts") else b""
        if kind in _HOLDERS:
            yield from _boxes(file, begin, end)
        at = end
