"""What a data set is made of, and what makes its results untrue: content or recordings in two splits, one class."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dynvid.data.dataset import Split, Video, classes_of
from dynvid.data.files import write_csv
from dynvid.data.members import size_of, source_of
from dynvid.data.video import is_frame
from dynvid.errors import DynvidError
from dynvid.multilabel import SEPARATOR, names_of
from dynvid.text import printable, printable_label

Sets = Mapping[Split, Sequence[Video]]
_ROWS = 30  # classes of the table


def class_table(sets: Sets, class_names: Sequence[str]) -> Table:
    """Videos by class and split, with the sums and the number of recordings.

    Args:
        sets: The videos of each split.
        class_names: Their classes, in the order of the labels. Of a long list the largest and the smallest are shown.
    """
    table = Table("class", *sets, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    counts = Counter(
        (split, label) for split, videos in sets.items() for video in videos for label in classes_of(video)
    )
    labels = list(range(len(class_names)))
    if len(labels) > _ROWS:
        labels.sort(key=lambda label: sum(counts[split, label] for split in sets), reverse=True)
    for place, label in enumerate(labels):
        if len(labels) > _ROWS and place == _ROWS // 2:
            table.add_row(f"... {len(labels) - _ROWS} more ...")
        if len(labels) <= _ROWS or not _ROWS // 2 <= place < len(labels) - _ROWS // 2:
            table.add_row(Text(printable(class_names[label])), *(str(counts[split, label]) for split in sets))
    if any(label == -1 for _, label in counts):
        table.add_row(printable_label(""), *(str(counts[split, -1]) for split in sets))
    table.add_section()
    table.add_row(f"{len(labels)} in all", *(str(len(videos)) for videos in sets.values()))
    recordings = [len({video.group for video in videos} - {""}) for videos in sets.values()]
    if any(recordings):
        table.add_row("recordings", *map(str, recordings))
    return table


def findings(sets: Sets, class_names: Sequence[str], folder: Path) -> list[str]:
    """What is wrong with a data set though each of its videos can be read, a line each.

    Args:
        sets: The videos of each split.
        class_names: Their classes, in the order of the labels.
        folder: Where all that is of one content is listed, in `duplicates.csv`.
    """
    lines = []
    if len(class_names) == 1 and not _are_sets(sets):
        lines.append(f"one class only ({printable(class_names[0])}): there is nothing to tell apart")
    splits_of: dict[str, list[Split]] = defaultdict(list)
    for split, videos in sets.items():
        for recording in {video.group for video in videos} - {""}:
            splits_of[recording].append(split)
    spread = sorted(recording for recording, splits in splits_of.items() if len(splits) > 1)
    if spread:
        some = ", ".join(f"{printable(recording)} ({', '.join(splits_of[recording])})" for recording in spread[:3])
        lines.append(f"{len(spread)} recordings are in two splits: {some}{', ...' if len(spread) > 3 else ''}")
    groups = same_content(sets)
    twice = [group for group in groups if len({split for split, _ in group}) > 1]
    torn = [group for group in groups if len({video.label for _, video in group}) > 1]
    listing = folder / "duplicates.csv"
    if twice:
        (split, video), (other, copy) = _differing(twice[0], [split for split, _ in twice[0]])
        pair = f"{printable(video.path)} ({split}) and {printable(copy.path)} ({other})"
        lines.append(f"{len(twice)} videos are in two splits, such as {pair}; see {printable(listing)}")
    if torn:
        (_, video), (_, copy) = _differing(torn[0], [video.label for _, video in torn[0]])
        first, second = (printable_label(_text(video, class_names)) for video in (video, copy))
        pair = f"{printable(video.path)} ({first}) and {printable(copy.path)} ({second})"
        line = f"{len(torn)} videos have two labels, such as {pair}; see {printable(listing)}"
        on_disk = os.path.exists(video.path) and os.path.exists(copy.path)  # in a store there are no links
        if on_disk and os.path.samefile(video.path, copy.path) and not _are_sets(sets):
            line += "; these are one file: data.multi_label true takes it for a video of both classes"
        lines.append(line)
    if twice or torn:
        rows = [
            (number, split, _text(video, class_names), video.path)
            for number, group in enumerate(groups, 1)
            for split, video in group
        ]
        write_csv(listing, [("content", "split", "label", "path"), *rows])
    else:
        listing.unlink(missing_ok=True)  # of an earlier check
    return lines


def doubts(sets: Sets, num_classes: int) -> list[str]:
    """What the paths alone tell to be wrong with a data set, a line each; `dynvid check` compares contents too."""
    lines = []
    if num_classes == 1 and not _are_sets(sets):
        lines.append("one class only: there is nothing to tell apart")
    seen, again = set[str](), set[str]()
    for videos in sets.values():
        for video in videos:
            (again if video.path in seen else seen).add(video.path)
    splits_of: dict[str, Counter[Split]] = defaultdict(Counter)
    for split, videos in sets.items():
        for video in videos if again else ():
            if video.path in again:
                splits_of[video.path][split] += 1
    torn = [path for path, splits in splits_of.items() if len(splits) > 1]
    twice = [path for path, splits in splits_of.items() if max(splits.values()) > 1]
    if torn:
        splits = " and ".join(splits_of[torn[0]])
        lines.append(f"{len(torn)} videos are in two splits, such as {printable(torn[0])} in {splits}")
    if twice:
        lines.append(f"{len(twice)} videos are listed twice in one split, such as {printable(twice[0])}")
    return lines


def few_recordings(videos: Sequence[Video], class_names: Sequence[str], folds: int) -> str | None:
    """Which classes have fewer recordings than there are folds, in a line; None where all have enough."""
    recordings_of = {(label, video.group or video.path) for video in videos for label in classes_of(video)}
    counts = Counter(label for label, _ in recordings_of)
    few = sorted((counts[label], label) for label in range(len(class_names)) if counts[label] < folds)
    if not few:
        return None
    count, label = few[0]
    what = f"{len(few)} of {len(class_names)} classes have fewer recordings than there are folds"
    untaught = "; whoever answers the only one has not seen its class" if count == 1 else ""
    return f"{what} ({folds}), such as {printable(class_names[label])} with {count}{untaught}"


def same_content(sets: Sets) -> list[list[tuple[Split, Video]]]:
    """Videos of equal bytes that are in several splits or have several labels.

    Sizes are compared first, so that few files are read; what cannot be read is left out.

    Args:
        sets: The videos of each split.
    """
    by_size: dict[int, list[tuple[Split, Video]]] = defaultdict(list)
    for split, videos in sets.items():
        for video in videos:
            by_size[sum(map(size_of, _files(video.path)))].append((split, video))
    by_content: dict[tuple[int, bytes], list[tuple[Split, Video]]] = defaultdict(list)
    for size, alike in by_size.items():
        if size and _differ(alike):
            digest_of = {path: _digest(path) for path in {video.path for _, video in alike}}
            for split, video in alike:
                if digest := digest_of[video.path]:
                    by_content[size, digest].append((split, video))
    return [group for group in by_content.values() if _differ(group)]


def _are_sets(sets: Sets) -> bool:
    """Whether labels are sets, of which a single class may be there or not."""
    return any(isinstance(video.label, tuple) for videos in sets.values() for video in videos[:1])


def _text(video: Video, class_names: Sequence[str]) -> str:
    return SEPARATOR.join(names_of(video.label, class_names))


def _differ(group: Sequence[tuple[Split, Video]]) -> bool:
    return len({(split, video.label) for split, video in group}) > 1


def _differing(group: Sequence[tuple[Split, Video]], by: Sequence[object]) -> tuple[tuple[Split, Video], ...]:
    """The first of a group, and the first that differs from it."""
    return group[0], next(item for item, value in zip(group, by, strict=True) if value != by[0])


def _files(path: str) -> list[str]:
    """The file of a video, or the frames of a folder in the order of their names."""
    try:
        return sorted(str(file) for file in Path(path).iterdir() if is_frame(file)) if os.path.isdir(path) else [path]
    except OSError:
        return []


def _digest(path: str) -> bytes | None:
    """A hash of all bytes of a video; None where they cannot be read."""
    whole = blake2b()
    try:
        for name in _files(path):
            source: Any = source_of(name)
            with open(source, "rb") if isinstance(source, str) else source as file:
                whole.update(file_digest(file, blake2b).digest())
    except (OSError, DynvidError):
        return None
    return whole.digest()
