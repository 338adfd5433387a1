"""Read chosen frames of a video, exactly and cheaply."""

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from dynvid.data.members import source_of
from dynvid.data.reading.access import ParkedAccess, RandomAccess, SequentialAccess, access_to
from dynvid.data.reading.container import check_size, demux
from dynvid.data.reading.converter import Converter, Image, display_matrix, shrunk
from dynvid.data.reading.decoder import Decoder
from dynvid.data.reading.disk import UnlistedError
from dynvid.data.reading.folder import FrameFolder
from dynvid.data.reading.reader import Clip, FrameReader
from dynvid.data.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_frame
from dynvid.errors import DamagedVideoError, VideoError

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Clip",
    "FrameFolder",
    "VideoReader",
    "is_frame",
    "is_video",
    "open_video",
    "verified_video",
]

_CHUNK = 32  # frames of a folder held in memory at a time


class VideoReader(FrameReader):
    """The frames of one video file, as a sequence that is read by index.

    The file is demuxed once and closed; the compressed packets stay in memory (the size of the video track on
    disk, a few MB for a clip). A path to a file of more than 128 MB stays open instead, and its packets are read when
    they are decoded; do not open it before a fork and read it after. `read` then decodes as little as the asked frames
    need, and gives the very pixels that decoding the whole file gives; `clip` is for frames that are asked for bit by
    bit, and decodes nothing twice. Where packets do not tell the frames, the file is decoded whole at
    opening to count them, and they are kept up to 256 MB; of DivX and Xvid files (UCF-101, HMDB-51) only odd ones.

    Frames are upright: turned and mirrored as the file's display matrix says, in quarter turns. Where the picture size
    changes on the way they are scaled to that of the first one. Pixels are given as they are stored, also where the
    file says that they are not square. Several threads may share a reader; they take turns.

    What is damaged is never handed out knowingly: where the file or FFmpeg's decoder flags a packet or a frame that is
    wanted, or that is decoded on the way to one, that is an error, and so is a frame that does not come. In files that
    are decoded whole, that is so for the group of pictures around what is flagged, such as the end of the first part of
    transport streams that were joined as bytes. Damage that neither notices, since the codec carries no check sums,
    passes.

    Args:
        source: A path, the bytes of a file, or a binary file object that can seek.
        name: What errors call the video; by default its path.

    Attributes:
        name: What errors call the video.
        timestamps: Seconds since the first frame, float64 `(frames,)`; evenly spaced by `fps` in DivX and Xvid files,
            and where a file states no times.
        fps: Average frame rate that the file states, in frames per second.
        key_frames: Indices of the frames that can be decoded alone.

    Raises:
        VideoError: The file cannot be opened, has no video stream, or no frame of it can be decoded; it is no regular
            file, refers to other files, or is larger than the limits of `dynvid.data.reading.container`.
    """

    timestamps: NDArray[np.float64]
    fps: float

    def __init__(self, source: str | Path | bytes | BinaryIO, name: str | None = None) -> None:
        self._source = source if isinstance(source, str | Path) else b""  # others are not read again
        track = demux(source, name)
        try:
            self._access = access_to(track)
        except UnlistedError:
            track = demux(source, name, trust_tables=False)
            self._access = access_to(track)
        self.name, self.fps = track.name, track.fps
        self._converter, self._lock = Converter(), threading.Lock()
        self.timestamps, self.key_frames = self._access.timestamps, self._access.key_frames

    def __len__(self) -> int:
        return len(self.timestamps)

    def keep_only(self, indices: Iterable[int]) -> None:
        """See `FrameReader`."""
        with self._lock:
            if isinstance(self._access, SequentialAccess):
                self._access.keep_only(set(indices))

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.timestamps[-1]) + 1 / self.fps

    @property
    def decode_costs(self) -> NDArray[np.int64]:
        """See `FrameReader`."""
        return self._access.decode_costs

    def _images(self, wanted: set[int], short_side: int | None) -> dict[int, Image]:
        """Decode the wanted frames and convert them; threads take turns."""
        with self._lock:
            return self._retried(lambda: self._in_turn(self._access.frames, wanted, short_side))

    def _retried(self, images: Callable[[], dict[int, Image]]) -> dict[int, Image]:
        """What a function gives, if need be after the file was read through: its tables may not tell the truth."""
        try:
            return images()
        except UnlistedError:
            access = access_to(demux(self._source, self.name, trust_tables=False))
            if not np.array_equal(access.timestamps, self.timestamps):
                raise VideoError(f"{self.name}: its tables list other frames than it holds; remux it") from None
            self._access = access
            return images()

    def clip(self, indices: Iterable[int] | Tensor, short_side: int | None = None) -> Clip:
        """See `FrameReader.clip`."""
        if not isinstance(self._access, RandomAccess):
            return super().clip(indices, short_side)
        return _ParkedClip(self, self._checked(indices), short_side)

    def _in_turn(
        self,
        frames: Callable[[Collection[int]], Iterator[tuple[int, VideoFrame]]],
        wanted: set[int],
        short_side: int | None,
    ) -> dict[int, Image]:
        images: dict[int, Image] = {}
        early: list[tuple[int, VideoFrame]] = []  # decoded before the size of the first frame was known
        cause = "the decoder gave nothing"
        try:
            for index, frame in frames(wanted):
                if self._access.first_size:
                    images[index] = self._to_rgb(frame, self._access.first_size, short_side)
                else:
                    early.append((index, frame))
            for index, frame in early:
                images[index] = self._to_rgb(frame, self._size_of_first(), short_side)
        except (av.FFmpegError, ValueError) as error:  # ValueError: a pixel format that cannot be converted
            cause = str(getattr(error, "strerror", error))
        if lost := wanted - images.keys():
            raise DamagedVideoError(f"{self.name}: frame {min(lost)} could not be decoded ({cause})")
        return images

    def _size_of_first(self) -> tuple[int, int]:
        if not self._access.first_size and not list(self._access.frames({0})):
            raise DamagedVideoError(f"{self.name}: frame 0, which gives the size of all, could not be decoded")
        assert self._access.first_size
        return self._access.first_size

    def _to_rgb(self, frame: VideoFrame, size: tuple[int, int], short_side: int | None) -> Image:
        check_size(*size, self.name)
        matrix = display_matrix(frame) or self._access.decoder.stated_matrix
        return self._converter.to_rgb(frame, shrunk(size, short_side), matrix)


