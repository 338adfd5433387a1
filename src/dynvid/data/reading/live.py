"""Frames as they come: from a camera, over the network, from a file, or from whatever gives frames with their times.

Of what reads videos this alone reaches the network, at an address that the user gives. What answers there may be
hostile: it is allowed to name other addresses of the network (playlists do), never a local file.
"""

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from dynvid.data.reading.container import FORMATS, MAX_PIXELS, METADATA
from dynvid.data.reading.converter import Image
from dynvid.data.reading.forward import Decoding, ForwardVideo, TimedFrame
from dynvid.errors import InputError, VideoError

Source = str | int | Path | Iterable[tuple[float, Image]]
"""A camera by its number or device, an address, a file, or pairs of a time in seconds and an image, uint8 (H, W, 3)."""

# What may be spoken to reach an address; without `file`, so that no playlist opens one.
_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsps,rtsp,rtp,udp,tcp,tls",
    "http": "http,tcp,httpproxy",
    "https": "https,http,tcp,tls,httpproxy,crypto",
    "udp": "udp,rtp",
    "tcp": "tcp",
    "rtmp": "rtmp,tcp",
}
_NETWORK_FORMATS = f"{FORMATS},hls,mpjpeg,rtsp,rtp"
_SECONDS = 10.0  # without data after which a source counts as lost
_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)  # before the tries to reach it again
_PATIENCE = 1.0  # seconds that closing waits for a thread, which may be waiting for data itself


def live_frames(
    source: Source,
    short_side: int | None = None,
    realtime: bool = False,
    tries: int = len(_DELAYS),
    say: Callable[[str], None] | None = None,
) -> "LiveFrames":
    """Frames of a source as they come, each with its time.

    Args:
        source: A camera (`0`, `/dev/video0`, by Video4Linux), an address (`rtsp://`, `rtsps://`, `http://`, `https://`,
            `udp://`, `tcp://`, `rtmp://`), the path of a file, or an iterable of (seconds, image).
        short_side: Shrink frames to this short side, in pixels; smaller ones stay. Not for an iterable.
        realtime: Give the frames of a file at the times that it states, as a camera would; else as fast as they are
            taken, and none is dropped.
        tries: How often in a row a camera or an address that was lost is tried again, after 0.5, 1, 2, 4, 8, 8, ...
            seconds. One that states its length ends with it; a first try that fails is an error at once.
        say: Is given a line for each loss; by default it goes to standard error.

    Raises:
        ValueError: The source is none of these, or `tries` is below 0.

    Example:
        >>> import numpy as np
        >>> frames = live_frames((t / 10, np.zeros((4, 4, 3), np.uint8)) for t in range(3))
        >>> [frame.timestamp for frame in frames], frames.dropped
        ([0.0, 0.1, 0.2], 0)
    """
    if tries < 0:
        raise InputError(f"tries={tries}: 0 or more")
    return LiveFrames(source, short_side, realtime, tries, say or _to_standard_error)


