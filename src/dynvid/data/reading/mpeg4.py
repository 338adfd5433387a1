"""Pictures of DivX and Xvid files (MPEG-4 part 2): a packet may hold two, and times in AVI do not tell their order."""

import re

from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

# Start codes of ISO/IEC 14496-2. The two bits behind that of a picture say its type, 0 for I and 2 for B.
_PICTURE = re.compile(rb"\x00\x00\x01\xb6(?=.)", re.DOTALL)
_LAYER = re.compile(rb"\x00\x00\x01[\x20-\x2f](.{8})", re.DOTALL)
_I, _B = 0, 2
# What FFmpeg's decoder and filter take for a packet that only fills a gap; a picture so small may be "nothing new",
# for which no frame comes.
_FILLER_BYTES = 19
_XVID_FILLER = b"\x7f"


def sorted_pictures(packets: list["Packet[VideoStream]"], stream: VideoStream) -> list["Packet[VideoStream]"]:
    """Packets of one picture each, whose times are their places in the order of showing.

    Args:
        packets: All packets of a stream, as demuxed; where the result is not empty they have been emptied.
        stream: The stream.

    Returns:
        The pictures in the order of decoding; nothing where decoding them might give other frames than one each.
    """
    if not _gives_a_frame_each(packets, stream.codec_context.extradata or b""):
        return []
    unpacker = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    pictures: list[Packet[VideoStream]] = []
    shown: list[Packet[VideoStream]] = []
    waiting: list[Packet[VideoStream]] = []
    for picture in (one for packet in (*packets, None) for one in unpacker.filter(packet)):
        content = bytes(picture)
        start = _PICTURE.search(content)
        if start is None:  # a filler without a picture
            continue
        pictures.append(picture)
        if content[start.end()] >> 6 == _B:  # shown at once; the others when the next that is not B has come
            shown.append(picture)
        else:
            shown += waiting
            waiting = [picture]
    for time, picture in enumerate(shown + waiting):
        picture.pts = time
    return pictures


def _gives_a_frame_each(packets: list["Packet[VideoStream]"], extradata: bytes) -> bool:
    """Whether the stream is plain enough to tell its frames without decoding it."""
    if not packets or any(packet.is_discard or packet.has_sidedata("new_extradata") for packet in packets):
        return False
    first = extradata + bytes(packets[0])
    is_packed = re.search(rb"DivX\d+(?:Build|b)\d+p", first)
    types: list[int] = []
    delays = {_low_delay(layer) for layer in _LAYER.findall(extradata)}
    filler_due = False  # a B-frame came with the picture before it
    for packet in packets:
        content = bytes(packet)
        starts = [match.start() for match in _PICTURE.finditer(content)]
        header = content[: starts[0]] if starts else content
        delays |= {_low_delay(layer) for layer in _LAYER.findall(header)}
        if b"XviD" in header and b"XviD" not in first:  # the decoder would change its arithmetic on the way
            return False
        if filler_due and len(starts) <= 1 and len(content) <= _FILLER_BYTES:
            filler_due = False
            continue
        if not starts and content != _XVID_FILLER:  # a picture that is damaged: none behind it must take its place
            return False
        if len(starts) > 1 and (filler_due or len(starts) > 2 or not is_packed):
            return False
        if any(_length(content, start) <= _FILLER_BYTES for start in starts):
            return False
        filler_due |= len(starts) == 2  # at the end of a file FFmpeg drops such a B-frame, in its decoder too
        types += [content[start + 4] >> 6 for start in starts]
    if types[:1] != [_I] or types[1:2] == [_B]:  # what refers to pictures that are not there may or may not be shown
        return False
    return len(delays) == 1 and (_B not in types or delays == {"0"})


def _length(content: bytes, start: int) -> int:
    """Bytes of a picture, less the zeros that may follow."""
    stop = content.find(b"\0\0\1", start + 4)
    return len(content[start : None if stop < 0 else stop].rstrip(b"\0"))


def _low_delay(layer: bytes) -> str:
    """The bit of a video object layer that says that no B-frames come; empty where it does not tell."""
    bits = f"{int.from_bytes(layer):064b}"
    place = 17 if bits[9] == "1" else 10  # behind is_object_layer_identifier and what it announces
    place += 20 if bits[place : place + 4] == "1111" else 4  # aspect ratio
    return bits[place + 3] if bits[place] == "1" else ""
