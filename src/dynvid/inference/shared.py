"""Windows of a net without shift: frames meet in the mean of their embeddings only, so each is computed once.

Windows that overlap ask for the same frames; what a frame has cost up to a depth serves all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dynvid.inference.walk import Track, Window
from dynvid.nets import ExitNet
from dynvid.nets.activations import Activations
from dynvid.nets.shift import Frames


@dataclass(eq=False)
class _Frame:
    """What is known of one frame.

    Attributes:
        depth: The depth that it has reached; 0 for pixels.
        x: Its activations there, (1, ...); None at the last depth, where nothing lies deeper.
        embedded: By depth, (C,).
    """

    x: Activations | None
    depth: int = 0
    embedded: dict[int, Tensor] = field(default_factory=dict)


class SharedWalk:
    """Computes each frame of a track once, whichever windows ask for it; see `dynvid.inference.walk.Walk`.

    Args:
        net: A net without shift, with a head per depth, along the route that is walked.
    """

    def __init__(self, net: ExitNet) -> None:
        self._net, self._costs = net, net.cell_costs
        self._known: dict[Track, dict[int, _Frame]] = {}

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
            known[number] = _Frame(self._net.to_frames(pixels[None, None]))
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
        if not new:
            return
        x: Activations = tree_map(lambda *parts: torch.cat(parts), *(frame.x for frame in new))
        for d in range(new[0].depth + 1, depth + 1):
            x = self._net.run_segment(d, x, Frames((True,) * len(new)))
        embedded = self._net.embed(depth, x)
        deeper = depth < len(self._net.segments)
        for row, frame in enumerate(new):
            # Its own memory: a slice would keep all of the others alive.
            frame.x = tree_map(lambda y, row=row: y[row : row + 1].clone(), x) if deeper else None
            frame.depth, frame.embedded[depth] = depth, embedded[row].clone()
