"""The container: a file is opened so that it can touch nothing but itself, and its video track taken out."""

import contextlib
import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from dynvid.data.reading.changes import Changes
from dynvid.data.reading.disk import Demuxed, DiskPackets, Head, UnlistedError, head_of
from dynvid.data.reading.headers import most_stated_frames, stated_size
from dynvid.data.reading.mp4 import listed_heads
from dynvid.data.reading.mpeg4 import sorted_pictures
from dynvid.errors import VideoError

MAX_PIXELS = 2**25
"""Most pixels of a frame that is decoded: 8K (7680 x 4320) fits."""

MAX_ASPECT = 32
"""Longest side of a frame in multiples of its shortest: a frame of one row would fill the memory once it is resized."""

MAX_FRAMES = 500_000
"""Most frames of a video: more than two hours at 60 frames per second. They are listed one by one."""

# Of larger files, in bytes, the packets stay on the disk.
_IN_MEMORY = 128 * 2**20
# Packets may be compressed in the container, as subtitles are; pictures hardly shrink by it.
_MOST_UNPACKED, _SLACK = 16, 64 * 2**20
# Formats that hold their frames themselves. Playlists, scripts and image patterns open other files, or the network.
FORMATS = (
    "asf,av1,avi,dirac,dv,flv,gif,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,webm,yuv4mpegpipe"
)
_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
# Real files carry titles in unknown encodings, which must not stop the reading; from 19 on PyAV sees to it itself.
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class Track:
    """The video track of a file, demuxed.

    Attributes:
        name: What errors call the video.
        decoder: The stream's own decoder, not open yet.
        packets: All its packets that hold data, in the order of decoding; those of large files are read when they are
            asked for.
        heads: What is known of each packet, or picture, without its content.
        pictures: Of DivX and Xvid files the packets that `sorted_pictures` makes of them, if it can; else empty.
        changes: Where the parameter sets change.
        time_base: Seconds per unit of the packets' times.
        fps: Average frame rate that the file states.
        states_matrix: Whether the format can state how frames are turned; PyAV tells it with decoded frames only.
        is_cut: Whether an AVI file ends before the size that it states; its frames have no times that would show it.
    """

    name: str
    decoder: VideoCodecContext
    packets: Sequence["Packet[VideoStream]"]
    heads: Sequence["Packet[VideoStream] | Head"]
    pictures: list["Packet[VideoStream]"]
    time_base: Fraction
    fps: float
    changes: Changes
    states_matrix: bool
    is_cut: bool


def demux(source: str | Path | bytes | BinaryIO, name: str | None = None, trust_tables: bool = True) -> Track:
    """Open a file and take out its video track.

    Only formats that need no other file are opened, by no protocol but the file system, whatever the file or its name
    look like.

    Args:
        source: A path, the bytes of a file, or a binary file object that can seek.
        name: What errors call the video; by default its path.
        trust_tables: Let large MP4 files be listed by their tables; a packet that is not what they say is then an
            `UnlistedError` when it is decoded.

    Raises:
        VideoError: It is no regular file, in no such format, holds no video stream, or is larger than the limits above.
    """
    label = source if isinstance(source, str | Path) else getattr(source, "name", "<bytes>")
    name = name or str(label)
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(source, str | Path):
        file = local_name(source, name)
    head = _head(source, name)
    try:
        with contextlib.ExitStack() as stack:
            container, stream = begin(file, name)
            stack.callback(container.close)
            decoder = stream.codec_context
            check_size(decoder.height, decoder.width, name)
            changes = Changes(decoder.name, decoder.extradata or b"")
            # Pictures of MPEG-4 are sorted by what is in them.
            from_disk = isinstance(source, str | Path) and container.size > _IN_MEMORY and decoder.name != "mpeg4"
            packets: list[Packet[VideoStream]] = []
            is_listed = from_disk and trust_tables and "mp4" in container.format.name.split(",")
            heads = listed_heads(file.removeprefix("file:"), stream) if is_listed else []
            check = partial(_check_listed, changes) if heads else None
            number, unpacked = len(heads), sum(head.size for head in heads)
            _check_limits(number, unpacked, container.size, name)
            for packet in () if heads else container.demux(stream):
                if packet.size:
                    changes.add(number, packet)
                    if from_disk:
                        heads.append(head_of(packet))
                    else:
                        packets.append(packet)
                    number, unpacked = number + 1, unpacked + packet.size
                    _check_limits(number, unpacked, container.size, name)
            if not number:
                raise VideoError(f"{name}: its video stream is empty")
            opened = (container, stream) if check else None
            if opened:
                stack.pop_all()  # it stays open
            on_disk = DiskPackets(partial(begin, file, name), heads, name, opened, check) if from_disk else None
            if on_disk and not on_disk.can_seek:
                packets, on_disk = list(on_disk), None
            pictures = sorted_pictures(packets, stream) if decoder.name == "mpeg4" else []
            return Track(
                name=name,
                decoder=decoder,
                packets=on_disk or packets,
                heads=heads or pictures or packets,
                pictures=pictures,
                changes=changes,
                time_base=stream.time_base or Fraction(1),
                fps=float(stream.average_rate or stream.guessed_rate or 25),  # 25: what FFmpeg assumes
                states_matrix=bool({"mov", "matroska"} & {*container.format.name.split(",")}),
                is_cut=container.format.name == "avi" and container.size < stated_size(head),
            )
    except av.ArgumentError as error:  # FFmpeg's word for a format that is not in the list
        raise VideoError(f"{name}: cannot open (in no video format that is read)") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{name}: cannot open ({_said(error)})") from error
    except IndexError as error:  # a stream that appeared on the way: PyAV does not know it
        raise VideoError(f"{name}: cannot open (its streams change on the way)") from error


