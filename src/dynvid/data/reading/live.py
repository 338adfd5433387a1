"""Frames as they come: from a camera, over the network, from a file, or from whatever gives frames with their times.

The network is reached here and nowhere else, by an address that the user gives. What answers there may be hostile: it
is allowed to name other addresses of the network (playlists do), never a local file.
"""

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
        name: What messages call the source, without a password.
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
        device = isinstance(self._source, str | Path) and str(self._source).startswith("/dev/")
        if isinstance(self._source, str | Path):
            self.name = re.sub("//[^/@]*@", "//...@", str(self._source))
        else:
            self.name = "<frames>"
        if scheme and scheme not in _PROTOCOLS:
            raise InputError(f"{self.name}: no such kind of address; use {', '.join(_PROTOCOLS)}")
        if device or scheme:
            self._frames = self._behind_a_thread(self._connected(scheme))
        elif isinstance(self._source, str | Path):
            frames = self._of_file(self._source)
            self._frames = self._behind_a_thread(self._in_time(frames)) if realtime else frames
        elif isinstance(source, Iterable):
            self._frames = _given(source)
        else:
            raise InputError(f"a source is a camera, an address, a file or frames, not {type(source).__name__}")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TimedFrame:
        return next(self._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    def _of_file(self, path: str | Path) -> Iterator[TimedFrame]:
        video = ForwardVideo(path, short_side=self._short_side)
        for frame in video:
            self.damaged = video.damaged
            yield frame
        self.damaged = video.damaged

    def _in_time(self, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        """Frames, each at its time."""
        began = None
        for frame in frames:
            began = time.monotonic() if began is None else began
            self._closed.wait(max(0.0, began + frame.timestamp - time.monotonic()))
            yield frame

    def _behind_a_thread(self, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        """The newest frame whenever one is asked for, read by a thread from the first one on."""

        def read() -> None:
            ended: BaseException | bool = True
            try:
                for frame in frames:
                    with self._changed:
                        self.dropped += self._newest is not None
                        self._newest = frame
                        self._changed.notify_all()
                    if self._closed.is_set():
                        break
            except BaseException as error:  # whatever it is, it is raised where frames are taken
                ended = error
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

    def _connected(self, scheme: str) -> Iterator[TimedFrame]:
        """Frames of a camera or an address, which is tried again where it is lost."""
        clock, failed, was_lost = _Clock(), 0, False
        while not self._closed.is_set():
            try:
                with contextlib.closing(_open(str(self._source), scheme)) as container:
                    for frame in self._decoded(container, clock):
                        self.reconnects += was_lost
                        failed, was_lost = 0, False
                        yield frame
                    if container.duration and container.duration > 0:
                        return
                    why = "it ended"
            except av.error.ExitError:
                why = f"no data for {_SECONDS:g} s"
            except av.ArgumentError as error:
                raise VideoError(f"{self.name}: in no video format that is read") from error
            except (av.FFmpegError, OSError) as error:
                why = str(error.strerror or error)
            if clock.last is None and not was_lost:
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
        for packet in container.demux(stream):
            for image, seconds in decoding.of(packet):
                yield TimedFrame(clock.of(seconds), image)
            self.damaged = damaged + decoding.damaged
            if self._closed.is_set():
                return


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


def _given(pairs: Any) -> Iterator[TimedFrame]:
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


def _to_standard_error(line: str) -> None:
    print(f"dynvid: {line}", file=sys.stderr, flush=True)
