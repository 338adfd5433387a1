"""Where the parameter sets of a stream change on the way."""

from typing import Any

from dynvid.data.reading.nal import CODECS, is_whole_set, parameter_sets

_NEVER = 2**62


class Changes:
    """Finds the packets from which on other parameter sets are in force than the container states.

    They change where a container hands out new ones beside a packet, and where a packet carries other ones than those
    known so far.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: Of the decoder: the parameter sets that the container states.

    Attributes:
        first: Number of the first packet that is to be decoded with others than the container states; larger than any
            where there is none.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.first = self._first_inside = _NEVER  # inside: packets from there on may rely on sets in earlier packets
        self._handed_out: list[tuple[int, bytes]] = [(0, extradata)]
        self._codec, self._known = codec, set[bytes]()

    def add(self, i: int, packet: Any) -> None:
        """Look at packet `i`; all of them are to be looked at, in order."""
        if self._codec not in CODECS:
            return
        for data in packet.iter_sidedata():
            if data.data_type == "new_extradata" and bytes(data) != self._handed_out[-1][1]:
                self._handed_out.append((i, bytes(data)))
                self.first = min(self.first, i)
        stated = self._handed_out[-1][1]
        inside = {unit for unit in parameter_sets(self._codec, stated, packet) if unit not in stated}
        if inside - self._known and i:
            self.first, self._first_inside = min(self.first, i), min(self._first_inside, i)
        self._known |= inside

    def are_none_in(self, packet: Any) -> bool:
        """Whether a packet, taken out of its order, brings no other parameter sets than the container states."""
        if self._codec not in CODECS:
            return True
        stated = self._handed_out[0][1]
        handed_out = (data for data in packet.iter_sidedata() if data.data_type == "new_extradata")
        inside = parameter_sets(self._codec, stated, packet)
        return all(bytes(data) == stated for data in handed_out) and all(unit in stated for unit in inside)

    def extradata_at(self, start: int) -> bytes:
        """What the container has handed out last up to a packet."""
        return [extradata for i, extradata in self._handed_out if i <= start][-1]

    def may_rely_on_earlier(self, start: int) -> bool:
        """Whether packets before `start` carry parameter sets that a run from there on may need."""
        return start >= self._first_inside

    def unknown_in(self, packet: Any, start: int) -> bool:
        """Whether packet `start` does not bring all parameter sets that a run from there on needs."""
        return not is_whole_set(self._codec, parameter_sets(self._codec, self.extradata_at(start), packet))
