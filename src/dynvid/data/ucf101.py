"""UCF-101 (Soomro et al., 2012): 13,320 clips, 101 actions, three official splits."""

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from dynvid.data.address import Place
from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.files import check_names, place, quoted, read_lines, whole_number
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError


class UCF101DataModule(VideoDataModule):
    """UCF-101 as it unpacks: videos and the official lists.

    Videos are found by their names (`v_<class>_gNN_cNN`) anywhere below `root`: the .avi files, re-encoded ones
    or folders of frames. There is no official validation list: some of train is kept back, by group.

    Args:
        root: Folder of the videos, or one above it.
        annotations: Folder of `classInd.txt`, `trainlistNN.txt`, `testlistNN.txt`; absolute or from `root`.
        split: Which of the three official splits.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path = "ucfTrainTestlist",
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
        """Names of the classes, in the order of classInd.txt."""
        return read_classes(self.annotations)

    def listed(self, split: Split) -> list[Video]:
        """The videos of an official list, in its order."""
        return [] if split == "val" else read_list(self.annotations, split, self.split)


def read_classes(annotations: Place) -> list[str]:
    """Class names of `classInd.txt` ("1 ApplyEyeMakeup"), in order.

    Args:
        annotations: Folder of the official lists.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: A line is of another form, or a class there twice.
    """
    file, names = annotations / "classInd.txt", []
    for number, line in read_lines(file, _HINT):
        words = line.split()
        if len(words) != 2 or whole_number(words[0]) is None:
            raise InputError(f"{place(file, number)}: not a number and a name, such as '1 ApplyEyeMakeup'")
        names.append((number, words[1]))
    return check_names(file, names)


def read_list(annotations: Place, part: Literal["train", "test"], split: int) -> list[Video]:
    """Videos of an official list, by name (`v_<class>_gNN_cNN`).

    The label comes from the folder name: test lists carry no other.

    Args:
        annotations: Folder of the official lists.
        part: Which of the two lists.
        split: 1, 2 or 3.

    Raises:
        FileNotFoundError: The list is not there.
        ValueError: A line names a class that classInd.txt does not.
    """
    label_of = {name: label for label, name in enumerate(read_classes(annotations))}
    file, videos = annotations / f"{part}list{split:02d}.txt", []
    for number, line in read_lines(file, _HINT):
        path = PurePosixPath(line.split()[0])
        if path.parent.name not in label_of:
            raise InputError(f"{place(file, number)}: class {quoted(path.parent.name)} is not in classInd.txt")
        # v_Lunges_g08_c01 is a clip of the recording Lunges_g08.
        group = path.stem.removeprefix("v_").rsplit("_c", 1)[0]
        videos.append(Video(path.stem, label_of[path.parent.name], group))
    return videos


_HINT = "unpack UCF101TrainTestSplits and set `annotations` to it"
