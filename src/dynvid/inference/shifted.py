"""The online shift in place: one with the layer that reads it, for inference only.

A shift alone copies all of its input. Here the channels that move are moved, the layer reads, and they are put back;
the answers are the same to the bit.
"""

from collections.abc import Callable

from torch import Tensor, nn

from dynvid.nets.shift import Frames, OnlineTemporalShift, current_frames

LAYERS = (nn.Conv2d, nn.Linear)  # what these give never shares memory with what they read, as an identity's would


class Shifted(nn.Module):
    """An online shift and the layer behind it.

    Args:
        shift: The shift.
        layer: One of `LAYERS`.
    """

    def __init__(self, shift: OnlineTemporalShift, layer: nn.Module) -> None:
        super().__init__()
        self.div, self.dim, self.layer = shift.div, shift.dim, layer

    def forward(self, x: Tensor) -> Tensor:
        """What the shift reads -> what the layer gives."""
        return self.read_by(self.layer, x)

    def read_by(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The same with something else in place of the layer."""
        dim = self.dim if x.dim() == 4 else -1
        part = x.narrow(dim, 0, x.shape[dim] // self.div)
        held = part.clone()
        self._move(held, part, current_frames())
        y = layer(x)
        part.copy_(held)
        return y

    def _move(self, held: Tensor, part: Tensor, frames: Frames) -> None:
        """Write into `part` what `OnlineTemporalShift` makes of the same channels, `held`."""
        batch = len(held) // len(frames.fresh)
        part[batch:] = held[:-batch]
        for t, begins in enumerate(frames.fresh):
            if begins:
                part[t * batch : (t + 1) * batch] = 0
        if not frames.fresh[0]:
            part[:batch] = frames.memory[id(self)]
        if frames.remember:
            frames.memory[id(self)] = held[-batch:].clone()


def shift_in_place(part: nn.Module) -> None:
    """Join each online shift with the layer behind it, where it is one of `LAYERS`."""
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential) and len(child) == 2:
                shift, layer = child
                if type(shift) is OnlineTemporalShift and isinstance(layer, LAYERS):
                    setattr(parent, name, Shifted(shift, layer))
