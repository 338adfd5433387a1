"""Your own videos, in folders by split and class or listed in a CSV file; what is left out of them is counted."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from dynvid.data.address import Address, Place, place_at
from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.files import find_groups, find_paths, names_in, place, quoted, read_rows, short
from dynvid.data.sampling import Sampling
from dynvid.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dynvid.data.walk import by_kind, entries_once
from dynvid.errors import InputError, MissingFileError
from dynvid.multilabel import SEPARATOR
from dynvid.text import printable

SPLITS: dict[str, Split] = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["val", "valid", "validate", "validation"], "val"),
    **dict.fromkeys(["test", "testing"], "test"),
}
"""What people call the splits, in lower case."""


class Entry(NamedTuple):
    """One video of your own."""

    path: str
    label: str
    split: Split
    group: str = ""


class VideoFolderDataModule(VideoDataModule):
    """Your own videos: one folder per split and class, or one CSV file.

    Folders are `root/train/<class>/*`, and the same for `val` and `test`; or `root/<class>/*`, all of it for training.
    Videos lie in a class at any depth, and a folder of JPEG or PNG frames counts as one; sub-folders say nothing about
    recordings. A CSV has a header with the columns `path,label,split` and optionally `group`, the recording; paths
    count from the CSV's own folder, labels are class names. Splits may be spelled `training`, `valid`, `validation`,
    `Test` and so on; rows of others are left out, as is what is no video, and counted in one line. Without val, some of
    train is kept back for it (`carve`). Classes are those of the training videos, sorted by name.

    Args:
        root: Folder that holds the data, or its address in object storage, where folders of frames are passed over.
        annotations: The CSV file, absolute or from `root`; None for folders.
        group: In folders, the regular expression whose find in the path from `root` names the recording of a clip (its
            first group, where it has one), such as `tape\\d+`; by default each video is its own.
        multi_label: A video may have several classes, or none. In a CSV its label holds their names, joined with `;`,
            and is empty for none; in folders one and the same file is in several classes of a split, as a symbolic or
            a hard link. Copies are videos of their own, which `dynvid check` names.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path | None = None,
        *,
        group: str | None = None,
        multi_label: bool = False,
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
        self.annotations = self.root / annotations if annotations is not None else None
        if self.annotations and group is not None:
            raise InputError(f"group={printable(group)}: is for folders; a CSV has the column `group`")
        self.group = group
        self.multi_label = multi_label

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes of the training videos, sorted."""
        return sorted({name for entry in self._entries if entry.split == "train" for name in self._names_in(entry)})

    def listed(self, split: Split) -> list[Video]:
        """The videos of a split as they are in the CSV or the folders."""
        label_of = {name: label for label, name in enumerate(self.class_names)}
        videos = []
        for entry in self._entries:
            names, where = self._names_in(entry), entry.split
            for name in names:
                if name not in label_of:
                    raise InputError(f"{printable(entry.path)}: class {quoted(name)} is in {where} but not in train")
            if where == split:
                labels = tuple(sorted(label_of[name] for name in names))
                videos.append(Video(entry.path, labels if self.multi_label else labels[0], entry.group))
        return videos

    def _names_in(self, entry: Entry) -> list[str]:
        """The names of an entry's classes."""
        if not self.multi_label:
            return [entry.label]
        return entry.label.split(SEPARATOR) if entry.label else []

    def find(self, paths: Collection[str]) -> dict[str, str]:
        """Where listed videos are: exactly there."""
        return find_paths(paths, partial(self._once, names_in))

    @property
    def _to_correct(self) -> str:
        """What to correct where videos are missing: the paths in the CSV, or the folder that they count from."""
        if not self.annotations:
            return super()._to_correct
        folder = printable(self.annotations.parent)
        return f"correct the paths in {printable(self.annotations)}, which count from its own folder ({folder})"

    @cached_property
    def _entries(self) -> list[Entry]:
        source = self.annotations or self.root
        if not source.exists():
            raise MissingFileError(f"{printable(source)} does not exist: set `root` or `annotations` to your data")
        if self.annotations:
            entries, left = read_csv(source, self.multi_label)
            line = f"{printable(source)}: left out {left.total()} rows of other splits: {told(left)}"
        else:
            entries, left = read_folders(source)
            entries = joined(entries) if self.multi_label else entries
            if self.group is not None:
                inside = ["/".join(place_at(entry.path).parts[len(self.root.parts) :]) for entry in entries]
                groups = find_groups(self.group, inside, "group")
                entries = [entry._replace(group=name) for entry, name in zip(entries, groups, strict=True)]
            if not _folders_by_split(source)[0]:
                self._say(f"{printable(source)}: no folder train, val or test, so each folder is a class, for training")
            line = f"{printable(source)}: passed over {left.total()} files and folders: {told(left)}"
        if left:
            self._say(line)
        if not any(entry.split == "train" and entry.label for entry in entries):
            raise InputError(
                f"{printable(source)}: no training videos; expected train/<class>/<video> or <class>/<video>, or a CSV "
                "in `annotations`" + (f"; left out are {told(left)}" if left else "")
            )
        return entries


def read_folders(root: Place) -> tuple[list[Entry], Counter[str]]:
    """Videos in `root/<split>/<class>/`, or in `root/<class>/`, at any depth.

    Args:
        root: Folder with a folder `train`, and `val` and `test` where there are such; `Train`, `validation` and the
            like are understood. Without any of these, all folders are classes, for training.

    Returns:
        The videos by split, then by path, and how much was passed over, by kind.

    Raises:
        ValueError: A class has no video, a split two folders, or `root` is no folder.
    """
    if not root.is_dir():
        raise InputError(f"{printable(root)}: is no folder; a CSV file goes into `annotations`")
    folder_of, passed = _folders_by_split(root)
    if not folder_of:
        folder_of, passed = {"train": root}, Counter()
    entries = []
    for split in get_args(Split):
        if split in folder_of:
            for path in _in_order(folder_of[split].iterdir()):
                if path.name.startswith("."):
                    passed["hidden"] += 1
                elif path.is_dir():
                    entries += [Entry(str(video), path.name, split) for video in _videos(path, passed)]
                else:
                    passed[f"{_ending(path)} outside a class"] += 1
    return entries, +passed  # less what was not there


