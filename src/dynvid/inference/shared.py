"""Windows whose frames are computed once, whichever of them ask: frames meet in the mean of their embeddings.

So it is in a net without shift. With the causal shift a frame is also handed features of the frame before it; a walk
that lets every frame have them, the first ones of a window too, takes one long video through the net and never resets.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dynvid.inference.walk import Track, Window
from dynvid.nets import ExitNet
from dynvid.nets.activations import Activations
from dynvid.nets.shift import Frames, ShiftMemory


@dataclass(eq=False)
class _Frame:
    """What is known of one frame.

    Attributes:
        track: Where it comes from.
        number: Its place there.
        depth: The depth that it has reached; 0 for pixels.
        x: Its activations there, (1, ...); None at the last depth, where nothing lies deeper.
        embedded: By depth, (C,).
    """

    track: Track
    number: int
    x: Activations | None
    depth: int = 0
    embedded: dict[int, Tensor] = field(default_factory=dict)


class _Handed(NamedTuple):
    """What the newest frame that a depth has seen hands on to the next frame, by segment since the depth before."""

    number: int
    memories: list[ShiftMemory]


class SharedWalk:
    """Computes each frame of a track once, whichever windows ask for it; see `dynvid.inference.walk.Walk`.

    A frame is handed features of the frame before it at each depth which that one has reached; where it has not, since
    its windows left earlier, the frame begins anew there, as the first one of a clip does.

    Args:
        net: A net without shift or with frames in their order and the online shift, with a head per depth, along the
            route that is walked.
    """

    def __init__(self, net: ExitNet) -> None:
        self._net, self._costs = net, net.cell_costs
        self._known: dict[Track, dict[int, _Frame]] = {}
        self._handed: WeakKeyDictionary[Track, dict[int, _Handed]] = WeakKeyDictionary()

    def advance(self, windows: Sequence[Window], position: int) -> tuple[list[Window], Tensor]:
        """See `Walk`."""
        frames, depth = self._net.route[position]
        places = self._net.order[:frames]
        seen = [[self._frame(window.track, window.start + t) for t in places] for window in windows]
        asked: set[_Frame] = set()
        for window, its in zip(windows, seen, strict=True):
            new = [frame for frame in its if frame not in asked]
            asked.update(new)
            if not window.done:
                window.gmacs += sum(self._cost(frame.depth, depth) for frame in new)
                window.gmacs += self._costs.heads[self._costs.depths.index(depth)]
        for through in (d for d in self._costs.depths if d <= depth):
            self._run([frame for its in seen for frame in its], through)
        embedded = torch.stack([torch.stack([frame.embedded[depth] for frame in its]) for its in seen])  # (b, n, C)
        return list(windows), self._net.classify(position, embedded.sum(1) / frames)

    def release(self, windows: Sequence[Window]) -> None:
        """Nothing belongs to a window alone."""

    def forget(self, track: Track, before: int) -> None:
        """See `Walk`."""
        for known in (track.frames, self._known.get(track, {})):
            for number in [number for number in known if number < before]:
                del known[number]
        if not self._known.get(track, True):
            del self._known[track]

    def _frame(self, track: Track, number: int) -> _Frame:
        known = self._known.setdefault(track, {})
        if number not in known:
            pixels = track.frames.pop(number)
            known[number] = _Frame(track, number, self._net.to_frames(pixels[None, None]))
        return known[number]

    def _cost(self, reached: int, depth: int) -> float:
        """GMACs of a frame on its way from one depth with a head to another; it is embedded at those between, too."""
        costs = self._costs
        on_way = [k for k, d in enumerate(costs.depths) if reached < d <= depth]
        if not on_way:
            return 0.0
        before = costs.segments[on_way[0] - 1] if on_way[0] else 0.0
        return costs.segments[on_way[-1]] - before + sum(costs.embeddings[k] for k in on_way)

    def _run(self, frames: Iterable[_Frame], depth: int) -> None:
        """Take those frames that have not been at a depth with a head there, all of which stand at the one before."""
        new = list(dict.fromkeys(frame for frame in frames if frame.depth < depth))
        together: dict[tuple[int, bool], list[list[_Frame]]] = defaultdict(list)
        for chain in self._chains(new):
            together[len(chain), self._before(chain, depth) is not None].append(chain)
        for (_, goes_on), chains in together.items():
            self._run_chains(chains, goes_on, depth)

    def _chains(self, frames: list[_Frame]) -> list[list[_Frame]]:
        """Frames of a track that follow one another, where these are handed features; else each by itself."""
        chains: list[list[_Frame]] = []
        newest: dict[Track, list[_Frame]] = {}
        for frame in sorted(frames, key=lambda frame: frame.number):
            chain = newest.get(frame.track, [])
            if self._net.shift_kind == "online" and chain and chain[-1].number == frame.number - 1:
                chain.append(frame)
            else:
                newest[frame.track] = [frame]
                chains.append(newest[frame.track])
        return chains

    def _before(self, chain: list[_Frame], depth: int) -> _Handed | None:
        """What the frame before a chain hands on to it."""
        handed = self._handed.get(chain[0].track, {}).get(depth)
        return handed if handed and handed.number == chain[0].number - 1 else None

    def _run_chains(self, chains: list[list[_Frame]], goes_on: bool, depth: int) -> None:
        """Take chains of the same length to a depth, all of which go on with what they are handed, or none does."""
        frames = [frame for same_place in zip(*chains, strict=True) for frame in same_place]  # frame-major
        fresh = (not goes_on, *(False for _ in chains[0][1:]))
        handed = [self._before(chain, depth) for chain in chains]
        x: Activations = tree_map(lambda *parts: torch.cat(parts), *(frame.x for frame in frames))
        memories: list[ShiftMemory] = []
        for k, d in enumerate(range(frames[0].depth + 1, depth + 1)):
            before = [h.memories[k] for h in handed if h is not None]
            memory = {layer: torch.cat([m[layer] for m in before]) for layer in (before[0] if before else ())}
            x = self._net.run_segment(d, x, Frames(fresh, memory, remember=True))
            memories.append(memory)
        embedded = self._net.embed(depth, x)
        deeper = depth < len(self._net.segments)
        for row, frame in enumerate(frames):
            # Its own memory: a slice would keep all of the others alive.
            frame.x = tree_map(lambda y, row=row: y[row : row + 1].clone(), x) if deeper else None
            frame.depth, frame.embedded[depth] = depth, embedded[row].clone()
        if any(memories):
            for row, chain in enumerate(chains):
                own = [{layer: y[row : row + 1].clone() for layer, y in memory.items()} for memory in memories]
                self._handed.setdefault(chain[0].track, {})[depth] = _Handed(chain[-1].number, own)
