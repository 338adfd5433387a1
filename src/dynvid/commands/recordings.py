"""Which recordings clips were cut from, by what a regular expression finds in their paths."""

import re
from collections.abc import Sequence

from dynvid.errors import InputError
from dynvid.text import printable


def name_recordings(paths: Sequence[str], group: str | None) -> list[str]:
    """What `--group` finds in each path; empty where it is not asked for.

    Raises:
        InputError: It is no regular expression, or finds nothing in a path.
    """
    if group is None:
        print(
            "each file counts as a recording of its own; where clips are cut from recordings, name these with --group"
        )
        return [""] * len(paths)
    try:
        found = [re.search(group, path) for path in paths]
    except re.error as error:
        raise InputError(f"--group {group}: no regular expression ({error})") from error
    for path, match in zip(paths, found, strict=True):
        if match is None:
            raise InputError(f"--group {group}: finds nothing in {printable(path)}")
    return [match.group(1) if match.lastindex else match.group() for match in found if match]
