"""Read chosen frames of a video, exactly and cheaply."""

import os
import threading
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from dynvid.data.reading.container import check_size, demux
from dynvid.data.reading.converter import Converter, Image, display_matrix, shrunk
from dynvid.data.reading.decoder import Decoder
from dynvid.data.reading.folder import IMAGE_SUFFIXES, FrameFolder, checked_indices, is_frame, stacked
from dynvid.data.reading.index import Index, Run, count, index_of
from dynvid.errors import DamagedVideoError, VideoError

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "FrameFolder",
    "VideoReader",
    "is_frame",
    "is_video",
    "open_video",
    "verified_video",
]

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
        *(".webm", ".wmv"),
    }
)
"""Lower-case file endings that count as a video."""

_CHUNK = 32  # frames of a folder held in memory at a time


class VideoReader:
    """The frames of one video file, as a sequence that is read by index.

    The file is demuxed once and closed; the compressed packets stay in memory (the size of the video track on
    disk, a few MB for a clip). `read` then decodes as little as the asked frames need, and gives the very
    pixels that decoding the whole file gives. Where packets do not tell the frames, the file is decoded whole at
    opening to count them, and they are kept up to 256 MB; of DivX and Xvid files (UCF-101, HMDB-51) only odd ones.

    Frames are upright: turned and mirrored as the file's display matrix says, in quarter turns. Where the picture size
    changes on the way they are scaled to that of the first one. Pixels are given as they are stored, also where the
    file says that they are not square. Several threads may share a reader; they take turns.

    What is damaged is never handed out knowingly: where the file or FFmpeg's decoder flags a packet or a frame that is
    wanted, or that is decoded on the way to one, that is an error, and so is a frame that does not come. Damage that
    neither notices, since the codec carries no check sums, passes.

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

    name: str
    timestamps: NDArray[np.float64]
    fps: float
    key_frames: list[int]

    def __init__(self, source: str | Path | bytes | BinaryIO, name: str | None = None) -> None:
        track = demux(source, name)
        self.name, self.fps = track.name, track.fps
        self._decoder, self._converter, self._lock = Decoder(track), Converter(), threading.Lock()
        self._first_size: tuple[int, int] | None = None  # as stored; later frames are scaled to it
        self._index = self._tried(index_of(track))
        self._count = None if self._index else count(self._decoder.decode_all(), track)
        frames = self._index or self._count
        assert frames is not None
        self.timestamps, self.key_frames = frames.timestamps, frames.key_frames

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.timestamps[-1]) + 1 / self.fps

    @property
    def height(self) -> int:
        """Rows of a frame as shown, that is, after rotation."""
        return self._shown_size[0]

    @property
    def width(self) -> int:
        """Columns of a frame as shown, that is, after rotation."""
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
            VideoError: A frame cannot be decoded, or is damaged. Nothing is ever put in its place.
        """
        indices = checked_indices(indices, len(self), self.name)
        if not indices:
            return self.read([0], short_side)[:0]
        with self._lock:
            images = self._images(set(indices), short_side)
        return stacked([images[i] for i in indices], self.name)

    @cached_property
    def _shown_size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width

    def check_complete(self, times: Collection[int | None]) -> None:
        """Raise DamagedVideoError where decoding the whole file gave no frame at a time that the index knows."""
        if self._index:
            lost = [i for i, packet in enumerate(self._index.order) if self._index.times[packet] not in times]
            if lost:
                raise DamagedVideoError(f"{self.name}: frame {lost[0]} could not be decoded (the decoder gave nothing)")

    def _images(self, wanted: set[int], short_side: int | None) -> dict[int, Image]:
        """Decode the wanted frames and convert them."""
        images: dict[int, Image] = {}
        early: list[tuple[int, VideoFrame]] = []  # decoded before the size of the first frame was known
        cause = "the decoder gave nothing"
        try:
            for index, frame in self._frames(wanted):
                if self._first_size:
                    images[index] = self._to_rgb(frame, self._first_size, short_side)
                else:
                    early.append((index, frame))
            for index, frame in early:
                size = self._first_size or self._size_of_first()
                images[index] = self._to_rgb(frame, size, short_side)
        except (av.FFmpegError, ValueError) as error:  # ValueError: a pixel format that cannot be converted
            cause = str(getattr(error, "strerror", error))
        if lost := wanted - images.keys():
            raise DamagedVideoError(f"{self.name}: frame {min(lost)} could not be decoded ({cause})")
        return images

    def _size_of_first(self) -> tuple[int, int]:
        for _, first in self._frames({0}):
            self._first_size = first.height, first.width
            return self._first_size
        raise DamagedVideoError(f"{self.name}: frame 0, which gives the size of all, could not be decoded")

    def _to_rgb(self, frame: VideoFrame, size: tuple[int, int], short_side: int | None) -> Image:
        check_size(*size, self.name)
        matrix = display_matrix(frame) or self._decoder.stated_matrix
        return self._converter.to_rgb(frame, shrunk(size, short_side), matrix)

    def _frames(self, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode the wanted frames, each with its index, in no particular order."""
        return self._random(self._index, wanted) if self._index else self._sequential(wanted)

    def _random(self, index: Index, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from the key frame before each of the wanted frames."""
        missing = {index.times[index.order[i]]: i for i in wanted}
        for run in index.runs(wanted):
            frames = self._from_key(index, run)
            yield from ((missing.pop(time), frames[time]) for time in missing.keys() & frames.keys())
        if missing:  # only decoding from the start gives these
            for frame, damaged in self._decoder.decode_all():
                if damaged:
                    raise DamagedVideoError(self._damage(index, frame))
                if frame.pts in missing:
                    yield missing.pop(frame.pts), frame
                if not missing:
                    return

    def _from_key(self, index: Index, run: Run) -> dict[int, VideoFrame]:
        """The targets of a run by their times; none where its key frame needs what comes before it."""
        start, begins = run.start, index.times[run.start]
        wanted = {index.times[i] for i in run.targets}
        found: dict[int, VideoFrame] = {}
        key_frame: VideoFrame | None = None
        refused: VideoFrame | None = None
        for frame, damaged in self._decoder.decode(start, run.targets[-1] + 1, set(run.targets)):
            if frame.pts == begins:
                key_frame = frame
                if self._decoder.is_steady or begins == index.times[index.order[0]]:
                    self._first_size = frame.height, frame.width
            if frame.pts is None or frame.pts >= begins:  # others belong to the group before, and lack it
                refused = frame if damaged and refused is None else refused
                if frame.pts in wanted:
                    found[frame.pts] = frame
        # Streams with gradual refresh mark frames as key frames that need what came before.
        if start and (key_frame is None or key_frame.pict_type != PictureType.I):
            return {}
        if refused is not None:
            raise DamagedVideoError(self._damage(index, refused))
        return found

    def _sequential(self, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode everything up to the last of the wanted frames, if that was not kept."""
        assert self._count is not None
        last = max(wanted)
        if last >= self._count.intact:
            raise DamagedVideoError(f"{self.name}: frame {self._count.intact} is damaged, and what comes after it")
        self._first_size = self._count.size
        for i, frame in enumerate(self._count.kept or (frame for frame, _ in self._decoder.decode_all())):
            if i in wanted:
                yield i, frame
            if i == last:
                return

    def _damage(self, index: Index, frame: VideoFrame) -> str:
        which = next(
            (f"frame {i}" for i, packet in enumerate(index.order) if index.times[packet] == frame.pts), "a frame"
        )
        return f"{self.name}: {which} is damaged, and with it those that need it"

    def _tried(self, index: Index | None) -> Index | None:
        """An index whose first frame decodes; frames that are cut off from their key frame may or may not be shown."""
        if index is None or index.is_sure:
            return index
        try:
            return index if self._from_key(index, Run(0, [index.order[0]])) else None
        except (av.FFmpegError, DamagedVideoError):
            return index


def open_video(path: str | Path) -> VideoReader | FrameFolder:
    """Open a video file, or a folder of frames.

    Args:
        path: The file or folder; a folder with one video file, and perhaps its thumbnail, is that video.

    Returns:
        A reader with `len()`, `read`, `timestamps`, `fps`, `duration`, `height`, `width` and `key_frames`.

    Raises:
        VideoError: It cannot be opened, or is a folder of several videos.
    """
    path = _video_in(path)
    return FrameFolder(path) if os.path.isdir(path) else VideoReader(path)


def verified_video(path: str | Path) -> VideoReader | FrameFolder:
    """Open a video and decode all of it once, taking for an error whatever FFmpeg can take for one.

    Beyond what reading refuses, this finds what FFmpeg conceals without a flag, such as references to pictures that are
    gone, and frames that an AVI file states and no longer holds. `dynvid check` does it.

    Raises:
        VideoError: It cannot be opened.
        DamagedVideoError: Something in it does not decode as it should.
    """
    path = _video_in(path)
    if os.path.isdir(path):
        folder = FrameFolder(path)
        for start in range(0, len(folder), _CHUNK):
            folder.read(range(start, min(start + _CHUNK, len(folder))), short_side=16)
        return folder
    reader, track, times = VideoReader(path), demux(path), set()
    if track.lost:
        raise DamagedVideoError(f"{path}: {track.lost} of the frames that it states are missing")
    try:
        for frame, damaged in Decoder(track, strict=True).decode_all():
            times.add(frame.pts)
            if damaged:
                raise DamagedVideoError(f"{path}: damaged near frame {len(times) - 1}")
    except av.FFmpegError as error:
        raise DamagedVideoError(f"{path}: damaged near frame {len(times)} ({error.strerror})") from error
    reader.check_complete(times)
    return reader


def _video_in(path: str | Path) -> str | Path:
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
