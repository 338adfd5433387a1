"""HMDB-51 (Kuehne et al., 2011): 6,766 clips, 51 actions, three official splits of 3,570 and 1,530."""

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.files import place, read_lines
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable


class HMDB51DataModule(VideoDataModule):
    """HMDB-51: the unpacked videos and the official lists.

    Videos are found by their names anywhere below `root`: the .avi files, re-encoded ones or folders of frames.
    There is no official validation list: some of train is kept back, by the film that clips were cut from.

    Args:
        root: Folder of the videos, or one above it.
        annotations: Folder of `<class>_test_splitN.txt`; absolute or from `root`.
        split: Which of the three official splits.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path = "testTrainMulti_7030_splits",
        split: Literal[1, 2, 3] = 1,
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
        self.annotations = self.root / annotations
        self.split = split

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, sorted: the files give no other order.

        Raises:
            FileNotFoundError: There are no lists.
        """
        ending = f"_test_split{self.split}.txt"
        names = sorted(file.name.removesuffix(ending) for file in self.annotations.glob(f"*{ending}"))
        if not names:
            raise MissingFileError(
                f"{printable(self.annotations)}: no *{ending}; unpack test_train_splits.rar and set `annotations` to it"
            )
        return names

    def listed(self, split: Split) -> list[Video]:
        """The videos of the official lists, class by class."""
        if split == "val":
            return []
        mark = "1" if split == "train" else "2"  # 0: in neither
        videos = []
        for label, name in enumerate(self.class_names):
            file = self.annotations / f"{name}_test_split{self.split}.txt"
            for number, line in read_lines(file, "unpack it again"):
                *video, part = line.rsplit(maxsplit=1)
                if part not in ("0", "1", "2") or not video:
                    raise InputError(f"{place(file, number)}: does not end in 0, 1 or 2")
                if part == mark:
                    stem = PurePosixPath(video[0]).stem
                    videos.append(Video(stem, label, source(stem, name)))
        return videos


def source(stem: str, class_name: str) -> str:
    """The film that a clip was cut from: its name less class, five tags and number.

    >>> source("(HQ)_Rock_Climbing_-_Free_Solo_climb_f_cm_np1_le_med_2", "climb")
    '(HQ)_Rock_Climbing_-_Free_Solo'
    """
    return stem.rsplit("_", 6)[0].removesuffix(f"_{class_name}")