class _ParkedClip(Clip):
    """A clip of a video file whose packets tell its frames."""

    def __init__(self, reader: VideoReader, indices: list[int], short_side: int | None) -> None:
        super().__init__(reader, indices, short_side)
        self._video = reader
        self._parked: ParkedAccess | None = None

    def _images(self, wanted: set[int], later: set[int]) -> dict[int, Image]:
        with self._video._lock:
            return self._video._retried(partial(self._in_turn, wanted, later))

    def _in_turn(self, wanted: set[int], later: set[int]) -> dict[int, Image]:
        access = self._video._access
        before = access.decoder.packets_fed
        try:
            if not isinstance(access, RandomAccess):
                return self._video._in_turn(access.frames, wanted, self._short_side)
            if self._parked is None or self._parked.access is not access:
                self._parked = access.parked(self.indices)
            return self._video._in_turn(partial(self._parked.frames, later=later), wanted, self._short_side)
        finally:
            self.packets_fed += access.decoder.packets_fed - before


def open_video(path: str | Path) -> VideoReader | FrameFolder:
    """Open a video file, or a folder of frames.

    Args:
        path: The file or folder; a folder with one video file, and perhaps its thumbnail, is that video.

    Returns:
        A reader with `len()`, `read`, `timestamps`, `fps`, `duration`, `height`, `width` and `key_frames`.

    Raises:
        VideoError: It cannot be opened, or is a folder of several videos.
    """
    path = video_in(path)
    return FrameFolder(path) if os.path.isdir(path) else VideoReader(path)


def open_listed(path: str) -> VideoReader | FrameFolder:
    """Open a video that a data module lists: as `open_video`, or by its address, or within a shard.

    Raises:
        VideoError: It cannot be opened, or is a folder of several videos.
    """
    source = source_of(path)
    return open_video(source) if isinstance(source, str) else VideoReader(source, path)


def verified_video(path: str | Path) -> VideoReader | FrameFolder:
    """Open a video and decode all of it once, taking for an error whatever FFmpeg can take for one.

    Beyond what reading refuses, this finds what FFmpeg conceals without a flag, such as references to pictures that are
    gone, and AVI files that were cut short. `dynvid check` does it.

    Raises:
        VideoError: It cannot be opened.
        DamagedVideoError: Something in it does not decode as it should.
    """
    path = str(path)
    if isinstance(source_of(path), str):
        path = str(video_in(path))
    if os.path.isdir(path):
        folder = FrameFolder(path)
        for start in range(0, len(folder), _CHUNK):
            folder.read(range(start, min(start + _CHUNK, len(folder))), short_side=16)
        return folder
    reader, track = VideoReader(source_of(path), path), demux(source_of(path), path, trust_tables=False)
    if track.is_cut:
        raise DamagedVideoError(f"{path}: the file ends before the size that it states")
    decoder, times = Decoder(track, strict=True), set()
    try:
        for frame, _, flagged in decoder.decode_all():
            times.add(frame.pts)
            if flagged:
                raise DamagedVideoError(f"{path}: damaged near frame {len(times) - 1}")
    except av.FFmpegError as error:
        raise DamagedVideoError(f"{path}: damaged near frame {len(times)} ({error.strerror})") from error
    if decoder.is_flagged(0, decoder.num_packets):
        raise DamagedVideoError(f"{path}: damaged near frame {len(times)}")
    if isinstance(reader._access, RandomAccess) and (lost := reader._access.lost(times)):
        raise DamagedVideoError(f"{path}: frame {lost[0]} could not be decoded (the decoder gave nothing)")
    return reader


def video_in(path: str | Path) -> str | Path:
    """The only video file in a folder, if it holds one; else the path itself."""
    if not os.path.isdir(path):
        return path
    try:
        videos = [file for file in Path(path).iterdir() if _is_video_file(file)]
    except OSError as error:
        raise VideoError(f"{path}: cannot open ({error.strerror})") from error
    if len(videos) > 1:
        raise VideoError(f"{path}: a folder of {len(videos)} videos; name one of them")
    return videos[0] if videos else path


def is_video(path: Path) -> bool:
    """Whether a path looks like a video: a file with a known ending, or a folder that holds frames and no video.

    >>> is_video(Path("swim.AVI")), is_video(Path("labels.csv")), is_video(Path("._swim.avi"))
    (True, False, False)
    """
    if path.name.startswith("."):
        return False
    if not path.is_dir():
        return _is_video_file(path)
    inside = list(path.iterdir())
    return any(map(is_frame, inside)) and not any(map(_is_video_file, inside))


def _is_video_file(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
