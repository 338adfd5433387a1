"""The converter: decoded frames to RGB images, upright and in the size asked for."""

from typing import cast

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # RGB (H, W, 3)


class Converter:
    """Turns the frames of one video into images."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # frame.reformat() would set up a new one for each frame

    def to_rgb(self, frame: VideoFrame, size: tuple[int, int], matrix: bytes | None) -> Image:
        """Convert a frame to uint8 (H, W, 3).

        Args:
            frame: The frame.
            size: Height and width as stored, to which it is scaled.
            matrix: Its display matrix, which then turns and mirrors it, in quarter turns.
        """
        height, width = size
        image = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return upright(np.asarray(image, np.uint8), matrix)


def shrunk(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Height and width with the given short side, aspect kept; never larger than they were."""
    height, width = size
    if short_side is None or short_side >= min(height, width):
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def display_matrix(frame: VideoFrame) -> bytes | None:
    """How a frame is to be turned and mirrored, as FFmpeg stores it (`libavutil/display.h`); None for not at all."""
    found = cast(Buffer | None, frame.side_data.get("DISPLAYMATRIX"))
    return None if found is None else bytes(found)


def upright(image: Image, matrix: bytes | None) -> Image:
    """An image turned and mirrored in quarter turns, the nearest to what a display matrix says."""
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # (x, y) is shown at (ax + cy, bx + dy)
    across, down = a, d
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, across, down = image.swapaxes(0, 1), c, b
    return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