def begin(file: Any, name: str) -> Demuxed:
    """Open a file and choose its video stream."""
    container = av.open(file, "r", options=_OPTIONS, **METADATA)
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        container.close()
        raise VideoError(f"{name}: no video stream, or no decoder for it")
    return container, stream


def _check_limits(frames: int, unpacked: int, size: int, name: str) -> None:
    if frames > MAX_FRAMES:
        raise VideoError(f"{name}: more than {MAX_FRAMES} frames; cut it into parts")
    if unpacked > _SLACK + _MOST_UNPACKED * size:
        raise VideoError(f"{name}: its packets unpack to many times the size of the file")


def _check_listed(changes: Changes, packet: "Packet[VideoStream]", head: Head) -> None:
    """Hold a packet against what the tables say, with which all others agree that are not looked at."""
    same = (packet.pts, packet.is_keyframe, packet.is_discard, packet.is_corrupt) == (
        head.pts,
        head.is_keyframe,
        head.is_discard,
        head.is_corrupt,
    )
    if not same or not changes.are_none_in(packet):
        raise UnlistedError


def _head(source: Any, name: str) -> bytes:
    """The first bytes of a file, after a look at whether it states more frames than it can hold."""
    try:
        with contextlib.ExitStack() as stack:
            file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
            if isinstance(source, str | Path):
                file = stack.enter_context(open(source, "rb"))
            place = file.tell()
            head = bytes(file.read(12))
            if most_stated_frames(file, place) > MAX_FRAMES:
                raise VideoError(f"{name}: states more than {MAX_FRAMES} frames; cut it into parts")
            file.seek(place)
            return head
    except OSError as error:
        raise VideoError(f"{name}: cannot open ({_said(error)})") from error


def _said(error: av.FFmpegError | OSError) -> str:
    """What the operating system says in few words, or object storage in several lines."""
    return " ".join(str(error.strerror or error).split())


def check_size(height: int, width: int, name: str) -> None:
    """Refuse frames that would take more memory than any video does.

    Raises:
        VideoError: They have more than `MAX_PIXELS`, or one side is more than `MAX_ASPECT` times the other.
    """
    if height * width > MAX_PIXELS:
        raise VideoError(f"{name}: frames of {width} x {height} pixels, more than the {MAX_PIXELS} that are decoded")
    if max(height, width) > MAX_ASPECT * max(min(height, width), 1):
        raise VideoError(f"{name}: frames of {width} x {height} pixels: one side is over {MAX_ASPECT} times the other")


def check_regular(path: str | Path, name: str) -> None:
    """Refuse what is no file on a disk: a pipe would block, a device never end.

    Raises:
        VideoError: It is not there, or is something else than a regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise VideoError(f"{name}: cannot open ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise VideoError(f"{name}: cannot open (it is {kind}, not a file)")


def local_name(path: str | Path, name: str) -> str:
    """The path in a form that FFmpeg takes for nothing but a file."""
    if "://" in str(path) and not os.path.lexists(path):
        raise VideoError(f"{name}: cannot open (URLs are not read: download it, or pass its bytes)")
    check_regular(path, name)
    return "file:" + os.path.abspath(path)
