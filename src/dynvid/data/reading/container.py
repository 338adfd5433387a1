"""The container: a file is opened so that it can touch nothing but itself, and its video track taken out."""

import contextlib
import io
import os
import stat
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from dynvid.data.reading.headers import most_stated_frames, stated_size
from dynvid.data.reading.mpeg4 import sorted_pictures
from dynvid.errors import VideoError

MAX_PIXELS = 2**25
"""Most pixels of a frame that is decoded: 8K (7680 x 4320) fits."""

MAX_ASPECT = 32
"""Longest side of a frame in multiples of its shortest: a frame of one row would fill the memory once it is resized."""

MAX_FRAMES = 500_000
"""Most frames of a video: more than two hours at 60 frames per second. They are listed one by one."""

# Packets may be compressed in the container, as subtitles are; pictures hardly shrink by it.
_MOST_UNPACKED, _SLACK = 16, 64 * 2**20
# Formats that hold their frames themselves. Playlists, scripts and image patterns open other files, or the network.
_FORMATS = (
    "asf,av1,avi,dirac,dv,flv,gif,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,webm,yuv4mpegpipe"
)
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
# Real files carry titles in unknown encodings, which must not stop the reading; from 19 on PyAV sees to it itself.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class Track:
    """The video track of a file, demuxed; the file is closed.

    Attributes:
        name: What errors call the video.
        decoder: The stream's own decoder, not open yet.
        packets: All its packets that hold data, in the order of decoding.
        pictures: Of DivX and Xvid files the packets that `sorted_pictures` makes of them, if it can; else empty.
        time_base: Seconds per unit of the packets' times.
        fps: Average frame rate that the file states.
        is_cut: Whether an AVI file ends before the size that it states; its frames have no times that would show it.
    """

    name: str
    decoder: VideoCodecContext
    packets: list["Packet[VideoStream]"]
    pictures: list["Packet[VideoStream]"]
    time_base: Fraction
    fps: float
    is_cut: bool


def demux(source: str | Path | bytes | BinaryIO, name: str | None = None) -> Track:
    """Open a file, take out its video track and close it.

    Only formats that need no other file are opened, by no protocol but the file system, whatever the file or its name
    look like.

    Args:
        source: A path, the bytes of a file, or a binary file object that can seek.
        name: What errors call the video; by default its path.

    Raises:
        VideoError: It is no regular file, in no such format, holds no video stream, or is larger than the limits above.
    """
    label = source if isinstance(source, str | Path) else getattr(source, "name", "<bytes>")
    name = name or str(label)
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(source, str | Path):
        file = _local(source, name)
    head = _head(source, name)
    try:
        with av.open(file, "r", options=_OPTIONS, **_METADATA) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise VideoError(f"{name}: no video stream, or no decoder for it")
            decoder = stream.codec_context
            check_size(decoder.height, decoder.width, name)
            packets, unpacked = [], 0
            for packet in container.demux(stream):
                if packet.size:
                    packets.append(packet)
                    unpacked += packet.size
                    if len(packets) > MAX_FRAMES:
                        raise VideoError(f"{name}: more than {MAX_FRAMES} frames; cut it into parts")
                    if unpacked > _SLACK + _MOST_UNPACKED * container.size:
                        raise VideoError(f"{name}: its packets unpack to many times the size of the file")
            if not packets:
                raise VideoError(f"{name}: its video stream is empty")
            return Track(
                name=name,
                decoder=decoder,
                packets=packets,
                pictures=sorted_pictures(packets, stream) if decoder.name == "mpeg4" else [],
                time_base=stream.time_base or Fraction(1),
                fps=float(stream.average_rate or stream.guessed_rate or 25),  # 25: what FFmpeg assumes
                is_cut=container.format.name == "avi" and container.size < stated_size(head),
            )
    except av.ArgumentError as error:  # FFmpeg's word for a format that is not in the list
        raise VideoError(f"{name}: cannot open (in no video format that is read)") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{name}: cannot open ({error.strerror or error})") from error
    except IndexError as error:  # a stream that appeared on the way: PyAV does not know it
        raise VideoError(f"{name}: cannot open (its streams change on the way)") from error


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
        raise VideoError(f"{name}: cannot open ({error.strerror or error})") from error


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


def _local(path: str | Path, name: str) -> str:
    """The path in a form that FFmpeg takes for nothing but a file."""
    if "://" in str(path) and not os.path.lexists(path):
        raise VideoError(f"{name}: cannot open (URLs are not read: download it, or pass its bytes)")
    check_regular(path, name)
    return "file:" + os.path.abspath(path)
