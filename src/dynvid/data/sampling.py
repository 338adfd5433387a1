"""Which frames of a video a net sees: plain functions from a length to indices."""

import torch
from torch import Tensor


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
    if length < 1 or num_frames < 1:
        raise ValueError(f"cannot take {num_frames} frames from a video of {length} frames")
    if generator is None:
        position = torch.full((num_frames,), 0.5, dtype=torch.float64)
    else:
        position = torch.rand(num_frames, generator=generator, dtype=torch.float64)
    indices = ((torch.arange(num_frames) + position) * length / num_frames).long()
    return indices.clamp_(max=length - 1)  # rounding may reach the end of the last segment
