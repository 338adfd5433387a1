"""UCF-101 (Soomro et al., 2012): 13,320 clips, 101 actions, three official splits."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from dynvid.data.datamodule import Split, VideoDataModule, carve, check_files
from dynvid.data.dataset import OnError, Video

_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")


class UCF101DataModule(VideoDataModule):
    """UCF-101 as it unpacks: videos and the official lists.

    Videos lie at `root/<class>/v_<class>_gNN_cNN.avi` or below `root/UCF-101/`; re-encoded .mp4, .mkv and
    .webm files are found too. There is no official validation list: some of train is kept back, by group.

    Args:
        root: Folder of the videos, or the one above `UCF-101`.
        annotations: Folder of `classInd.txt`, `trainlistNN.txt`, `testlistNN.txt`; absolute or from `root`.
        split: Which of the three official splits.
        num_frames: Frames per video.
        size: Height and width of the frames, in pixels.
        batch_size: Videos per batch.
        num_workers: Decoding processes per loader; None takes one per CPU, up to 8.
        hflip: Mirror training clips at random.
        on_error: "raise" stops at a video that is missing or cannot be read, "skip" leaves it out and warns.
        val_fraction: Share of the training groups to validate on.
        seed: Seed of that choice.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path = "ucfTrainTestlist",
        split: Literal[1, 2, 3] = 1,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        hflip: bool = True,
        on_error: OnError = "raise",
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            num_frames,
            size,
            batch_size,
            num_workers,
            hflip,
            on_error,
            val_fraction=val_fraction,
            seed=seed,
        )
        self.annotations = self.root / annotations
        self.split = split

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of classInd.txt."""
        return read_classes(self.annotations)

    def videos(self, split: Split) -> list[Video]:
        """The videos of a split, in the order of the official list."""
        videos = read_list(self.annotations, "test" if split == "test" else "train", self.split)
        if split != "test":
            videos = carve(videos, self.val_fraction, self.seed)[split == "val"]
        folder = self.root / "UCF-101" if (self.root / "UCF-101").is_dir() else self.root
        videos = [replace(video, path=_find(folder / video.path)) for video in videos]
        if self.on_error == "raise":
            check_files(videos)
        return videos


def read_classes(annotations: Path) -> list[str]:
    """Class names of `classInd.txt` ("1 ApplyEyeMakeup"), in order.

    Args:
        annotations: Folder of the official lists.

    Raises:
        FileNotFoundError: It is not there.
    """
    return [line.split()[1] for _, line in _lines(annotations / "classInd.txt")]


def read_list(annotations: Path, part: Literal["train", "test"], split: int) -> list[Video]:
    """Videos of an official list, with paths as listed (`<class>/v_<class>_gNN_cNN.avi`).

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
    for number, line in _lines(file):
        path = PurePosixPath(line.split()[0])
        if path.parent.name not in label_of:
            raise ValueError(f"{file}, line {number}: class {path.parent.name!r} is not in classInd.txt")
        # v_Lunges_g08_c01 is a clip of the recording Lunges_g08.
        group = path.stem.removeprefix("v_").rsplit("_c", 1)[0]
        videos.append(Video(str(path), label_of[path.parent.name], group))
    return videos


def _lines(file: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not blank; the official files mix line ends and trailing blanks."""
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist: unpack UCF101TrainTestSplits and set `annotations` to it")
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _find(path: Path) -> str:
    """The listed file, or a re-encoded one in its place."""
    candidates = (path.with_suffix(suffix) for suffix in _SUFFIXES)
    return str(next((file for file in candidates if file.exists()), path))
