"""Labelled videos as a map-style dataset, and batches of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from dynvid.data.sampling import Sampling, cheap_indices, clip_indices, segment_indices
from dynvid.data.transforms import Transform
from dynvid.data.video import open_listed
from dynvid.errors import InputError, VideoError
from dynvid.multilabel import Label, multi_hot

OnError = Literal["raise", "skip"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Video:
    """One labelled video.

    Attributes:
        path: A video file, a folder of JPEG or PNG frames, an address, or a clip within a shard (`Member.path`).
        label: Index into the class names; where labels are sets, the sorted tuple of them. -1 where it is unknown.
        group: The recording that the clip was cut from; empty where the clip is its own.
    """

    path: str
    label: Label
    group: str = ""


def classes_of(video: Video) -> tuple[int, ...]:
    """The classes of a video; a set of none is a class by itself, -1.

    >>> classes_of(Video("a.mp4", 3)), classes_of(Video("b.mp4", (0, 2))), classes_of(Video("c.mp4", ()))
    ((3,), (0, 2), (-1,))
    """
    return (video.label if isinstance(video.label, tuple) else (video.label,)) or (-1,)


def count_classes(videos: Iterable[Video]) -> Counter[int]:
    """How many videos have each class; a video of a set counts for each of its classes.

    >>> count_classes([Video("a.mp4", (0, 2)), Video("b.mp4", (2,))])
    Counter({2: 2, 0: 1})
    """
    return Counter(label for video in videos for label in classes_of(video))


def label_of(video: Video, classes: int | None) -> Label | Tensor:
    """A label as batches hold it: where labels are sets of so many classes, int64 (classes,) of 0 and 1.

    >>> label_of(Video("a.mp4", 3), None), label_of(Video("b.mp4", (0, 2)), 4)
    (3, tensor([1, 0, 1, 0]))
    """
    return video.label if classes is None else multi_hot([video.label], classes)[0]


class UnreadVideos(Dataset[dict[str, Any]]):
    """Videos that are not read yet: what reads them decides how far.

    Args:
        videos: The videos.
    """

    def __init__(self, videos: Sequence[Video]) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "path": self.videos[index].path}


class Skipped(NamedTuple):
    """What a dataset gives in place of a video that it could not read."""

    path: str
    reason: str


class VideoDataset(Dataset[dict[str, Any] | Skipped]):
    """`num_frames` frames of each video, one per segment.

    An item is `{"video": uint8 (T, C, H, W), "label": int, "index": int, "path": str}`; with several clips, or
    crops by the transform, the video is `(V, T, C, H, W)`, V = crops x clips. In training all randomness comes
    from torch's default generator, which a loader seeds per worker and per epoch.

    Args:
        videos: What to read.
        num_frames: Frames per video, T.
        transform: Applied to the uint8 `(T, C, H, W)` frames, those of all clips at once.
        train: Draw a random frame of each segment; else take the one that `sampling` says.
        clips: Clips per video, evenly spaced; only in evaluation.
        short_side: Shrink frames to this short side while decoding, in pixels; None keeps them as they are.
        on_error: "raise" lets the `VideoError` of an unreadable video through; "skip" gives a `Skipped` item.
        sampling: Of each segment the frame at its centre ("center", as in TSN), or the one that is cheapest to decode
            ("cheap", see `cheap_indices`); only in evaluation.
        classes: Their number, where labels are sets: an item then has int64 `(classes,)` of 0 and 1 for its label.

    Raises:
        ValueError: There is no such sampling.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        num_frames: int,
        transform: Transform,
        train: bool = False,
        clips: int = 1,
        short_side: int | None = None,
        on_error: OnError = "raise",
        sampling: Sampling = "center",
        classes: int | None = None,
    ) -> None:
        if sampling not in (known := get_args(Sampling)):
            raise InputError(f"sampling={sampling!r}: there is {' and '.join(map(repr, known))}")
        self.videos = videos
        self.num_frames = num_frames
        self.transform = transform
        self.train = train
        self.clips = clips
        self.short_side = short_side
        self.on_error = on_error
        self.sampling = sampling
        self.classes = classes

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any] | Skipped:
        video = self.videos[index]
        try:
            reader = open_listed(video.path)
            if self.train:
                indices = segment_indices(len(reader), self.num_frames, torch.default_generator)
            elif self.sampling == "cheap":  # clip c takes the c-th of the parts into which clips divide a segment
                parts = cheap_indices(reader.decode_costs, self.num_frames * self.clips)
                indices = parts.view(self.num_frames, self.clips).T.flatten()
            else:
                indices = clip_indices(len(reader), self.num_frames, self.clips).flatten()
            frames = self.transform(reader.read(indices, self.short_side))
        except VideoError as error:
            if self.on_error == "raise":
                raise
            return Skipped(video.path, str(error))
        if self.clips > 1 or frames.ndim > 4:
            frames = frames.reshape(-1, self.num_frames, *frames.shape[-3:])
        return {"video": frames, "label": label_of(video, self.classes), "index": index, "path": video.path}


def by_path(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch the items of `UnreadVideos`.

    >>> by_path([{"index": 0, "path": "a.mp4"}, {"index": 1, "path": "b.mp4"}])
    {'path': ['a.mp4', 'b.mp4'], 'index': tensor([0, 1])}
    """
    return {"path": [item["path"] for item in items], "index": torch.tensor([item["index"] for item in items])}


def collate(items: Sequence[dict[str, Any] | Skipped]) -> dict[str, Any]:
    """Batch the items of a `VideoDataset`.

    Args:
        items: Items with videos of one shape.

    Returns:
        A dictionary of `video` uint8 (B, T, C, H, W), `label` int64 (B,), `index` int64 (B,), `path` (list of B str)
        and `skipped` (path to reason), where B counts the videos that could be read. Labels that are sets are
        (B, classes); items of several views give videos of `(B, V, T, C, H, W)`.

    Raises:
        VideoError: No video of the batch could be read.

    >>> video = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    >>> item = {"video": video, "label": 5, "index": 0, "path": "a.mp4"}
    >>> batch = collate([item, Skipped("b.mp4", "b.mp4: cannot open")])
    >>> batch["video"].shape, batch["label"], batch["skipped"]
    (torch.Size([1, 2, 3, 4, 4]), tensor([5]), {'b.mp4': 'b.mp4: cannot open'})
    """
    read = [item for item in items if not isinstance(item, Skipped)]
    skipped = {item.path: item.reason for item in items if isinstance(item, Skipped)}
    if not read:
        raise VideoError(f"no video of this batch could be read: {'; '.join(skipped.values())}")
    batch: dict[str, Any] = default_collate(read)
    return batch | {"skipped": skipped}
