"""Folders of JPEG or PNG frames, read as if they were a video."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling
from PIL.Image import fromarray as from_array
from PIL.Image import open as open_image
from PIL.ImageOps import exif_transpose

from dynvid.data.reading.container import check_regular, check_size
from dynvid.data.reading.converter import Image, shrunk
from dynvid.data.reading.reader import FrameReader
from dynvid.data.suffixes import IMAGE_SUFFIXES, is_frame
from dynvid.errors import DamagedVideoError, VideoError

__all__ = ["IMAGE_SUFFIXES", "FrameFolder", "is_frame"]

# Optical flow as TSN's tools, mmaction2 and others lay it beside the frames.
_FLOW = re.compile(r"(flow|tvl1|[xyuv](?=[_#.-])|.*[_-](flow|[xyuv])[_#.-])", re.IGNORECASE)


class FrameFolder(FrameReader):
    """A folder of JPEG or PNG frames, read as if it were a video.

    Frames are ordered by the numbers in their names, so `img_2.jpg` comes before `img_10.jpg`. Beside numbered files
    those without a number are no frames, and beside other series those of optical flow (`flow_x_00001.jpg`) are none.
    A folder says nothing about time: `timestamps`, `fps` and `duration` are None. Files are opened as JPEG or PNG
    whatever their names say, and turned upright as their EXIF orientation says.

    Args:
        path: The folder.

    Raises:
        VideoError: The folder cannot be listed, holds no frame, or several series of frames.
    """

    timestamps = None
    fps = None
    duration = None

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            files = [file for file in Path(path).iterdir() if is_frame(file)]
        except OSError as error:
            raise VideoError(f"{self.name}: cannot open ({error.strerror})") from error
        self._files = sorted(_one_series(files, self.name), key=lambda file: _natural(file.name))
        if not self._files:
            raise VideoError(f"{self.name}: no JPEG or PNG frame in this folder")
        self.key_frames = list(range(len(self._files)))

    def __len__(self) -> int:
        return len(self._files)

    @property
    def decode_costs(self) -> NDArray[np.int64]:
        """See `FrameReader`."""
        return np.ones(len(self), np.int64)

    def _images(self, wanted: set[int], short_side: int | None) -> dict[int, Image]:
        return {i: self._image(i, short_side) for i in wanted}

    def _image(self, index: int, short_side: int | None) -> Image:
        """Decode a frame to uint8 `(H, W, 3)`."""
        path = self._files[index]
        check_regular(path, str(path))
        try:
            # Only these two: other formats start programs (EPS), or unpack to any size.
            with open_image(path, formats=("JPEG", "PNG")) as file:
                check_size(file.height, file.width, str(path))
                upright = exif_transpose(file)
                if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 255
                    image = from_array((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
                else:
                    image = upright.convert("RGB")
        except VideoError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever they please on bad files
            raise DamagedVideoError(f"{path}: frame {index} could not be decoded ({error})") from error
        height, width = shrunk((image.height, image.width), short_side)
        return np.array(image.resize((width, height), Resampling.BILINEAR))


def _one_series(files: list[Path], name: str) -> list[Path]:
    """The files whose names differ in their numbers only, if they are the only such series beside optical flow."""
    series: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        pattern = re.sub(r"[0-9]+", "*", file.name.lower())
        series[pattern if "*" in pattern else ""].append(file)
    if len(series) > 1:
        series.pop("", None)
    if len(series) > 1:
        series = {pattern: found for pattern, found in series.items() if not _FLOW.match(pattern)} or series
    if len(series) > 1:
        found = ", ".join(f"{len(files)} {pattern}" for pattern, files in sorted(series.items())[:3])
        raise VideoError(f"{name}: holds several series of frames ({found}); leave one, as one folder is one video")
    return next(iter(series.values()), [])


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which numbers count by value."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]
