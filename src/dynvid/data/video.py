"""Read chosen frames of a video, exactly and cheaply."""

import io
import operator
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError, Resampling
from PIL.Image import fromarray as from_array
from PIL.Image import open as open_image
from torch import Tensor

from dynvid.data.mpeg4 import sorted_pictures
from dynvid.errors import FrameIndexError, VideoError

VIDEO_SUFFIXES = frozenset({".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
"""Lower-case file endings that count as a video."""

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
"""Lower-case file endings that count as a frame of a frame folder."""

# In these codecs a packet is a frame and carries its time.
_FRAME_PER_PACKET = {"h264", "hevc", "vp9", "libdav1d", "av1"}
# Here "non-reference" is a promise to all later frames; in HEVC only to those of the same temporal layer.
_SKIPPABLE = {"h264", "vp9", "mpeg4"}
# Frames of a clip that had to be decoded to be counted are kept up to this size (raw, in bytes).
_KEEP_BYTES = 256 * 2**20


Image = NDArray[np.uint8]  # RGB (H, W, 3)


class VideoReader:
    """The frames of one video file, as a sequence that is read by index.

    The file is demuxed once and closed; the compressed packets stay in memory (the size of the video track on
    disk, a few MB for a clip). `read` then decodes as little as the asked frames need, and gives the very
    pixels that decoding the whole file gives. Where packets do not tell the frames, the file is decoded whole at
    opening to count them, and they are kept up to 256 MB; of DivX and Xvid files (UCF-101, HMDB-51) only odd ones.

    Args:
        source: A path, the bytes of a file, or a binary file object that can seek.
        name: What errors call the video; by default its path.

    Attributes:
        name: What errors call the video.
        timestamps: Seconds since the first frame, float64 `(frames,)`; evenly spaced by `fps` in files decoded whole
            and in DivX and Xvid files.
        fps: Average frame rate that the file states, in frames per second.
        key_frames: Indices of the frames that can be decoded alone.

    Raises:
        VideoError: The file cannot be opened, has no video stream, or no frame of it can be decoded.
    """

    name: str
    timestamps: NDArray[np.float64]
    fps: float
    key_frames: list[int]

    def __init__(self, source: str | Path | bytes | BinaryIO, name: str | None = None) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        label = source if isinstance(source, str | Path) else getattr(file, "name", "<bytes>")
        self.name = name or str(label)
        try:
            # Real files carry titles in unknown encodings, which must not stop the reading.
            with av.open(file, "r", metadata_errors="replace") as container:
                stream = container.streams.best("video")
                if not isinstance(stream, VideoStream) or stream.codec_context is None:
                    raise VideoError(f"{self.name}: no video stream, or no decoder for it")
                self._decoder: VideoCodecContext = stream.codec_context
                self.fps = float(stream.average_rate or stream.guessed_rate or 25)  # 25: what FFmpeg assumes
                time_base = stream.time_base or Fraction(1)
                self._packets = [packet for packet in container.demux(stream) if packet.size]
                pictures = sorted_pictures(self._packets, stream) if self._decoder.name == "mpeg4" else []
            self._decoder.thread_count = 1  # decoding clips side by side is cheaper, and AUTO can deadlock
            self._decoder.thread_type = "NONE"
            self._decoder.open(strict=False)  # before skip_frame is touched: some decoders read it only here
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self.name}: cannot open ({error.strerror or error})") from error
        self._converter = VideoReformatter()  # frame.reformat() would set up a new one for each frame
        self._kept: list[VideoFrame] = []
        self._pts = [packet.pts for packet in self._packets if packet.pts is not None]
        self._order = self._presentation_order()
        if pictures:
            self._packets, time_base = pictures, 1 / Fraction(self.fps)
            self._pts = [picture.pts for picture in pictures if picture.pts is not None]
            self._order = sorted(range(len(pictures)), key=self._pts.__getitem__)
        if self._order is not None:
            times = np.array([self._pts[i] for i in self._order])
            self.timestamps = (times - times[0]) * float(time_base)
            self.key_frames = [k for k, i in enumerate(self._order) if self._packets[i].is_keyframe]
        else:
            self._count_frames()

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.timestamps[-1]) + 1 / self.fps

    @property
    def height(self) -> int:
        """Rows of a frame as shown, that is, after rotation."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Columns of a frame as shown, that is, after rotation."""
        return self._size[1]

    def read(self, indices: Iterable[int] | Tensor, short_side: int | None = None) -> Tensor:
        """Decode frames.

        Args:
            indices: Frame numbers in `[0, len(self))`, in any order, repeats allowed.
            short_side: Shrink frames to this short side, in pixels, aspect kept; smaller frames stay.

        Returns:
            uint8 RGB `(T, C, H, W)` in the order asked, channels last in memory.

        Raises:
            IndexError: An index is out of range.
            VideoError: A frame cannot be decoded. Nothing is ever put in its place.
        """
        indices = _check_indices(indices, len(self), self.name)
        if not indices:
            return self.read([0], short_side)[:0]
        images: dict[int, Image] = {}
        cause = "the decoder gave nothing"
        try:
            for index, frame in self._frames(set(indices)):
                images[index] = self._to_rgb(frame, short_side)
        except av.FFmpegError as error:
            cause = str(error.strerror)
        if lost := set(indices) - images.keys():
            raise VideoError(f"{self.name}: frame {min(lost)} could not be decoded ({cause})")
        return _stack([images[i] for i in indices], self.name)

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width

    def _presentation_order(self) -> list[int] | None:
        """Packet numbers in the order they are shown; None where the packets do not tell it."""
        shown = [i for i, packet in enumerate(self._packets) if not packet.is_discard]
        if not shown or self._decoder.name not in _FRAME_PER_PACKET or len(self._pts) < len(self._packets):
            return None
        times = {self._pts[i] for i in shown}
        # Frames ahead of the first key frame may or may not decode: only trying tells.
        if len(times) < len(shown) or not self._packets[0].is_keyframe or min(times) < self._pts[0]:
            return None
        order = sorted(shown, key=self._pts.__getitem__)
        # AVI stores no presentation times; those made up for it do not know of reordering.
        return None if self._decoder.has_b_frames and order == shown else order

    def _count_frames(self) -> None:
        """Set the length by decoding everything, and keep the frames if they are small."""
        self.key_frames, count, size = [], 0, 0
        try:
            for frame in self._decode(0, len(self._packets)):
                if frame.key_frame:
                    self.key_frames.append(count)
                count += 1
                size += sum(plane.buffer_size for plane in frame.planes)
                if size <= _KEEP_BYTES:
                    self._kept.append(frame)
                else:
                    self._kept.clear()
        except av.FFmpegError as error:
            raise VideoError(f"{self.name}: frame {count} could not be decoded ({error.strerror})") from error
        if not count:
            raise VideoError(f"{self.name}: no frame could be decoded")
        self.timestamps = np.arange(count) / self.fps

    def _frames(self, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode the wanted frames, each with its index, in no particular order."""
        if self._order is None:
            last = max(wanted)
            for i, frame in enumerate(self._kept or self._decode(0, len(self._packets))):
                if i in wanted:
                    yield i, frame
                if i == last:
                    return
            return
        index_of: dict[int | None, int] = {self._pts[self._order[i]]: i for i in wanted}
        for start, targets in self._runs(self._order[i] for i in wanted):
            times: set[int | None] = {self._pts[i] for i in (start, *targets)}
            decoded = self._decode(start, targets[-1] + 1, set(targets))
            frames = {frame.pts: frame for frame in decoded if frame.pts in times}
            first = frames.get(self._pts[start])
            # Streams with gradual refresh mark frames as key frames that need what came before.
            if start == 0 or (first is not None and first.pict_type == PictureType.I):
                yield from ((index_of.pop(time), frames[time]) for time in index_of.keys() & frames.keys())
        if index_of:  # only decoding from the start gives these
            for frame in self._decode(0, len(self._packets)):
                if frame.pts in index_of:
                    yield index_of.pop(frame.pts), frame
                if not index_of:
                    return

    def _to_rgb(self, frame: VideoFrame, short_side: int | None) -> Image:
        """Convert a decoded frame to uint8 `(H, W, 3)`, shrunk and upright."""
        height, width = _shrink(frame.height, frame.width, short_side)
        image = np.asarray(self._converter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray(), np.uint8)
        return np.rot90(image, round(frame.rotation / 90))  # both count counter-clockwise

    def _runs(self, targets: Iterable[int]) -> list[tuple[int, list[int]]]:
        """Group target packets by the key packet from which to decode them."""
        keys = [i for i, packet in enumerate(self._packets) if packet.is_keyframe]
        runs: list[tuple[int, list[int]]] = []
        for target in sorted(targets):
            group = bisect_right(keys, target) - 1
            if self._pts[target] < self._pts[keys[group]]:
                group -= 1  # shown before its key frame (open group of pictures): needs the group before too
            if runs and keys[group] <= runs[-1][1][-1]:
                runs[-1][1].append(target)  # on the way
            else:
                runs.append((keys[group], [target]))
        return runs

    def _decode(self, start: int, stop: int, targets: Collection[int] = ()) -> Iterator[VideoFrame]:
        """Decode packets `start` to `stop`; given targets, leave out the others that nothing refers to."""
        whole = not targets or self._decoder.name not in _SKIPPABLE
        self._decoder.flush_buffers()
        for i in range(start, stop):
            self._decoder.skip_frame = "DEFAULT" if whole or i in targets else "NONREF"
            yield from self._decoder.decode(self._packets[i])
        yield from self._decoder.decode(None)  # frames that the decoder holds back to reorder


class FrameFolder:
    """A folder of JPEG or PNG frames, read as if it were a video.

    Frames are ordered by the numbers in their names, so `img_2.jpg` comes before `img_10.jpg`. A folder says
    nothing about time: `timestamps`, `fps` and `duration` are None.

    Args:
        path: The folder.

    Raises:
        VideoError: The folder holds no frame.
    """

    timestamps = None
    fps = None
    duration = None

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        files = (file for file in Path(path).iterdir() if is_frame(file))
        self._files = sorted(files, key=lambda file: _natural(file.name))
        if not self._files:
            raise VideoError(f"{self.name}: no JPEG or PNG frame in this folder")
        self.key_frames = list(range(len(self._files)))

    def __len__(self) -> int:
        return len(self._files)

    @property
    def height(self) -> int:
        """Rows of the first frame."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Columns of the first frame."""
        return self._size[1]

    def read(self, indices: Iterable[int] | Tensor, short_side: int | None = None) -> Tensor:
        """Decode frames; arguments, result and errors are those of `VideoReader.read`."""
        indices = _check_indices(indices, len(self), self.name)
        if not indices:
            return self.read([0], short_side)[:0]
        images = {i: self._image(i, short_side) for i in set(indices)}
        return _stack([images[i] for i in indices], self.name)

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width

    def _image(self, index: int, short_side: int | None) -> Image:
        """Decode a frame to uint8 `(H, W, 3)`."""
        try:
            with open_image(self._files[index]) as file:
                if file.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 255
                    image = from_array((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
                else:
                    image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, DecompressionBombError) as error:  # Pillow's words for a bad file
            raise VideoError(f"{self._files[index]}: frame {index} could not be decoded ({error})") from error
        height, width = _shrink(image.height, image.width, short_side)
        return np.array(image.resize((width, height), Resampling.BILINEAR))


def open_video(path: str | Path) -> VideoReader | FrameFolder:
    """Open a video file, or a folder of frames.

    Args:
        path: The file or folder.

    Returns:
        A reader with `len()`, `read`, `timestamps`, `fps`, `duration`, `height`, `width` and `key_frames`.

    Raises:
        VideoError: It cannot be opened.
    """
    return FrameFolder(path) if Path(path).is_dir() else VideoReader(path)


def is_video(path: Path) -> bool:
    """Whether a path looks like a video: a file with a known ending, or a folder that holds frames.

    >>> is_video(Path("swim.AVI")), is_video(Path("labels.csv")), is_video(Path("._swim.avi"))
    (True, False, False)
    """
    if path.name.startswith("."):
        return False
    return any(map(is_frame, path.iterdir())) if path.is_dir() else path.suffix.lower() in VIDEO_SUFFIXES


def is_frame(path: Path) -> bool:
    """Whether a path looks like a frame of a frame folder.

    >>> is_frame(Path("img_00001.jpg")), is_frame(Path("notes.txt"))
    (True, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _check_indices(indices: Iterable[int] | Tensor, length: int, name: str) -> list[int]:
    checked = [operator.index(index) for index in indices]
    for index in checked:
        if not 0 <= index < length:
            raise FrameIndexError(f"{name}: frame {index} is out of range, the video has {length} frames")
    return checked


def _shrink(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Size with the given short side, aspect kept; never larger than the original."""
    if short_side is None or short_side >= min(height, width):
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def _stack(images: list[Image], name: str) -> Tensor:
    """Stack `(H, W, 3)` images to `(T, 3, H, W)`."""
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise VideoError(f"{name}: the frames have different sizes ({sorted(sizes)})")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which numbers count by value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]
