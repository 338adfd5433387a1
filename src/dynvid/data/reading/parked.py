"""Runs of packets whose frames may be asked for in any order: a decoder waits where it is, nothing is decoded twice."""

from collections.abc import Collection

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from dynvid.data.reading.decoder import Decoder
from dynvid.data.reading.index import Index, Run


class ParkedRun:
    """Decodes a run as far as a target needs, keeps the targets passed on the way, and waits there.

    Args:
        decoder: Of the track.
        index: Of the track.
        run: Packets and targets; `Decoder.can_part` must hold for them.
        whole: Decode also what nothing refers to, so as to meet all that is damaged.

    Attributes:
        is_damaged: Whether something that was met is damaged, or a packet could not be decoded.
        first: The frame of the key packet, once it has come.
    """

    def __init__(self, decoder: Decoder, index: Index, run: Run, whole: bool = False) -> None:
        self._decoder, self._times = decoder, index.times
        self._context: VideoCodecContext | None = None
        self._start, self._begins, self._whole = run.start, index.times[run.start], whole
        self._targets = frozenset(run.targets)
        self._found: dict[int, VideoFrame] = {}
        self._next, self._latest, self._shown = run.start, self._begins, self._begins - 1
        self._due: dict[int, int] = {}  # when all frames have been shown that come of the packets up to this one
        self._is_drained = self.is_damaged = False
        self.first: VideoFrame | None = None

    @property
    def needs_more(self) -> bool:
        """Whether the run turned out to need what comes before it: its key frame is none."""
        began = self._is_drained or self._shown >= self._begins
        return bool(self._start) and began and (self.first is None or self.first.pict_type != PictureType.I)

    def frame(self, target: int, later: Collection[int]) -> VideoFrame | None:
        """The frame of a target; None where it does not come, or something is damaged, or the run needs more.

        Args:
            target: Its packet.
            later: Packets of the targets that may still be asked for; behind the last the decoder is emptied.
        """
        last = max((target, *later))
        try:
            while not (self._is_drained or self.is_damaged or self.needs_more or self._is_settled(target)):
                self._step(self._next if self._next <= last else None)
        except av.FFmpegError:
            self.is_damaged = True
        if self._is_drained or self.is_damaged or self.needs_more:
            self.close()
        return None if self.is_damaged or self.needs_more else self._found.get(self._times[target])

    def release(self, later: Collection[int]) -> None:
        """Let go of the targets but these."""
        self._targets &= frozenset(later)
        times = {self._times[target] for target in self._targets}
        self._found = {time: frame for time, frame in self._found.items() if time in times}

    def close(self) -> None:
        """Give the decoder back."""
        if self._context:
            self._decoder.give_back(self._context)
        self._context = None

    def _is_settled(self, target: int) -> bool:
        """Whether all frames up to a target have come: one held back could be damaged, and the target with it."""
        return target in self._due and self._shown >= self._due[target]

    def _step(self, i: int | None) -> None:
        """Feed the next packet; None empties the decoder."""
        context = self._context = self._context or self._decoder.take()
        if i is None:
            self._is_drained = True
        else:
            self._next = i + 1
            self._latest = self._due[i] = max(self._latest, self._times[i])
            self.is_damaged |= self._decoder.is_flagged(i, i + 1)
        times = {self._times[target] for target in self._targets}
        for frame in self._decoder.feed(context, i, () if self._whole else self._targets):
            if frame.pts == self._begins:
                self.first = frame
            if frame.pts is None or frame.pts >= self._begins:  # others belong to the group before, and lack it
                self.is_damaged |= frame.is_corrupt
                self._shown = max(self._shown, self._begins if frame.pts is None else frame.pts)
            if frame.pts in times:
                self._found[frame.pts] = frame
            self.is_damaged |= self._whole and frame.is_corrupt
