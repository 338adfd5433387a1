"""Measure what each exit of a net costs in milliseconds: what one call costs, or a batch that nobody leaves."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import dynvid
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError
from dynvid.inference.preparation import Preparation, PreparedClip
from dynvid.nets import ExitNet
from dynvid.policy import max_probability
from dynvid.profile import Profile, Timing, this_device

Clock = Callable[[], float]


@torch.inference_mode()
def measure(
    net: ExitNet,
    clips: Sequence[str | Path] = (),
    batch_size: int = 1,
    repeats: int = 5,
    optimize: str = "none",
    sampling: Sampling = "center",
    clock: Clock = time.perf_counter,
) -> Profile:
    """Time a net along its route, from file to answer.

    A batch walks the whole route, nobody leaves it, and the clock is read at each exit once its answer is there: that
    is what a video costs that leaves there. Full inference, which passes no exit, takes turns with it. Frames are read
    as the walk asks for them, the files of a batch one after the other. A repeat is the mean over all clips; one more
    goes before the first and is not counted.

    Args:
        net: The net in eval mode, on the device and in the precision to be measured.
        clips: Video files or folders of frames; without any the net computes on random frames, and nothing is decoded.
        batch_size: Videos that walk together; clips are taken again where they are no multiple of it.
        repeats: How often.
        optimize: How the net was prepared, for the record.
        sampling: Which frame of each segment is read, `center` or `cheap`.
        clock: Gives seconds.

    Raises:
        ValueError: The net is in training mode, or a number is below 1.
        VideoError: A clip cannot be read.

    Example:
        >>> from dynvid import DepthExitNet
        >>> net = DepthExitNet("test_resnet", num_classes=5, num_frames=2, input_size=32).eval()
        >>> profile = measure(net, repeats=2)
        >>> profile.clips, len(profile.milliseconds)
        (0, 3)
    """
    if net.training:
        raise InputError("measure needs eval mode: call net.eval() first")
    if batch_size < 1 or repeats < 1:
        raise InputError(f"batch_size={batch_size}, repeats={repeats}: 1 or more")
    videos = list(clips)
    sources: list[Clips | Noise] = [Noise(net, batch_size)]
    if videos:
        preparation = Preparation(net.num_frames, net.input_size, sampling)
        starts = range(0, len(videos), batch_size)
        sources = [
            Clips(preparation, [videos[(at + n) % len(videos)] for n in range(batch_size)], clock) for at in starts
        ]
    rounds = [_round(net, sources, batch_size, clock, full_first=bool(n % 2)) for n in range(repeats + 1)][1:]
    timings = [_timing(column) for column in np.stack(rounds, axis=1)]
    device, processor = this_device(net.device.type)
    return Profile(
        device=device,
        processor=processor,
        precision=str(net.dtype).removeprefix("torch."),
        optimize=optimize,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        route=net.route,
        exits=tuple(timings[:-1]),
        full=timings[-1],
        clips=len(clips),
        repeats=repeats,
        versions={"dynvid": dynvid.__version__, "torch": str(torch.__version__)},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class Clips:
    """The frames of a batch of files, read as they are asked for, and the time that takes.

    Attributes:
        spent: Seconds since `rewind`.
    """

    def __init__(self, preparation: Preparation, paths: Sequence[str | Path], clock: Clock) -> None:
        self._preparation, self._paths, self._clock = preparation, paths, clock
        self.rewind()

    def rewind(self) -> None:
        """Open the files again when the next frames are asked for."""
        self._clips: list[PreparedClip] = []
        self.spent = 0.0

    def __call__(self, _: Tensor, wanted: list[int]) -> Tensor:
        """Frames of all files, uint8 (b, n, C, H, W)."""
        begun = self._clock()
        self._clips = self._clips or [self._preparation.open(path) for path in self._paths]
        frames = torch.stack([clip.read(wanted) for clip in self._clips])
        self.spent += self._clock() - begun
        return frames


class Noise:
    """Random frames in the place of files: there at once, wherever the net is."""

    spent = 0.0

    def __init__(self, net: ExitNet, batch_size: int) -> None:
        shape = (batch_size, net.num_frames, 3, net.input_size, net.input_size)
        generator = torch.Generator().manual_seed(0)
        self._video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(net.device)

    def rewind(self) -> None:
        """Nothing was spent."""

    def __call__(self, _: Tensor, wanted: list[int]) -> Tensor:
        """Frames of all videos, uint8 (b, n, C, H, W)."""
        return self._video[:, wanted]


def _round(
    net: ExitNet, sources: Sequence[Clips | Noise], batch_size: int, clock: Clock, full_first: bool
) -> NDArray[np.float64]:
    """Seconds per video up to each exit and of full inference, and what of them was decoding: (K + 1, 2)."""
    walks = []
    for source in sources:
        if full_first:
            full, exits = _walk(net, source, batch_size, clock, [-1]), _walk(net, source, batch_size, clock)
        else:
            exits, full = _walk(net, source, batch_size, clock), _walk(net, source, batch_size, clock, [-1])
        walks.append(exits + full)
    mean: NDArray[np.float64] = np.mean(walks, axis=0) / batch_size
    return mean


def _walk(
    net: ExitNet, source: Clips | Noise, batch_size: int, clock: Clock, exits: Sequence[int] | None = None
) -> list[tuple[float, float]]:
    """Seconds since the beginning, and those spent on decoding, at each exit."""
    source.rewind()
    begun, marks = clock(), []
    stream = net.stream(source, batch_size, exits)
    while not stream.finished:
        max_probability(stream.advance()).tolist()  # waits for the device, as whoever decides who leaves must
        marks.append((clock() - begun, source.spent))
    return marks


def _timing(rounds: NDArray[np.float64]) -> Timing:
    """Of one exit, from seconds (repeats, 2)."""
    total, decoding = 1000 * rounds.T
    return Timing(float(np.median(total)), float(total.min()), float(total.max()), float(np.median(decoding)))