def _folders_by_split(root: Place) -> tuple[dict[Split, Place], Counter[str]]:
    """The folders of the splits, and what else there is."""
    folder_of: dict[Split, Place] = {}
    passed: Counter[str] = Counter()
    for folder in _in_order(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        split = SPLITS.get(folder.name.lower())
        if split is None:
            passed[f"folder {printable(folder.name)}"] += 1
        elif split in folder_of:
            both = f"{folder_of[split].name} and {folder.name}"
            raise InputError(f"{printable(root)}: holds {both}, which both mean {split}; leave one")
        else:
            folder_of[split] = folder
    return folder_of, passed


def joined(entries: Sequence[Entry]) -> list[Entry]:
    """Entries of folders with those that are one file of a split made one, whose label joins the names of its classes.

    Args:
        entries: In order; the first path of each file stays.

    Raises:
        ValueError: The name of a class holds what names are joined with.
    """
    found: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        if SEPARATOR in entry.label:
            raise InputError(
                f"{printable(entry.path)}: class {quoted(entry.label)} holds {SEPARATOR!r}, which stands between the "
                "names of a set; name the folder otherwise"
            )
        try:
            status = os.stat(entry.path)  # through links
            key: tuple[object, ...] = entry.split, status.st_dev, status.st_ino
        except OSError:  # it leads nowhere, which is said of it as a video
            key = entry.split, entry.path
        before = found.setdefault(key, entry)
        if entry.label not in (names := before.label.split(SEPARATOR)):
            found[key] = before._replace(label=SEPARATOR.join(sorted([*names, entry.label])))
    return list(found.values())


def read_csv(file: Place, multi_label: bool = False) -> tuple[list[Entry], Counter[str]]:
    """Videos of a CSV file with the columns `path,label,split` and optionally `group`; paths count from its folder.

    Args:
        file: The CSV file.
        multi_label: Labels are names joined with `;`, or empty; a video of several names is one row.

    Returns:
        The videos in their order, and how many were left out, by their split.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: A column or a cell is missing, or a label of several names is none.
    """
    entries, unused = [], Counter[str]()
    lines: dict[tuple[str, str], int] = {}
    for number, row in read_rows(file, ("path", "label", "split"), "set `annotations` to your CSV"):
        path, label, split = (row[name].strip() for name in ("path", "label", "split"))
        if not path or not (label or multi_label):
            raise InputError(f"{place(file, number)}: path or label is empty")
        if multi_label and label:
            names = [name.strip() for name in label.split(SEPARATOR)]
            if not all(names) or len(set(names)) < len(names):
                raise InputError(
                    f"{place(file, number)}: label {quoted(label)}: names of classes between {SEPARATOR!r}, each once"
                )
            label = SEPARATOR.join(names)
        if not split:
            raise InputError(f"{place(file, number)}: split is empty; it is train, val or test")
        if known := SPLITS.get(split.lower()):
            if multi_label and (before := lines.setdefault((known, path), number)) != number:
                raise InputError(
                    f"{place(file, number)}: {quoted(path)} is in line {before} already; a video of several classes "
                    f"is one row, whose label joins their names with {SEPARATOR!r}"
                )
            entries.append(Entry(str(file.parent / path), label, known, row.get("group", "").strip()))
        else:
            unused[f"of {printable(short(split))}"] += 1
    return entries, unused


def told(counts: Counter[str]) -> str:
    """Counts by kind in one line, the most first.

    >>> told(Counter({".txt": 3, "hidden": 12}))
    '12 hidden, 3 .txt'
    """
    kinds = [f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return ", ".join(kinds[:8]) + (", ..." if len(kinds) > 8 else "")


def _videos(folder: Place, passed: Counter[str]) -> list[Place]:
    """Videos of a class at any depth, sorted by path: files with a known ending, and folders of frames."""
    videos: list[Place] = []
    endings: Counter[str] = Counter()
    folders, seen = [folder], set[tuple[int, int]]()
    while folders:
        current = folders.pop()
        entries = entries_once(current, seen)
        if entries is None:  # a link that leads back
            continue
        inside = by_kind(entries, place_at)
        if inside.is_video and isinstance(current, Address):
            passed["folders of frames, which are read from a disk only"] += 1
            continue
        if current != folder and inside.is_video:
            videos.append(current)
            passed["inside folders of frames"] += len(inside.folders)
            continue
        passed["hidden"] += len(inside.hidden)
        passed["empty"] += not entries
        endings.update(map(_ending, inside.frames + inside.others))
        videos += inside.videos
        folders += inside.folders
    if not videos:
        found = ", ".join(sorted(endings)[:8]) or "nothing"
        own = "the frames of a video go into a folder of their own"
        hint = own if endings.keys() & IMAGE_SUFFIXES else f"endings of videos are {', '.join(sorted(VIDEO_SUFFIXES))}"
        raise InputError(f"{printable(folder)}: no video; found {found}; {hint}")
    passed += endings
    return _in_order(videos)


def _in_order(places: Iterable[Place]) -> list[Place]:
    return sorted(places, key=lambda place: place.parts)


def _ending(path: Place) -> str:
    return printable(path.suffix.lower()) or "without ending"
