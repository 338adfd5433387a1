"""The index: which frames a video has, when each is shown, and from which key packet it is decoded."""

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynvid.data.reading.container import Track
from dynvid.data.reading.nal import CODECS, is_instantaneous

# In these codecs a packet is a frame and carries its time.
_FRAME_PER_PACKET = {"h264", "hevc", "vp9", "libdav1d", "av1"}


class Run(NamedTuple):
    """Packets to decode one after the other: from the key packet `start` to the last of the `targets`, ascending."""

    start: int
    targets: list[int]


@dataclass(frozen=True)
class Index:
    """Frames that the packets tell, so that any of them can be decoded without counting the others.

    Attributes:
        times: Presentation time of each packet, in units of the time base.
        order: Number of the packet of each frame, in the order of showing.
        keys: Numbers of the key packets, ascending.
        seconds: Seconds per unit of time.
        is_sure: Whether the first frame is known to decode; else only trying tells.
    """

    times: list[int]
    order: list[int]
    keys: list[int]
    seconds: float
    is_sure: bool

    @cached_property
    def timestamps(self) -> NDArray[np.float64]:
        """Seconds since the first frame, (frames,)."""
        times = np.array([self.times[i] for i in self.order])
        timestamps: NDArray[np.float64] = (times - times[0]) * self.seconds
        return timestamps

    @cached_property
    def key_frames(self) -> list[int]:
        """Indices of the frames that can be decoded alone."""
        keys = set(self.keys)
        return [frame for frame, packet in enumerate(self.order) if packet in keys]

    @cached_property
    def decode_costs(self) -> NDArray[np.int64]:
        """Packets to go through to have each frame alone, (frames,)."""
        return np.array([packet + 1 - self._start(packet) for packet in self.order])

    def runs(self, frames: Iterable[int]) -> list[Run]:
        """Group frames, given by index, by the key packet from which to decode them."""
        runs: list[Run] = []
        for start, target in sorted((self._start(self.order[frame]), self.order[frame]) for frame in frames):
            if runs and start <= runs[-1].targets[-1]:  # on the way
                insort(runs[-1].targets, target)
            else:
                runs.append(Run(start, [target]))
        return runs

    def _start(self, target: int) -> int:
        """The key packet from which a packet is decoded."""
        group = bisect_right(self.keys, target) - 1
        if self.times[target] < self.times[self.keys[group]]:
            group -= 1  # shown before its key frame (open group of pictures): needs the group before too
        return self.keys[group]


def index_of(track: Track) -> Index | None:
    """The index of a track; None where its packets do not tell the frames, so that decoding has to count them."""
    name, packets = track.decoder.name, track.heads
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    times = [packet.pts for packet in packets if packet.pts is not None]
    if track.pictures:
        order = sorted(range(len(packets)), key=times.__getitem__)
        return Index(times, order, keys, 1 / track.fps, is_sure=True)
    shown = [i for i, packet in enumerate(packets) if not packet.is_discard]
    if not shown or name not in _FRAME_PER_PACKET or len(times) < len(packets):
        return None
    shown_at = {times[i] for i in shown}
    # Frames ahead of the first key frame may or may not decode: only trying tells.
    if len(shown_at) < len(shown) or keys[:1] != [0] or min(shown_at) < times[0]:
        return None
    order = sorted(shown, key=times.__getitem__)
    # AVI stores no presentation times; those made up for it do not know of reordering.
    if track.decoder.has_b_frames and order == shown:
        return None
    begins = name not in CODECS or is_instantaneous(name, track.decoder.extradata or b"", track.packets[0])
    return Index(times, order, keys, float(track.time_base), is_sure=begins and order[0] == 0)
