"""From a video to the frames that a net takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from dynvid.data.reading.reader import FrameReader
from dynvid.data.sampling import Sampling, cheap_indices, segment_indices
from dynvid.data.transforms import decode_size, eval_transform
from dynvid.data.video import VideoReader, open_video
from dynvid.errors import InputError

Source = str | Path | bytes | BinaryIO | FrameReader
"""A video file or a folder of frames by its path, the bytes of a file, a binary file object, or an open reader."""


class PreparedClip:
    """The frames of one video that a net sees, read when they are asked for.

    Args:
        video: The video.
        num_frames: Frames, one from each of as many equal segments.
        size: Their height and width, in pixels.
        sampling: Which frame of a segment, `center` or `cheap`, as `dynvid.data.VideoDataset` takes it.

    Raises:
        VideoError: It cannot be opened.
    """

    def __init__(self, video: Source, num_frames: int, size: int, sampling: Sampling = "center") -> None:
        reader: FrameReader
        if isinstance(video, FrameReader):
            reader = video
        elif isinstance(video, str | Path):
            reader = open_video(video)
        elif isinstance(video, bytes) or hasattr(video, "read"):
            reader = VideoReader(video)
        else:
            raise InputError(f"a video is a path, bytes, a binary file or a reader, not {type(video).__name__}")
        if sampling == "cheap":
            indices = cheap_indices(reader.decode_costs, num_frames)
        else:
            indices = segment_indices(len(reader), num_frames)
        if reader is not video:
            reader.keep_only(indices.tolist())  # many clips may be open at once
        self._clip = reader.clip(indices, decode_size(size))
        self._transform = eval_transform(size)

    def read(self, positions: Sequence[int]) -> Tensor:
        """Frames by their place in time, counted from 0: uint8 (n, C, size, size).

        Raises:
            VideoError: One of them cannot be decoded.
        """
        frames: Tensor = self._transform(self._clip.read(positions))
        return frames


class Preparation(NamedTuple):
    """How videos are made into what a net takes: as in its validation.

    Attributes:
        num_frames: Frames of a clip.
        size: Height and width, in pixels.
        sampling: Which frame of a segment, `center` or `cheap`.
    """

    num_frames: int
    size: int
    sampling: Sampling = "center"

    def open(self, video: Source) -> PreparedClip:
        """Open a video; no frame is decoded yet where the file tells its frames.

        Raises:
            VideoError: It cannot be opened.
        """
        return PreparedClip(video, *self)
