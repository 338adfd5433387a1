"""What all readers share: frames are asked for by index and come as one tensor."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
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
    @abstractmethod
    def decode_costs(self) -> NDArray[np.int64]:
        """What each frame costs alone, in packets to go through, `(frames,)`.

        The same for all where each is a file, or where all were decoded at opening.
        """

    def keep_only(self, indices: Iterable[int]) -> None:  # noqa: B027  # most readers keep nothing
        """Let go of other frames, where a video was decoded whole; if they are asked for, it is decoded again."""

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
        asked = self._checked(indices)
        if not asked:
            return self.read([0], short_side)[:0]
        return _stacked(self._images(set(asked), short_side), asked, self.name)

    def clip(self, indices: Iterable[int] | Tensor, short_side: int | None = None) -> "Clip":
        """Tell beforehand which frames may be wanted, so as to read them in any order and decode nothing twice.

        Args:
            indices: As for `read`.
            short_side: As for `read`.

        Raises:
            FrameIndexError: An index is out of range.
        """
        return Clip(self, self._checked(indices), short_side)

    def _checked(self, indices: Iterable[int] | Tensor) -> list[int]:
        asked = [operator.index(index) for index in indices]
        for index in asked:
            if not 0 <= index < len(self):
                raise FrameIndexError(f"{self.name}: frame {index} is out of range, the video has {len(self)} frames")
        return asked

    @cached_property
    def _shown_size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width


class Clip:
    """Chosen frames of a video, read in any order by their positions in the clip; `FrameReader.clip` makes them.

    Of a video file nothing is decoded twice, whatever the order. In each group of pictures that was entered a decoder
    waits where it was left; frames of the clip that it passed are kept as it gave them, and converted when they are
    asked for. All of it is let go once no position needs it, so keep a clip no longer than it is read. A position that
    is asked for again is decoded again. Threads that read clips of one reader take turns.

    Attributes:
        indices: The frame numbers, as given to `FrameReader.clip`.
        packets_fed: Compressed packets decoded so far to read this clip; 0 for folders of frames.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from dynvid.data import open_video
    >>> folder = Path(tempfile.mkdtemp())
    >>> for number in range(8):
    ...     Image.new("RGB", (4, 3), (number, 0, 0)).save(folder / f"{number}.png")
    >>> clip = open_video(folder).clip([1, 3, 5, 7])
    >>> clip.read([2])[0, 0, 0, 0], clip.read([0, 3])[:, 0, 0, 0]
    (tensor(5, dtype=torch.uint8), tensor([1, 7], dtype=torch.uint8))
    """

    def __init__(self, reader: FrameReader, indices: list[int], short_side: int | None) -> None:
        self.indices, self.packets_fed = tuple(indices), 0
        self._reader, self._short_side = reader, short_side
        self._unread = set(range(len(indices)))

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, positions: Iterable[int] | Tensor) -> Tensor:
        """Decode frames that have not been decoded yet, and convert those asked for.

        Args:
            positions: Places in `indices`, in any order, repeats allowed.

        Returns:
            What `FrameReader.read` gives for these indices: uint8 RGB `(n, C, H, W)`.

        Raises:
            FrameIndexError: A position is out of range.
            VideoError: As by `FrameReader.read`.
        """
        places = [operator.index(position) for position in positions]
        for place in places:
            if not 0 <= place < len(self):
                raise FrameIndexError(
                    f"{self._reader.name}: position {place} is out of range, the clip has {len(self)} frames"
                )
        if not places:
            return self._reader.read([], self._short_side)
        self._unread.difference_update(places)
        asked = [self.indices[place] for place in places]
        images = self._images(set(asked), {self.indices[place] for place in self._unread})
        return _stacked(images, asked, self._reader.name)

    def _images(self, wanted: set[int], later: set[int]) -> dict[int, Image]:
        """The wanted frames by index, when others may be asked for later."""
        return self._reader._images(wanted, self._short_side)


def _stacked(images: dict[int, Image], asked: list[int], name: str) -> Tensor:
    if len(sizes := {image.shape[:2] for image in images.values()}) > 1:
        raise VideoError(f"{name}: the frames have different sizes ({sorted(sizes)})")
    return torch.from_numpy(np.stack([images[i] for i in asked])).permute(0, 3, 1, 2)
