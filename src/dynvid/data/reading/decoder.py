"""The decoder: runs of packets to frames, each run with the parameter sets in force where it starts."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dynvid.data.reading.container import MAX_PIXELS, Track
from dynvid.data.reading.converter import display_matrix
from dynvid.data.reading.nal import CODECS, is_whole_set, parameter_sets
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
        is_steady: Whether all frames are known to have one size, since their parameter sets never change.
        stated_matrix: The display matrix that the container states, for frames of decoders that do not know it.
    """

    def __init__(self, track: Track, strict: bool = False) -> None:
        self._packets: Sequence[Packet[VideoStream]] = track.pictures or track.packets
        self.num_packets = len(self._packets)
        self._strict, self._options = strict, {"max_pixels": str(MAX_PIXELS)}
        if strict or track.decoder.name == "mjpeg":  # whose decoder flags nothing: the rest of a cut frame is garbage
            self._options["err_detect"] = "crccheck+bitstream+buffer+explode"
        self._own = track.decoder
        self._stated = {name: getattr(self._own, name) for name in _STATED}
        try:
            _open(self._own, self._options)
        except av.FFmpegError as error:
            raise VideoError(f"{track.name}: cannot open its decoder ({error.strerror})") from error
        self._changes = _Changes(self._packets, self._own.name, self._own.extradata or b"")
        changes = self._changes.first < len(self._packets)
        self.is_steady = not changes and self._own.name in CODECS
        self.stated_matrix = self._display_matrix() if changes else None

    def decode(self, start: int, stop: int, targets: Collection[int] = ()) -> Iterator[Decoded]:
        """Decode packets `start` to `stop`; given targets, leave out the others that nothing refers to.

        The packet at `start` must be a key packet, or the first one. A flag that comes with no frame at the end is
        lost, so ask `is_flagged` too.

        Raises:
            av.FFmpegError: A packet cannot be decoded.
        """
        if self._changes.unknown_at(start):
            start = 0
        decoder = self._decoder(start, stop)
        whole = not targets or decoder.name not in _SKIPPABLE
        flagged = False  # a packet for which no frame has come yet
        for i in (*range(start, stop), None):
            packet = None if i is None else self._packets[i]  # None: give what is held back to reorder
            decoder.skip_frame = "DEFAULT" if whole or i in targets else "NONREF"
            flagged |= packet is not None and packet.is_corrupt
            try:
                frames = decoder.decode(packet)
            except av.FFmpegError:
                if not (self._strict and packet is not None and packet.is_discard):
                    raise
                continue  # what is cut off and never shown may lack what it refers to
            for frame in frames:
                yield Decoded(frame, stop if i is None else i + 1, flagged or frame.is_corrupt)
                flagged = False

    def is_flagged(self, start: int, stop: int) -> bool:
        """Whether the file says that one of the packets `start` to `stop` is damaged."""
        return any(packet.is_corrupt for packet in self._packets[start:stop])

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

    def _decoder(self, start: int, stop: int) -> VideoCodecContext:
        if stop <= self._changes.first:
            self._own.flush_buffers()
            return self._own
        decoder = av.CodecContext.create(self._own.codec, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = self._changes.extradata_at(start)
        for name, value in self._stated.items():
            setattr(decoder, name, value)
        _open(decoder, self._options)
        return decoder


# What a container may state beside the parameter sets, and a decoder of our own has to be told.
_STATED = ("codec_tag", "reorder_depth", "color_range", "color_primaries", "color_trc", "colorspace")


def _open(decoder: VideoCodecContext, options: dict[str, str]) -> None:
    decoder.options = options
    decoder.thread_count = 1  # decoding clips side by side is cheaper, and AUTO can deadlock
    decoder.thread_type = "NONE"
    decoder.open(strict=False)  # before skip_frame is touched: some decoders read it only here


class _Changes:
    """Where the parameter sets of a stream change on the way.

    They do where a container hands out new ones beside a packet, and where a packet carries other ones than those known
    so far.

    Attributes:
        first: Number of the first packet that is to be decoded with others than the container states; the number of
            packets where there is none.
    """

    def __init__(self, packets: Sequence["Packet[VideoStream]"], codec: str, extradata: bytes) -> None:
        self.first = len(packets)
        self._handed_out: list[tuple[int, bytes]] = [(0, extradata)]
        self._first_inside = len(packets)  # from here on, packets may rely on sets that came inside earlier ones
        self._codec, self._packets = codec, packets
        if codec not in CODECS:
            return
        known: set[bytes] = set()
        for i, packet in enumerate(packets):
            for data in packet.iter_sidedata():
                if data.data_type == "new_extradata" and bytes(data) != self._handed_out[-1][1]:
                    self._handed_out.append((i, bytes(data)))
                    self.first = min(self.first, i)
            stated = self._handed_out[-1][1]
            inside = {unit for unit in parameter_sets(codec, stated, packet) if unit not in stated}
            if inside - known and i:
                self.first, self._first_inside = min(self.first, i), min(self._first_inside, i)
            known |= inside

    def extradata_at(self, start: int) -> bytes:
        """What the container has handed out last up to a packet."""
        return [extradata for i, extradata in self._handed_out if i <= start][-1]

    def unknown_at(self, start: int) -> bool:
        """Whether a run from a packet on may rely on sets that came inside earlier packets."""
        if start < self._first_inside:
            return False
        inside = parameter_sets(self._codec, self.extradata_at(start), self._packets[start])
        return not is_whole_set(self._codec, inside)
