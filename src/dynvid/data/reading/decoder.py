"""The decoder: runs of packets to frames, each run with the parameter sets in force where it starts."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from dynvid.data.reading.container import MAX_PIXELS, Track
from dynvid.data.reading.converter import display_matrix
from dynvid.data.reading.nal import CODECS
from dynvid.errors import VideoError

# Here "non-reference" is a promise to all later frames; in HEVC only to those of the same temporal layer.
_SKIPPABLE = {"h264", "vp9", "mpeg4"}


class Decoded(NamedTuple):
    """A frame, the number of packets that had been decoded when it came, and whether it or one of them is flagged.

    Packets that come before those of a frame may be counted in, since decoders hold frames back to reorder them.
    """

    frame: VideoFrame
    fed: int
    flagged: bool


class Decoder:
    """Decodes runs of a track.

    The stream's own decoder serves as long as the parameter sets are those that the container states. From where they
    change, every run gets a decoder of its own, so that none meets parameter sets that another run has left behind.

    Args:
        track: What to decode.
        strict: Stop at whatever FFmpeg can take for an error, where it would otherwise conceal it and go on.

    Raises:
        VideoError: What the file states of its frames makes no sense to their decoder.

    Attributes:
        num_packets: How many packets there are to decode.
        packets_fed: How many were given to FFmpeg so far.
        is_steady: Whether all frames are known to have one size, since their parameter sets never change.
        stated_matrix: The display matrix that the container states, for frames of decoders that do not know it.
    """

    def __init__(self, track: Track, strict: bool = False) -> None:
        self._packets, self._heads, self._changes = track.pictures or track.packets, track.heads, track.changes
        self.num_packets, self.packets_fed = len(self._packets), 0
        self._knows_matrix = not track.states_matrix
        self._strict, self._options = strict, {"max_pixels": str(MAX_PIXELS)}
        if strict or track.decoder.name == "mjpeg":  # whose decoder flags nothing: the rest of a cut frame is garbage
            self._options["err_detect"] = "crccheck+bitstream+buffer+explode"
        self._own = track.decoder
        self._idle = [self._own]
        self._stated = {name: getattr(self._own, name) for name in _STATED}
        try:
            open_decoder(self._own, self._options)
        except av.FFmpegError as error:
            raise VideoError(f"{track.name}: cannot open its decoder ({error.strerror})") from error
        changes = self._changes.first < len(self._packets)
        self.is_steady = not changes and self._own.name in CODECS
        self.stated_matrix = self._display_matrix() if changes else None
        self._knows_matrix |= changes

    def decode(self, start: int, stop: int, targets: Collection[int] = ()) -> Iterator[Decoded]:
        """Decode packets `start` to `stop`; given targets, leave out the others that nothing refers to.

        The packet at `start` must be a key packet, or the first one. A flag that comes with no frame at the end is
        lost, so ask `is_flagged` too.

        Raises:
            av.FFmpegError: A packet cannot be decoded.
        """
        if self._changes.may_rely_on_earlier(start) and self._changes.unknown_in(self._packets[start], start):
            start = 0
        decoder = self.take() if stop <= self._changes.first else self._new(start)
        try:
            yield from self._decoded(decoder, start, stop, targets)
        finally:
            if stop <= self._changes.first:
                self.give_back(decoder)

    def _decoded(
        self, decoder: VideoCodecContext, start: int, stop: int, targets: Collection[int]
    ) -> Iterator[Decoded]:
        flagged = False  # a packet for which no frame has come yet
        for i in (*range(start, stop), None):
            flagged |= i is not None and self._heads[i].is_corrupt
            try:
                frames = self.feed(decoder, i, targets)
            except av.FFmpegError:
                if not (self._strict and i is not None and self._heads[i].is_discard):
                    raise
                continue  # what is cut off and never shown may lack what it refers to
            for frame in frames:
                yield Decoded(frame, stop if i is None else i + 1, flagged or frame.is_corrupt)
                flagged = False

    def feed(self, decoder: VideoCodecContext, i: int | None, targets: Collection[int] = ()) -> list[VideoFrame]:
        """Give packet `i` to a decoder, or None to get what it holds back to reorder; for targets see `decode`.

        Raises:
            av.FFmpegError: The packet cannot be decoded.
        """
        whole = not targets or i in targets or decoder.name not in _SKIPPABLE
        decoder.skip_frame = "DEFAULT" if whole else "NONREF"
        self.packets_fed += i is not None
        frames = decoder.decode(None if i is None else self._packets[i])
        if frames and decoder is self._own and not self._knows_matrix:
            self.stated_matrix, self._knows_matrix = display_matrix(frames[0]), True
        return frames

    def can_part(self, stop: int) -> bool:
        """Whether packets before `stop` can be decoded by a decoder from `take`, as things stand."""
        return stop <= self._changes.first and (bool(self._idle) or self._knows_matrix)

    def take(self) -> VideoCodecContext:
        """A decoder that nothing else uses until it is given back, with the parameter sets that the container states.

        The first is the stream's own, which alone knows the display matrix that the container states: its first frame
        tells it to the others.
        """
        if not self._idle:
            assert self._knows_matrix
            return self._new(0)
        decoder = self._idle.pop()
        decoder.flush_buffers()
        return decoder

    def give_back(self, decoder: VideoCodecContext) -> None:
        """Let a decoder from `take` serve again: to set one up costs as much as some frames."""
        self._idle = self._idle or [decoder]

    def is_flagged(self, start: int, stop: int) -> bool:
        """Whether the file says that one of the packets `start` to `stop` is damaged."""
        return any(head.is_corrupt for head in self._heads[start:stop])

    def decode_all(self) -> Iterator[Decoded]:
        """Decode everything from the first packet on; errors are those of `decode`."""
        return self.decode(0, len(self._packets))

    def _display_matrix(self) -> bytes | None:
        self._own.flush_buffers()
        with suppress(av.FFmpegError):
            for packet in (*self._packets, None):
                for frame in self._own.decode(packet):
                    return display_matrix(frame)
        return None

    def _new(self, start: int) -> VideoCodecContext:
        decoder = av.CodecContext.create(self._own.codec, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = self._changes.extradata_at(start)
        for name, value in self._stated.items():
            setattr(decoder, name, value)
        open_decoder(decoder, self._options)
        return decoder


# What a container may state beside the parameter sets, and a decoder of our own has to be told.
_STATED = ("codec_tag", "reorder_depth", "color_range", "color_primaries", "color_trc", "colorspace")


def open_decoder(decoder: VideoCodecContext, options: dict[str, str]) -> None:
    """Open a decoder that runs in the thread that calls it."""
    decoder.options = options
    decoder.thread_count = 1  # decoding clips side by side is cheaper, and AUTO can deadlock
    decoder.thread_type = "NONE"
    decoder.open(strict=False)  # before skip_frame is touched: some decoders read it only here
