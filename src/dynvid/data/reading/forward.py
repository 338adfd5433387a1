"""A video file from its first frame to its last, once, with the memory of a few frames: for hours, and for live use."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dynvid.data.reading.container import MAX_PIXELS, begin, check_size, local_name
from dynvid.data.reading.converter import Converter, Image, display_matrix, shrunk
from dynvid.data.reading.decoder import open_decoder
from dynvid.errors import VideoError


class TimedFrame(NamedTuple):
    """A frame and its time.

    Attributes:
        timestamp: In seconds since the first frame.
        image: Gives it as upright RGB, uint8 (H, W, 3); it is converted only then.
    """

    timestamp: float
    image: Callable[[], Image]


class ForwardVideo:
    """The frames of a video file in the order in which they are shown.

    Nothing is listed beforehand, so there is no limit on the length, and nothing but the decoder's own frames is kept;
    there is no going back either. Frames that are flagged as damaged, and packets that cannot be decoded, are left out
    and counted. Timestamps are the file's; where it states none (AVI), or one that goes back, the frame follows the
    one before at the rate that the file states.

    Args:
        source: A path, the bytes of a file, or a binary file object.
        name: What errors call the video; by default its path.
        short_side: Shrink frames to this short side, in pixels; smaller ones stay.

    Attributes:
        name: What errors call the video.
        duration: Seconds that the file states, None where it states none; known once the first frame is there.
        fps: Frames per second that it states, likewise.
        damaged: Frames and packets left out so far.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dynvid.data.synthetic import write_clip
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp(), "clip.mp4")
        >>> write_clip(path, np.zeros((6, 32, 48, 3), np.uint8), fps=2)
        >>> [(frame.timestamp, frame.image().shape) for frame in ForwardVideo(path)][-1]
        (2.5, (32, 48, 3))
    """

    def __init__(
        self, source: str | Path | bytes | BinaryIO, name: str | None = None, short_side: int | None = None
    ) -> None:
        label = source if isinstance(source, str | Path) else getattr(source, "name", "<bytes>")
        self.name, self._source, self._short_side = name or str(label), source, short_side
        self.duration: float | None = None
        self.fps, self.damaged = 25.0, 0

    def __iter__(self) -> Iterator[TimedFrame]:
        """Decode from the first frame on.

        Raises:
            VideoError: The file cannot be opened, or no further read, or holds no frame that can be decoded.
        """
        name, given = self.name, False
        try:
            for frame in self._frames():
                given = True
                yield frame
        except av.ArgumentError as error:  # FFmpeg's word for a format that is not in the list
            raise VideoError(f"{name}: cannot open (in no video format that is read)") from error
        except (av.FFmpegError, OSError) as error:
            what = "cannot be read further" if given else "cannot open"
            raise VideoError(f"{name}: {what} ({error.strerror or error})") from error
        except IndexError as error:  # a stream that appeared on the way: PyAV does not know it
            raise VideoError(f"{name}: cannot be read further (its streams change on the way)") from error
        if not given:
            raise VideoError(f"{name}: no frame could be decoded")

    def _frames(self) -> Iterator[TimedFrame]:
        source: Any = self._source
        if isinstance(source, str | Path):
            source = local_name(source, self.name)
        elif isinstance(source, bytes):
            source = io.BytesIO(source)
        container, stream = begin(source, self.name)
        with contextlib.closing(container):
            if container.duration and container.duration > 0:
                self.duration = container.duration / av.time_base
            decoded = Decoding(stream, self.name, self._short_side)
            self.fps = decoded.fps
            times = _Times(decoded.fps)
            states_times = container.format.name != "avi"  # FFmpeg makes up those of AVI, without knowing of reordering
            for packet in container.demux(stream):
                for frame, seconds in decoded.of(packet):
                    yield TimedFrame(times.of(seconds if states_times else None), frame)
                self.damaged = decoded.damaged


class Decoding:
    """Decodes the packets of a stream one after the other.

    Args:
        stream: Of a container that was just opened.
        name: What errors call the video.
        short_side: See `ForwardVideo`.

    Attributes:
        fps: Frames per second that the stream states, 25 where it states none.
        damaged: Frames and packets left out so far.
    """

    def __init__(self, stream: VideoStream, name: str, short_side: int | None) -> None:
        self._decoder, self._name, self._short_side = stream.codec_context, name, short_side
        self._seconds = float(stream.time_base or 1)
        self._converter = Converter()
        self.fps, self.damaged = float(stream.average_rate or stream.guessed_rate or 25), 0
        check_size(self._decoder.height, self._decoder.width, name)
        open_decoder(self._decoder, {"max_pixels": str(MAX_PIXELS)})

    def of(self, packet: Any) -> Iterator[tuple[Callable[[], Image], float | None]]:
        """The frames that are shown now that a packet is there, each with the time that it states, in seconds."""
        try:
            frames = self._decoder.decode(packet)
        except av.EOFError:  # a second empty packet
            return
        except av.FFmpegError:
            self.damaged += 1
            return
        self.damaged += packet.is_corrupt
        for frame in frames:
            check_size(frame.height, frame.width, self._name)
            if frame.is_corrupt:
                self.damaged += 1
            else:
                yield partial(self._image, frame), None if frame.pts is None else frame.pts * self._seconds

    def _image(self, frame: VideoFrame) -> Image:
        size = shrunk((frame.height, frame.width), self._short_side)
        return self._converter.to_rgb(frame, size, display_matrix(frame))


class _Times:
    """Timestamps that grow, from 0 on."""

    def __init__(self, fps: float) -> None:
        self._step, self._offset = 1 / fps, math.nan
        self._last: float | None = None

    def of(self, seconds: float | None) -> float:
        """The time of the next frame, which states `seconds`."""
        if self._last is None:
            self._last, self._offset = 0.0, -(seconds or 0.0)
        elif seconds is not None and seconds + self._offset > self._last:
            self._last = seconds + self._offset
        else:
            self._last += self._step
            self._offset = self._offset if seconds is None else self._last - seconds
        return self._last