class LiveFrames:
    """Iterates over frames as they come; `live_frames` makes it. Close it, or use it in a `with`.

    Cameras, addresses and files in real time are read by a thread, which keeps the newest frame only: whoever takes
    frames too slowly gets fewer of them, and never old ones.

    Attributes:
        name: What messages call the source: of an address nothing that may be secret.
        dropped: Frames that were replaced by newer ones before they were taken.
        reconnects: Times that it was lost and found again.
        damaged: Frames and packets left out, since they are flagged as damaged or cannot be decoded.
    """

    def __init__(
        self, source: Source, short_side: int | None, realtime: bool, tries: int, say: Callable[[str], None]
    ) -> None:
        self.dropped = self.reconnects = self.damaged = 0
        self._short_side, self._tries, self._say = short_side, tries, say
        self._source = source
        self._thread: threading.Thread | None = None
        self._changed, self._closed = threading.Condition(), threading.Event()
        self._newest: TimedFrame | None = None
        self._ended: BaseException | bool = False
        scheme = _scheme(source)
        if isinstance(source, int) or (isinstance(source, str) and source.isascii() and source.isdigit()):
            self._source = f"/dev/video{source}"
        self.name = _public(str(self._source)) if isinstance(self._source, str | Path) else "<frames>"
        reading: Generator[TimedFrame, None, None]
        if scheme and scheme not in _PROTOCOLS:
            raise InputError(f"{self.name}: no such kind of address; use {', '.join(_PROTOCOLS)}")
        threaded = True
        if scheme or (isinstance(self._source, str | Path) and re.match(r"/dev/(video\d|v4l/)", str(self._source))):
            reading = self._connected(scheme)
        elif isinstance(self._source, str | Path):
            of_file, threaded = self._of_file(self._source), realtime
            reading = self._in_time(of_file) if realtime else of_file
        elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | memoryview):
            reading, threaded = _given(source), False
        else:
            raise InputError(f"a source is a camera, an address, a file or frames, not {type(source).__name__}")
        self._reading = reading
        self._frames = self._behind_a_thread(reading) if threaded else reading

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TimedFrame:
        if self._closed.is_set():
            raise StopIteration
        return next(self._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, and let go of the camera, connection or file; there are no frames after that.

        A thread that waits for data is not waited for longer than a second: it lets go once it has some, or has waited
        for ten.
        """
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is None:
            with contextlib.suppress(ValueError):  # another thread is taking a frame just now, and sees that it is over
                self._reading.close()
        elif self._thread is not threading.current_thread():  # which `say` runs in
            self._thread.join(_PATIENCE)

    def _of_file(self, path: str | Path) -> Generator[TimedFrame, None, None]:
        video = ForwardVideo(path, self.name, self._short_side)
        for frame in video:
            if self._closed.is_set():
                return
            self.damaged = video.damaged
            yield frame
        self.damaged = video.damaged

    def _in_time(self, frames: Iterator[TimedFrame]) -> Generator[TimedFrame, None, None]:
        """Frames, each at its time."""
        began = None
        for frame in frames:
            began = time.monotonic() if began is None else began
            self._closed.wait(max(0.0, began + frame.timestamp - time.monotonic()))
            yield frame

    def _behind_a_thread(self, frames: Generator[TimedFrame, None, None]) -> Iterator[TimedFrame]:
        """The newest frame whenever one is asked for, read by a thread from the first one on."""

        def read() -> None:
            ended: BaseException | bool = True
            try:
                for frame in frames:
                    if self._closed.is_set():
                        break
                    with self._changed:
                        self.dropped += self._newest is not None
                        self._newest = frame
                        self._changed.notify_all()
            except BaseException as error:  # whatever it is, it is raised where frames are taken
                ended = error
            finally:
                frames.close()
            with self._changed:
                self._ended = ended
                self._changed.notify_all()

        self._thread = threading.Thread(target=read, name="dynvid-live", daemon=True)
        self._thread.start()
        while True:
            with self._changed:
                while self._newest is None and not self._ended and not self._closed.is_set():
                    self._changed.wait(0.5)  # so that an interrupt is seen
                frame, self._newest = self._newest, None
            if self._closed.is_set():
                return
            if frame is not None:
                yield frame
            elif isinstance(self._ended, BaseException):
                raise self._ended
            else:
                return

    def _connected(self, scheme: str) -> Generator[TimedFrame, None, None]:
        """Frames of a camera or an address, which is tried again where it is lost."""
        clock, failed, was_lost = _Clock(), 0, False
        while not self._closed.is_set():
            ends = False
            try:
                with contextlib.closing(_open(str(self._source), scheme)) as container:
                    ends = (container.duration or 0) > 0
                    for frame in self._decoded(container, clock):
                        self.reconnects += was_lost
                        failed, was_lost = 0, False
                        yield frame
                if ends:
                    return
                why = "it ended"
            except av.error.ExitError:
                why = f"no data for {_SECONDS:g} s"
            except av.ArgumentError:
                why = "in no video format that is read"
            except VideoError as error:
                if clock.last is None or ends:  # what is wrong with a file stays so
                    raise
                why = str(error).removeprefix(f"{self.name}: ")
            except (av.FFmpegError, OSError) as error:
                why = str(error.strerror or error)
            if self._closed.is_set():
                return
            # Raised out here, since what PyAV raises holds the whole address, and a traceback shows causes.
            if clock.last is None:
                raise VideoError(f"{self.name}: cannot open ({why})")
            if failed == self._tries:
                raise VideoError(f"{self.name}: lost ({why}), and not found again in {failed} tries")
            delay, was_lost = _DELAYS[min(failed, len(_DELAYS) - 1)], True
            failed += 1
            clock.lose()
            self._say(f"{self.name}: lost ({why}); try {failed} of {self._tries} in {delay:g} s")
            self._closed.wait(delay)

    def _decoded(self, container: InputContainer, clock: "_Clock") -> Iterator[TimedFrame]:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            raise VideoError(f"{self.name}: no video stream, or no decoder for it")
        decoding, damaged = Decoding(stream, self.name, self._short_side), self.damaged
        try:
            for packet in container.demux(stream):
                for image, seconds in decoding.of(packet):
                    yield TimedFrame(clock.of(seconds), image)
                self.damaged = damaged + decoding.damaged
                if self._closed.is_set():
                    return
        except IndexError as error:  # a stream that appeared on the way: PyAV does not know it
            raise VideoError(f"{self.name}: its streams change on the way") from error


class _Clock:
    """Seconds since the first frame by the source's timestamps; where they break off, by the clock on the wall.

    Attributes:
        last: Of the newest frame, None before the first.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.last: float | None = None
        self._now, self._seen = now, 0.0
        self._offset: float | None = None

    def lose(self) -> None:
        """What comes next has timestamps of its own."""
        self._offset = None

    def of(self, seconds: float | None) -> float:
        """The time of the next frame, which states `seconds`."""
        now = self._now()
        if self.last is None:
            time_of = 0.0
            self._offset = None if seconds is None else -seconds
        else:
            waited = self.last + max(now - self._seen, 1e-3)
            stated = None if seconds is None or self._offset is None else seconds + self._offset
            # A source may be ahead of the wall by what it holds back, and no further.
            time_of = stated if stated is not None and self.last < stated < waited + _SECONDS else waited
            if time_of != stated:
                self._offset = None if seconds is None else time_of - seconds
        self.last, self._seen = time_of, now
        return time_of


def _given(pairs: Any) -> Generator[TimedFrame, None, None]:
    for timestamp, image in pairs:
        yield TimedFrame(float(timestamp), partial(_same, image))


def _same(image: Image) -> Image:
    return image


def _open(source: str, scheme: str) -> InputContainer:
    options = {"max_pixels": str(MAX_PIXELS)}
    if scheme:
        options |= {"protocol_whitelist": _PROTOCOLS[scheme], "format_whitelist": _NETWORK_FORMATS}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # lost packets of UDP are damaged frames
    form = None if scheme else "v4l2"
    container: InputContainer = av.open(source, "r", format=form, options=options, timeout=_SECONDS, **METADATA)
    return container


def _scheme(source: Any) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source) if isinstance(source, str) else None
    return found[1].lower() if found else ""


def _public(address: str) -> str:
    """An address by its kind, host, port and path: no user, no password, no key; what is no address stays as it is."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    user, _, place = rest.rpartition("@")  # the last: passwords hold some too
    if "?" in user or "#" in user:
        return f"{scheme}://..."  # of a password, or of a query that holds an @: that cannot be told
    place = re.split("[?#;&=]", place)[0]  # some cameras take a password in the path: /user=NAME&password=...
    if scheme.lower().startswith("rtmp"):
        place = place.split("/")[0]  # the path ends with the key by which to stream
    return f"{scheme}://{place}"


def _to_standard_error(line: str) -> None:
    print(f"dynvid: {line}", file=sys.stderr, flush=True)
