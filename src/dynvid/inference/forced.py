"""Exits that are forced, and frames out of thin air: for measuring where there is neither a checkpoint nor data."""

from collections.abc import Sequence
from math import ceil, gcd

import torch
from torch import Tensor, nn

from dynvid.errors import InputError
from dynvid.nets import DepthExitNet, ExitNet
from dynvid.policy import ThresholdPolicy
from dynvid.routes import FrameOrder, Route, depth_route


class ForcedExits(ThresholdPolicy):
    """Lets a fixed share of videos leave at each exit, whatever it answers.

    Which of those that come to an exit leave there is drawn once. It is exact for whole periods: with shares 60, 20, 15
    and 5, of every 20 videos 12, 4, 3 and 1 leave at the four exits. One object serves one pass over the videos.

    Args:
        shares: One per exit, in any unit.

    Raises:
        ValueError: All shares are 0, or one is below.

    Attributes:
        period: Videos after which the shares come out exactly.

    Example:
        >>> policy = ForcedExits([50, 50])
        >>> sorted(policy.confident(0, torch.zeros(2, 5)).tolist()), policy.confident(1, torch.zeros(1, 5)).tolist()
        ([False, True], [True])
    """

    def __init__(self, shares: Sequence[int]) -> None:
        if not any(shares) or min(shares) < 0:
            raise InputError(f"shares of exits are {', '.join(map(str, shares))}: 0 or more, and not all 0")
        super().__init__(len(shares))
        counts = [share // gcd(*shares) for share in shares]
        self.period = sum(counts)
        self._leaves = [_drawn(count, sum(counts[k:])) for k, count in enumerate(counts)]
        self._come = [0] * len(shares)

    def confident(self, position: int, logits: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Which videos leave, bool (B,); see `ThresholdPolicy`."""
        leaves = self._leaves[position] = self._leaves[position].to(logits.device)
        come = self._come[position]
        self._come[position] += len(logits)
        return leaves[torch.arange(come, come + len(logits), device=logits.device) % len(leaves)]

    def rounded_up(self, videos: int) -> int:
        """The least number of videos from `videos` on for which the shares come out exactly.

        >>> ForcedExits([60, 20, 15, 5]).rounded_up(64)
        80
        """
        return ceil(videos / self.period) * self.period


class HeldClip:
    """The frames of one video in memory.

    Args:
        frames: uint8 (T, C, H, W), in temporal order.
    """

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames
        self._handed: dict[tuple[int, ...], Tensor] = {}

    def read(self, positions: Sequence[int]) -> Tensor:
        """Frames by their place in time, uint8 (n, C, H, W), put together the first time only."""
        key = tuple(positions)
        if key not in self._handed:
            self._handed[key] = self.frames[list(key)]
        return self._handed[key]


def random_clips(net: ExitNet, count: int, distinct: int = 8) -> list[HeldClip]:
    """Clips of random frames as a net takes them; some of them are the same one, as time does not depend on it."""
    generator = torch.Generator().manual_seed(0)
    shape = (net.num_frames, net.input_size, net.input_size, 3)  # channels last, as decoders give them
    clips = [
        HeldClip(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2))
        for _ in range(min(count, distinct))
    ]
    return [clips[k % len(clips)] for k in range(count)]


class EveryDepth(DepthExitNet):
    """Depth-wise, with an exit behind every segment, the first one included."""

    @staticmethod
    def default_route(num_frames: int, depths: Sequence[int]) -> Route:
        """All depths up to the last."""
        return depth_route(num_frames, depths[-1])


class PlainTSM(ExitNet):
    """TSM as a plain script runs it: all frames at once, images laid out as timm lays them out, channels first.

    Args:
        like: The net that it is to be compared with: of the same backbone, frames and size.
    """

    def __init__(self, like: ExitNet) -> None:
        given = like.spec()["init_args"]
        names = ("backbone", "num_classes", "num_frames", "input_size", "shift_div", "backbone_args")
        super().__init__(**{name: given[name] for name in names}, shift="bidirectional", frame_order=CHRONOLOGICAL)
        self.to(memory_format=torch.contiguous_format)

    def to_frames(self, video: Tensor) -> Tensor:
        """(B, n, C, H, W), uint8 or float -> frame-major normalised (n * B, C, H, W)."""
        x = video.transpose(0, 1).flatten(0, 1).to(self.device).contiguous()
        if x.is_floating_point():
            return x.to(self.mean.dtype)
        return x.to(self.mean.dtype).sub(self.mean * 255).div_(self.std * 255)


CHRONOLOGICAL: FrameOrder = "chronological"


@torch.no_grad()
def unzeroed(net: ExitNet) -> ExitNet:
    """A fresh net without residual branches that answer 0: processors may be faster on zeros."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.any():
            module.weight.fill_(0.25)
    return net


def _drawn(count: int, of: int) -> Tensor:
    """`count` of `of`, in a shuffled order that is always the same: bool (of,)."""
    return torch.randperm(of, generator=torch.Generator().manual_seed(0)) < count
