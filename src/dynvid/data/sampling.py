"""Which frames of a video a net sees: plain functions from a length to indices."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dynvid.errors import InputError

Sampling = Literal["center", "cheap"]
"""Which frame of a segment an evaluation takes: the one at its centre, or the one that is cheapest to decode."""


def segment_indices(length: int, num_frames: int, generator: torch.Generator | None = None) -> Tensor:
    """One frame from each of `num_frames` equal segments of a video, as in temporal segment networks.

    A video with fewer frames than segments gives some frames more than once.

    Args:
        length: Number of frames of the video.
        num_frames: Number of segments.
        generator: Draws a frame uniformly within each segment; without it the centre frame is taken.

    Returns:
        int64 `(num_frames,)`, sorted, in `[0, length)`.

    Raises:
        ValueError: The video has no frame, or no frame is asked for.

    >>> segment_indices(80, 4)
    tensor([10, 30, 50, 70])
    >>> segment_indices(2, 4)
    tensor([0, 0, 1, 1])
    """
    if generator is None:
        return clip_indices(length, num_frames, 1)[0]
    return _indices(length, num_frames, torch.rand(num_frames, generator=generator, dtype=torch.float64))


def clip_indices(length: int, num_frames: int, num_clips: int) -> Tensor:
    """Several clips of one video, for the test of a static net: each has one frame per segment.

    Clip c takes the frame at `(c + 0.5) / num_clips` of every segment, so the clips interleave and each still
    spans the whole video, as in training. TSM's "twice sample" is the same idea with two clips; its dense test
    (10 windows of 64 frames) belongs to nets trained on such windows.

    Args:
        length: Number of frames of the video.
        num_frames: Number of segments.
        num_clips: Number of clips; one gives the centre frames of `segment_indices`.

    Returns:
        int64 `(num_clips, num_frames)`, each row sorted, in `[0, length)`.

    Raises:
        ValueError: The video has no frame, or no frame or clip is asked for.

    >>> clip_indices(80, 4, 2)
    tensor([[ 5, 25, 45, 65],
            [15, 35, 55, 75]])
    """
    if num_clips < 1:
        raise InputError(f"cannot take {num_clips} clips from a video")
    position = (torch.arange(num_clips, dtype=torch.float64) + 0.5) / num_clips
    return _indices(length, num_frames, position[:, None])


def cheap_indices(decode_costs: ArrayLike, num_frames: int) -> Tensor:
    """One frame from each of `num_frames` equal segments of a video: the cheapest to decode.

    That is a key frame where the segment has one, else the first in the order of decoding. Of frames that cost the same
    it is the nearest to the centre. Training draws any frame of a segment, so a net knows these as well as the centres.

    Args:
        decode_costs: What each frame costs, `(length,)`, as `decode_costs` of a reader says.
        num_frames: Number of segments.

    Returns:
        int64 `(num_frames,)`, sorted, in `[0, length)`; the centre frames where there are fewer frames than segments.

    Raises:
        ValueError: The video has no frame, or no frame is asked for.

    >>> cheap_indices([1, 4, 3, 2, 5, 1, 2, 3], 2)
    tensor([0, 5])
    >>> cheap_indices([1, 1, 1, 1, 1, 1, 1, 1], 2)
    tensor([2, 6])
    """
    costs = np.asarray(decode_costs)
    centres, length = segment_indices(len(costs), num_frames), len(costs)
    if length < num_frames:
        return centres
    chosen = []
    for segment, centre in enumerate(centres.tolist()):
        frames = np.arange(segment * length // num_frames, (segment + 1) * length // num_frames)
        chosen.append(frames[np.lexsort((frames, abs(frames - centre), costs[frames]))[0]])
    return torch.from_numpy(np.array(chosen, np.int64))


def _indices(length: int, num_frames: int, position: Tensor) -> Tensor:
    """Frames at a position in [0, 1) of each segment: `(..., num_frames)`."""
    if length < 1 or num_frames < 1:
        raise InputError(f"cannot take {num_frames} frames from a video of {length} frames")
    indices = ((torch.arange(num_frames) + position) * length / num_frames).long()
    return indices.clamp_(max=length - 1)  # rounding may reach the end of the last segment
