"""Your own videos: what lies in folders by split and class, or is listed in a CSV file, and what is left out of it."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple, get_args

from dynvid.data.dataset import Split
from dynvid.data.files import place, read_rows, short
from dynvid.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dynvid.data.walk import by_kind, entries_once
from dynvid.errors import InputError
from dynvid.text import printable

# What people call the splits, in any case.
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["val", "valid", "validate", "validation"], "val"),
    **dict.fromkeys(["test", "testing"], "test"),
}


class Entry(NamedTuple):
    """One video of your own."""

    path: str
    label: str
    split: Split
    group: str = ""


def read_folders(root: Path) -> tuple[list[Entry], Counter[str]]:
    """Videos in `root/<split>/<class>/`, at any depth.

    Args:
        root: Folder with a folder `train`, and `val` and `test` where there are such; `Train`, `validation` and the
            like are understood.

    Returns:
        The videos by split, then by path, and how much was passed over, by kind.

    Raises:
        ValueError: A class has no video, a split two folders, or `root` is no folder.
    """
    if not root.is_dir():
        raise InputError(f"{printable(root)}: is no folder; a CSV file goes into `annotations`")
    folder_of: dict[Split, Path] = {}
    passed: Counter[str] = Counter()
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        split = _SPLITS.get(folder.name.lower())
        if split is None:
            passed[f"folder {printable(folder.name)}"] += 1
        elif split in folder_of:
            both = f"{folder_of[split].name} and {folder.name}"
            raise InputError(f"{printable(root)}: holds {both}, which both mean {split}; leave one")
        else:
            folder_of[split] = folder
    entries = []
    for split in get_args(Split):
        if split in folder_of:
            for path in sorted(folder_of[split].iterdir()):
                if path.name.startswith("."):
                    passed["hidden"] += 1
                elif path.is_dir():
                    entries += [Entry(str(video), path.name, split) for video in _videos(path, passed)]
                else:
                    passed[f"{_ending(path)} outside a class"] += 1
    return entries, +passed  # less what was not there


def read_csv(file: Path) -> tuple[list[Entry], Counter[str]]:
    """Videos of a CSV file with the columns `path,label,split` and optionally `group`; paths count from its folder.

    Args:
        file: The CSV file.

    Returns:
        The videos in their order, and how many were left out, by their split.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: A column or a cell is missing.
    """
    entries, unused = [], Counter[str]()
    for number, row in read_rows(file, ("path", "label", "split"), "set `annotations` to your CSV"):
        path, label, split = (row[name].strip() for name in ("path", "label", "split"))
        if not (path and label):
            raise InputError(f"{place(file, number)}: path or label is empty")
        if not split:
            raise InputError(f"{place(file, number)}: split is empty; it is train, val or test")
        if known := _SPLITS.get(split.lower()):
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


def _videos(folder: Path, passed: Counter[str]) -> list[Path]:
    """Videos of a class at any depth, sorted by path: files with a known ending, and folders of frames."""
    videos: list[Path] = []
    endings: Counter[str] = Counter()
    folders, seen = [folder], set[tuple[int, int]]()
    while folders:
        current = folders.pop()
        entries = entries_once(current, seen)
        if entries is None:  # a link that leads back
            continue
        inside = by_kind(entries)
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
    return sorted(videos)


def _ending(path: Path) -> str:
    return printable(path.suffix.lower()) or "without ending"
