"""Something-Something (Goyal et al., 2017): 174 templates of things done to things; 108,499 and 220,847 videos."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from dynvid.data.address import Place, place_at
from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.files import check_names, place, quoted, read_json, read_lines, whole_number
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable

_AGAIN = "download it again"
_HINT = "unpack the labels of the download and set `annotations` to their folder"


class SomethingSomethingV1DataModule(VideoDataModule):
    """Something-Something v1 as it ships: a folder of JPEG frames per video, CSV files of `id;label`.

    Videos are found by their ids at `root/20bn-something-something-v1/<id>/00001.jpg` or anywhere below `root`.
    As in the literature, the official validation list is the test split, since the test labels are not public;
    some of train is kept back to validate and calibrate on. Nothing is mirrored: labels know left from right.

    Args:
        root: Folder of the videos, or the one above `20bn-something-something-v1`.
        annotations: Folder of `something-something-v1-labels.csv` and its siblings; absolute or from `root`.
        val_fraction: Share of the training videos to validate on.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path = "labels",
        val_fraction: float = 0.05,
        *,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        max_missing: float = 0.0,
        exclude: str | Path | None = None,
        seed: int = 0,
        test_clips: int = 1,
        test_crops: Literal[1, 3] = 1,
        sampling: Sampling = "center",
        balanced: bool = False,
        background: str | None = None,
    ) -> None:
        super().__init__(
            str(_inside(root, "v1")),
            num_frames=num_frames,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            hflip=False,
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
        self.annotations = place_at(root) / annotations

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the official file (mmaction2's too; TSM sorts them)."""
        file = self.annotations / "something-something-v1-labels.csv"
        return check_names(file, read_lines(file, _HINT))

    def listed(self, split: Split) -> list[Video]:
        """The videos of an official list, in its order."""
        if split == "val":
            return []
        part = "validation" if split == "test" else "train"
        return read_ids(self.annotations / f"something-something-v1-{part}.csv", self.class_names)


class SomethingSomethingV2DataModule(VideoDataModule):
    """Something-Something v2 as it ships: a WebM file per video, JSON lists.

    Videos are found by their ids at `root/20bn-something-something-v2/<id>.webm` or anywhere below `root`,
    re-encoded ones and folders of frames too. The test split is the official validation list, which most results
    are reported on, or the official test list; some of train is kept back to validate and calibrate on. Nothing
    is mirrored: labels know left from right.

    Args:
        root: Folder of the videos, or the one above `20bn-something-something-v2`.
        annotations: Folder of `something-something-v2-labels.json` and its siblings, also without that prefix;
            absolute or from `root`.
        test_list: The official list to test on: validation, or test by `test-answers.csv`.
        val_fraction: Share of the training videos to validate on.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path = "labels",
        test_list: Literal["validation", "test"] = "validation",
        val_fraction: float = 0.05,
        *,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        max_missing: float = 0.0,
        exclude: str | Path | None = None,
        seed: int = 0,
        test_clips: int = 1,
        test_crops: Literal[1, 3] = 1,
        sampling: Sampling = "center",
        balanced: bool = False,
        background: str | None = None,
    ) -> None:
        super().__init__(
            str(_inside(root, "v2")),
            num_frames=num_frames,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            hflip=False,
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
        self.annotations = place_at(root) / annotations
        self.test_list = test_list

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, by the indices of labels.json."""
        file = self._file("labels.json")
        content = read_json(file, _AGAIN)
        if not isinstance(content, dict):
            raise InputError(f"{printable(file)}: not an object of names and numbers; {_AGAIN}")
        name_of: dict[int, str] = {}
        for name, index in content.items():
            number = whole_number(str(index))
            if number is None or number in name_of:
                raise InputError(f"{printable(file)}: class {quoted(name)} has no number of its own; {_AGAIN}")
            name_of[number] = name
        if not name_of:
            raise InputError(f"{printable(file)}: names no class; {_AGAIN}")
        return [name for _, name in sorted(name_of.items())]

    def listed(self, split: Split) -> list[Video]:
        """The videos of an official list, in its order."""
        if split == "val":
            return []
        if split == "test" and self.test_list == "test":
            return read_ids(self._file("test-answers.csv"), self.class_names)
        file = self._file("validation.json" if split == "test" else "train.json")
        label_of = {name: label for label, name in enumerate(self.class_names)}
        rows, videos = read_json(file, _AGAIN), []
        if not isinstance(rows, list):
            raise InputError(f"{printable(file)}: not a list of videos; {_AGAIN}")
        for number, row in enumerate(rows, 1):
            video, template = (row.get("id"), row.get("template")) if isinstance(row, dict) else (None, None)
            if not isinstance(video, str) or not isinstance(template, str):
                raise InputError(
                    f"{printable(file)}, video {number} of the list: no `id` and `template` in text; {_HINT}"
                )
            name = template.replace("[", "").replace("]", "")
            if name not in label_of:
                raise InputError(
                    f"{printable(file)}, video {printable(video[:80])}: class {quoted(name)} is not in the labels"
                )
            videos.append(Video(video, label_of[name]))
        return videos

    def _file(self, name: str) -> Place:
        names = [self.annotations / f"something-something-v2-{name}", self.annotations / name]
        if file := next((file for file in names if file.exists()), None):
            return file
        raise MissingFileError(f"{printable(names[0])} does not exist: {_HINT}")


def read_ids(file: Place, class_names: list[str]) -> list[Video]:
    """Videos of a file with lines of `id;label`.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: A line names another class.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    videos = []
    for number, line in read_lines(file, _HINT):
        name, _, label = line.partition(";")
        if label not in label_of:
            raise InputError(f"{place(file, number)}: class {quoted(label)} is not in the labels")
        videos.append(Video(name, label_of[label]))
    return videos


def _inside(root: str | Path, version: str) -> Place:
    """The folder that the download unpacks to, if it is there: ids of the two versions are alike."""
    folder = place_at(root) / f"20bn-something-something-{version}"
    return folder if folder.is_dir() else place_at(root)
