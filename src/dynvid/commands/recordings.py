"""Which recordings clips were cut from, by what a regular expression finds in their paths."""

from collections.abc import Sequence

from dynvid.data.files import find_groups


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
    return find_groups(group, paths, "--group")
