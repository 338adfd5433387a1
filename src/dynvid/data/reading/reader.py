"""What all readers share: frames are asked for by index and come as one tensor."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dynvid.data.reading.converter import Image
from dynvid.errors import FrameIndexError, VideoError


class FrameReader(ABC):
    """Frames read by index.

    Attributes:
        name: What errors call the video.
        key_frames: Indices of the frames that can be decoded alone.
    """

    name: str
    key_frames: list[int]

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames."""

    @abstractmethod
    def _images(self, wanted: set[int], short_side: int | None) -> dict[int, Image]:
        """The wanted frames by index; a VideoError where one cannot be decoded."""

    @property
    def height(self) -> int:
        """Rows of the first frame as shown, that is, upright."""
        return self._shown_size[0]

    @property
    def width(self) -> int:
        """Columns of the first frame as shown, that is, upright."""
        return self._shown_size[1]

    def read(self, indices: Iterable[int] | Tensor, short_side: int | None = None) -> Tensor:
        """Decode frames.

        Args:
            indices: Frame numbers in `[0, len(self))`, in any order, repeats allowed.
            short_side: Shrink frames to this short side, in pixels, aspect kept; smaller frames stay.

        Returns:
            uint8 RGB `(T, C, H, W)` in the order asked, channels last in memory.

        Raises:
            FrameIndexError: An index is out of range.
            VideoError: A frame cannot be decoded, or is damaged, or they differ in size. Nothing is ever put in the
                place of a frame.
        """
        asked = [operator.index(index) for index in indices]
        for index in asked:
            if not 0 <= index < len(self):
                raise FrameIndexError(f"{self.name}: frame {index} is out of range, the video has {len(self)} frames")
        if not asked:
            return self.read([0], short_side)[:0]
        images = self._images(set(asked), short_side)
        if len(sizes := {image.shape[:2] for image in images.values()}) > 1:
            raise VideoError(f"{self.name}: the frames have different sizes ({sorted(sizes)})")
        return torch.from_numpy(np.stack([images[i] for i in asked])).permute(0, 3, 1, 2)

    @cached_property
    def _shown_size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width
