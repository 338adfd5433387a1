"""List files as TSM and mmaction2 write them."""

import os
import re
from collections.abc import Collection
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Literal

from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.files import check_names, find_paths, names_in, place, read_lines, whole_number
from dynvid.data.sampling import Sampling
from dynvid.data.video import VIDEO_SUFFIXES, FrameFolder
from dynvid.errors import InputError, VideoError
from dynvid.text import printable


class VideoListDataModule(VideoDataModule):
    """Videos in list files as TSM and mmaction2 write them, of any data set.

    A line is `<path> <label>` for a video file, `<path> <number of frames> <label>` for a folder of frames; labels
    count from 0. Folders that hold another number of frames are told in one line. Paths count from `root`; absolute
    ones are taken as they are.

    Args:
        root: Folder from which the paths count.
        train_list: List of the training videos, absolute or from `root`; likewise those below.
        test_list: List of the test videos.
        classes: File with the name of one class per line, in the order of the labels.
        val_list: List of the validation videos; None keeps some of train back.
        group: Regular expression; what it finds in a path names the recording, so that clips of one recording
            stay together when validation videos are kept back. For UCF-101, `v_.*_g[0-9]+`.
    """

    def __init__(
        self,
        root: str | Path,
        train_list: str | Path,
        test_list: str | Path,
        classes: str | Path,
        val_list: str | Path | None = None,
        group: str | None = None,
        *,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        hflip: bool = True,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        max_missing: float = 0.0,
        exclude: str | Path | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        test_clips: int = 1,
        test_crops: Literal[1, 3] = 1,
        sampling: Sampling = "center",
        balanced: bool = False,
        background: str | None = None,
    ) -> None:
        super().__init__(
            root,
            num_frames=num_frames,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            hflip=hflip,
            mixup=mixup,
            on_error=on_error,
            max_missing=max_missing,
            exclude=exclude,
            val_fraction=val_fraction,
            seed=seed,
            test_clips=test_clips,
            test_crops=test_crops,
            sampling=sampling,
            balanced=balanced,
            background=background,
        )
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.classes = self.root / classes
        try:
            re.compile(group or "")
        except re.error as error:
            raise InputError(f"group={group!r}: is no regular expression ({error})") from error
        self.group = group
        self._frames: dict[str, int] = {}  # that the lists say

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their file."""
        return check_names(self.classes, read_lines(self.classes, "set `classes` to the file of class names"))

    def listed(self, split: Split) -> list[Video]:
        """The videos of a list, in its order."""
        name = self.lists[split]
        if name is None:
            return []
        file, videos = self.root / name, []
        for number, line in read_lines(file, f"set `{split}_list` to where it is"):
            path, label = split_line(line)
            if not 0 <= label < self.num_classes:
                raise InputError(f"{place(file, number)}: no label from 0 to {self.num_classes - 1}")
            match = re.search(self.group, path) if self.group else None
            videos.append(Video(str(self.root / path), label, match[0] if match else ""))
            if len(numbers := line[len(path) :].split()) == 2:
                self._frames[videos[-1].path] = int(numbers[0])
        return videos

    def videos(self, split: Split) -> list[Video]:
        """The videos of a split; says in one line where folders hold another number of frames than their list."""
        videos = super().videos(split)
        wrong = [
            f"{printable(video.path)} holds {found}, not {self._frames[video.path]}"
            for video in videos
            if video.path in self._frames and os.path.isdir(video.path)
            if (found := _frames_in(video.path)) != self._frames[video.path]
        ]
        if wrong:
            self._say(f"{split}: {len(wrong)} folders hold another number of frames than their list says: {wrong[0]}")
        return videos

    def find(self, paths: Collection[str]) -> dict[str, str]:
        """Where listed videos are: exactly there."""
        return find_paths(paths, partial(self._once, names_in))


def _frames_in(folder: str) -> int:
    try:
        return len(FrameFolder(folder))
    except VideoError:  # nothing that counts as a frame
        return 0


def split_line(line: str) -> tuple[str, int]:
    """Path and label of a line; the label is -1 where there is none.

    >>> split_line("air drumming/a b.mp4 1"), split_line("v1/100218 42 7"), split_line("a.mp4")
    (('air drumming/a b.mp4', 1), ('v1/100218', 7), ('a.mp4', -1))
    """
    path, _, label = line.rpartition(" ")
    if (number := whole_number(label)) is None:
        return line, -1
    folder, _, frames = path.strip().rpartition(" ")
    if folder and whole_number(frames) is not None and PurePosixPath(path).suffix.lower() not in VIDEO_SUFFIXES:
        path = folder
    return path.strip(), number
