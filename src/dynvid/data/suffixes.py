"""What the names of files say that they are: for what only looks for videos, and loads no decoder."""

from dynvid.data.address import Place

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
"""Lower-case file endings that count as a frame of a frame folder."""

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
        *(".webm", ".wmv"),
    }
)
"""Lower-case file endings that count as a video."""


def is_frame(path: Place) -> bool:
    """Whether a path looks like a frame of a frame folder.

    >>> from pathlib import Path
    >>> is_frame(Path("img_00001.jpg")), is_frame(Path("notes.txt"))
    (True, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
