"""What came of a video, and sums over many."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from dynvid.text import printable

_MOST_KINDS = 50  # of errors that are counted one by one


class Row(NamedTuple):
    """What came of one video: a label, or an error.

    Attributes:
        path: As it was given, made absolute.
        label: Name of the class.
        probability: Of that class.
        frames: Of the exit taken.
        depth: Of the exit taken.
        gmacs: Spent.
        saved: Share of full inference's GMACs not spent.
        milliseconds: Until the answer.
        error: Why there is none.
        answered: Whether the label is an answer, or only the best guess.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    frames: int | None = None
    depth: int | None = None
    gmacs: float | None = None
    saved: float | None = None
    milliseconds: float | None = None
    error: str | None = None
    answered: bool | None = None


@dataclass
class Totals:
    """Sums over rows.

    Attributes:
        videos: How many there are, unreadable ones included.
        gmacs: Spent on all.
        saved: Sum over the labelled videos of the share that each saved.
        errors: How many could not be read, by kind.
    """

    videos: int = 0
    gmacs: float = 0.0
    saved: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def unreadable(self) -> int:
        """How many could not be read."""
        return self.errors.total()

    @property
    def share_saved(self) -> float:
        """Share of full inference's GMACs that was not spent on the labelled videos; 0 where there are none."""
        labelled = self.videos - self.unreadable
        return self.saved / labelled if labelled else 0.0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.videos += 1
        self.gmacs += row.gmacs or 0.0
        self.saved += row.saved or 0.0
        if row.error is not None:
            kind = kind_of(row)
            self.errors[kind if kind in self.errors or len(self.errors) < _MOST_KINDS else "other"] += 1

    def include(self, other: "Totals") -> None:
        """Add the sums over other rows."""
        self.videos += other.videos
        self.gmacs += other.gmacs
        self.saved += other.saved
        self.errors.update(other.errors)


def kind_of(row: Row) -> str:
    """An error without what is particular to its video.

    >>> kind_of(Row("/a/b.mp4", error="/a/b.mp4: frame 17 could not be decoded (Invalid data)"))
    'frame N could not be decoded'
    """
    said = row.error or ""
    for name in (row.path, printable(row.path)):
        said = said.removeprefix(f"{name}: ")
    return printable(re.sub(r"\d+", "N", said.partition(" (")[0]))[:80]
