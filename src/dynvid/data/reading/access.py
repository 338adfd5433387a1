"""The frames of a track by their indices: at random where its packets tell them, else one after the other."""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Protocol

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray

from dynvid.data.reading.container import Track
from dynvid.data.reading.decoder import Decoder
from dynvid.data.reading.index import Index, Run, index_of
from dynvid.data.reading.parked import ParkedRun
from dynvid.errors import DamagedVideoError, VideoError

# Frames of a clip that had to be decoded to be counted are kept up to this size, in bytes, raw and with what each takes
# beside its pixels.
_KEEP_BYTES, _OVERHEAD = 256 * 2**20, 2048
_MOST_DELAYED = 17  # packets after which a frame has come at the latest: the 16 that H.264 and HEVC may hold back


class Access(Protocol):
    """What both ways give.

    Attributes:
        timestamps: Seconds since the first frame, (frames,).
        key_frames: Indices of the frames that can be decoded alone.
        first_size: Height and width of the first frame as stored, once it is known.
        decoder: Decodes them.
    """

    timestamps: NDArray[np.float64]
    key_frames: list[int]
    first_size: tuple[int, int] | None
    decoder: Decoder

    @property
    def decode_costs(self) -> NDArray[np.int64]:
        """Packets to go through to have each frame alone, (frames,); 0 where all were decoded at opening."""

    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode frames, each with its index, in no particular order; one that cannot be had is left out.

        Raises:
            DamagedVideoError: One of them, or of those on the way to it, is flagged as damaged.
            av.FFmpegError: A packet cannot be decoded.
        """


def access_to(track: Track) -> Access:
    """The cheaper of the two ways that a track allows.

    Raises:
        VideoError: No frame can be decoded, or not all of them where that is how they are counted.
    """
    decoder, index = Decoder(track), index_of(track)
    if index:
        at_random = RandomAccess(track.name, index, decoder)
        # Frames that are cut off from their key frame may or may not be shown: only trying tells.
        if index.is_sure or at_random.begins():
            return at_random
    return SequentialAccess(track, decoder)


class RandomAccess:
    """Decodes from the key frame before each wanted frame; see `Access`.

    Args:
        name: What errors call the video.
        index: Its index.
        decoder: Decodes it.
    """

    def __init__(self, name: str, index: Index, decoder: Decoder) -> None:
        self._name, self._index, self.decoder = name, index, decoder
        self.timestamps, self.key_frames = index.timestamps, index.key_frames
        self.first_size: tuple[int, int] | None = None

    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
        """See `Access`."""
        index = self._index
        missing = {index.times[index.order[i]]: i for i in wanted}
        for run in index.runs(wanted):
            frames = self._from_key(run)
            yield from ((missing.pop(time), frames[time]) for time in missing.keys() & frames.keys())
        if missing:  # only decoding from the start gives these
            for frame, _, flagged in self.decoder.decode_all():
                if flagged:
                    raise DamagedVideoError(self._damage(frame))
                if frame.pts in missing:
                    yield missing.pop(frame.pts), frame
                if not missing:
                    return

    @property
    def decode_costs(self) -> NDArray[np.int64]:
        """See `Access`."""
        return self._index.decode_costs

    def parked(self, frames: Collection[int]) -> "ParkedAccess":
        """Access to frames that are all told beforehand."""
        return ParkedAccess(self, self._index, self.decoder, frames)

    def begins(self) -> bool:
        """Whether the first frame can be had, be it damaged."""
        try:
            return bool(self._from_key(Run(0, [self._index.order[0]])))
        except (av.FFmpegError, DamagedVideoError):
            return True

    def lost(self, times: Collection[int | None]) -> list[int]:
        """The frames that are not among these presentation times of a decode of the whole file."""
        return [i for i, packet in enumerate(self._index.order) if self._index.times[packet] not in times]

    def _from_key(self, run: Run) -> dict[int, VideoFrame]:
        """The targets of a run by their times; none where its key frame needs what comes before it."""
        start, stop, begins = run.start, run.targets[-1] + 1, self._index.times[run.start]
        wanted = {self._index.times[i] for i in run.targets}
        found: dict[int, VideoFrame] = {}
        key_frame: VideoFrame | None = None
        damaged: VideoFrame | None = None
        for frame, _, _ in self.decoder.decode(start, stop, set(run.targets)):
            if frame.pts == begins:
                key_frame = frame
                if self.decoder.is_steady or begins == self._index.times[self._index.order[0]]:
                    self.first_size = frame.height, frame.width
            if frame.pts is None or frame.pts >= begins:  # others belong to the group before, and lack it
                damaged = damaged or (frame if frame.is_corrupt else None)
                if frame.pts in wanted:
                    found[frame.pts] = frame
        # Streams with gradual refresh mark frames as key frames that need what came before.
        if start and (key_frame is None or key_frame.pict_type != PictureType.I):
            return {}
        if damaged or self.decoder.is_flagged(start, stop):
            raise DamagedVideoError(self._damage(damaged))
        return found

    def _damage(self, frame: VideoFrame | None) -> str:
        times = [self._index.times[packet] for packet in self._index.order]
        known = frame is not None and frame.pts in times
        which = f"frame {times.index(frame.pts)}" if known else "a frame"  # type: ignore[union-attr, arg-type]
        return f"{self._name}: {which} is damaged, and with it those that need it"


class ParkedAccess:
    """Decodes frames that are told beforehand, in any order, none of them twice.

    Where a run is not plain, since parameter sets change, something is damaged, or a frame does not come, its frames
    are decoded by `RandomAccess` as if they had not been told.

    Args:
        access: Gives what is not plain.
        index: Its index.
        decoder: Its decoder.
        frames: What may be asked for, by index.
    """

    def __init__(self, access: RandomAccess, index: Index, decoder: Decoder, frames: Collection[int]) -> None:
        self.access, self._index, self._decoder = access, index, decoder
        self._runs = {target: run for run in index.runs(set(frames)) for target in run.targets}  # of each packet
        self._parked: dict[int, ParkedRun] = {}  # by the packet where they start
        self._starts_over = False

    def frames(self, wanted: Collection[int], later: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
        """See `Access`.

        Args:
            wanted: Frames, by index.
            later: Frames that may still be asked for, by index; those that were told and are not among them are let go.
        """
        targets = {self._index.order[i]: i for i in wanted}
        keep = {self._index.order[i] for i in later}
        missing = set()
        for target, i in sorted(targets.items()):
            frame = self._frame(target, targets.keys() | keep)
            if frame is None:
                missing.add(i)
            else:
                yield i, frame
        self._release(keep)
        if missing:
            yield from self.access.frames(missing)

    def _frame(self, target: int, later: Collection[int]) -> VideoFrame | None:
        run = self._runs.get(target)  # none where it has been handed out before
        if run is None or not (run.start in self._parked or self._decoder.can_part(run.targets[-1] + 1)):
            return None
        if run.start not in self._parked:
            self._parked[run.start] = ParkedRun(self._decoder, self._index, run, whole=self._starts_over)
        parked = self._parked[run.start]
        frame = parked.frame(target, [one for one in run.targets if one in later])
        if parked.needs_more and not parked.is_damaged:
            self._start_over()
            return self._frame(target, later)
        times, first = self._index.times, parked.first
        if first and (self._decoder.is_steady or times[run.start] == times[self._index.order[0]]):
            self.access.first_size = first.height, first.width
        return frame

    def _start_over(self) -> None:
        """Decode from the start on, since key frames of this stream are none: streams with gradual refresh."""
        for parked in self._parked.values():
            parked.close()
        everything = Run(0, sorted(self._runs))
        self._runs = dict.fromkeys(everything.targets, everything)
        self._parked, self._starts_over = {}, True

    def _release(self, later: Collection[int]) -> None:
        self._runs = {target: run for target, run in self._runs.items() if target in later}
        starts = {run.start for run in self._runs.values()}
        for start in self._parked.keys() - starts:
            self._parked.pop(start).close()
        for parked in self._parked.values():
            parked.release(later)


class SequentialAccess:
    """Counts the frames by decoding all of them, and keeps them where they are small; see `Access`.

    Raises:
        VideoError: There is none, or one cannot be decoded, so that the number of frames is not known.
    """

    def __init__(self, track: Track, decoder: Decoder) -> None:
        self._name, self.decoder = track.name, decoder
        self._kept: dict[int, VideoFrame] = {}
        self.key_frames: list[int] = []
        self.first_size: tuple[int, int] | None = None
        self._damaged: set[int] = set()
        times: list[int | None] = []
        size, group, flagged_at = 0, 0, -_MOST_DELAYED
        doubtful = False  # whether something in the group of pictures that is being shown is flagged
        try:
            for frame, fed, flagged in decoder.decode_all():
                self.first_size = self.first_size or (frame.height, frame.width)
                if frame.key_frame:
                    self.key_frames.append(len(times))
                # What is shown from here on needs nothing older.
                if frame.key_frame and frame.pict_type == PictureType.I:
                    self._leave_out(doubtful, group, len(times))
                    group, doubtful = len(times), fed - flagged_at < _MOST_DELAYED
                if flagged:
                    flagged_at, doubtful = fed, True
                times.append(frame.pts)
                size += _OVERHEAD + sum(plane.buffer_size for plane in frame.planes)
                if size <= _KEEP_BYTES:
                    self._kept[len(times) - 1] = frame
                else:
                    self._kept.clear()
        except av.FFmpegError as error:
            raise DamagedVideoError(
                f"{self._name}: frame {len(times)} could not be decoded ({error.strerror})"
            ) from error
        if self.first_size is None:
            raise VideoError(f"{self._name}: no frame could be decoded")
        tail = decoder.is_flagged(max(decoder.num_packets - _MOST_DELAYED, 0), decoder.num_packets)
        self._leave_out(doubtful or tail, group, len(times))
        self.timestamps = _timestamps(times, float(track.time_base), track.fps)

    @property
    def decode_costs(self) -> NDArray[np.int64]:
        """See `Access`."""
        return np.zeros(len(self.timestamps), np.int64)

    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
        """See `Access`."""
        if damaged := self._damaged.intersection(wanted):
            raise DamagedVideoError(f"{self._name}: frame {min(damaged)} is damaged, or one that it needs")
        if self._kept.keys() >= set(wanted):
            yield from ((i, self._kept[i]) for i in wanted)
            return
        last = max(wanted)
        for i, (frame, _, _) in enumerate(self.decoder.decode_all()):
            if i in wanted:
                yield i, frame
            if i == last:
                return

    def keep_only(self, frames: Collection[int]) -> None:
        """Let go of the other frames that are kept."""
        self._kept = {i: self._kept[i] for i in frames if i in self._kept}

    def _leave_out(self, damaged: bool, start: int, stop: int) -> None:
        if damaged:
            self._damaged.update(range(start, stop))


def _timestamps(times: list[int | None], seconds: float, fps: float) -> NDArray[np.float64]:
    """Seconds since the first frame; evenly spaced where the file states no times that make sense."""
    known = [time for time in times if time is not None]
    if len(known) == len(times) and all(a < b for a, b in pairwise(known)):
        return (np.array(known) - known[0]) * seconds
    return np.arange(len(times)) / fps
