"""Kinetics-400, -600 and -700 (Kay et al., 2017; Carreira et al., 2018 and 2019): ten seconds of YouTube videos."""

from functools import cache, cached_property
from pathlib import Path
from sys import intern
from typing import Literal

from dynvid.data.address import Place
from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.files import place, quoted, read_rows, short
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable

# As the authors, CVDF and mmaction2 call them. Results are reported on the validation list, so test means that.
_FILES = {"train": ("train.csv", "*_train.csv"), "test": ("validate.csv", "val.csv", "*_val.csv")}
_HINT = "set `annotations` to the official files' folder"


class KineticsDataModule(VideoDataModule):
    """Kinetics with 400, 600 or 700 classes: videos and the official CSV files.

    Videos are found by their names (`<youtube id>_<start>_<end>`, seconds in six digits) anywhere below `root`,
    be it sorted into splits and classes or flat; files of any format or folders of frames. Videos vanish from
    YouTube, so some may be missing. As in the literature, the official validation list is the test split; some
    of train is kept back to validate and calibrate on.

    Args:
        root: Folder of the videos, or one above it.
        annotations: Folder of `train.csv` and `validate.csv`; absolute or from `root`.
        max_missing: Share of the listed videos that may be missing, in [0, 1].
        val_fraction: Share of the training videos to validate on.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path = "annotations",
        max_missing: float = 0.2,
        val_fraction: float = 0.04,
        *,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        hflip: bool = True,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        exclude: str | Path | None = None,
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

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, sorted: the official order."""
        return sorted({label for _, label, *_ in self._once(_rows, self._file("train", "test"))})

    def listed(self, split: Split) -> list[Video]:
        """The videos of an official file, in its order."""
        if split == "val":
            return []
        file = self._file(split)
        label_of = {name: label for label, name in enumerate(self.class_names)}
        seconds = cache(lambda text: f"{int(float(text)):06d}")  # few differ
        videos = []
        for number, label, name, start, end in self._once(_rows, file):
            if label not in label_of:
                raise InputError(f"{place(file, number)}: class {quoted(label)} is not among the training videos")
            try:
                video = f"{name}_{seconds(start)}_{seconds(end)}"
            except (ValueError, OverflowError) as error:
                raise InputError(f"{place(file, number)}: a time is no number ({short(str(error))})") from error
            videos.append(Video(video, label_of[label], name))
        return videos

    def _file(self, *splits: str) -> Place:
        """The annotation file of the first of the splits that has one, under one of its usual names."""
        for split in splits:
            files = {file for pattern in _FILES[split] for file in self.annotations.glob(pattern)}
            found = sorted(files, key=lambda file: file.name)
            if len(found) > 1:
                both = " and ".join(printable(file.name) for file in found)
                raise InputError(f"{printable(self.annotations)}: holds {both}; leave one")
            if found:
                return found[0]
        names = " or ".join(pattern for split in splits for pattern in _FILES[split])
        raise MissingFileError(f"{printable(self.annotations)}: holds no {names}; {_HINT}")


def _rows(file: Place) -> list[tuple[int, str, str, str, str]]:
    """Rows of an annotation file: line, class, id, start and end; texts that many of them share are held once."""
    rows = []
    for number, row in read_rows(file, ("label", "youtube_id", "time_start", "time_end"), _HINT):
        label, name = row["label"], row["youtube_id"]
        if not (label and name):
            raise InputError(f"{place(file, number)}: label or youtube_id is empty")
        rows.append((number, intern(label), name, intern(row["time_start"]), intern(row["time_end"])))
    return rows
