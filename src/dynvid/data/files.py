"""Listed videos on disk, and the lists themselves."""

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Literal

from dynvid.data.address import Address, Place, entries_at, place_at
from dynvid.data.store import is_uri
from dynvid.data.video import VIDEO_SUFFIXES
from dynvid.data.walk import entries_once, is_folder
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable
from dynvid.whole import write_whole


def find_names(folder: Place, names: Collection[str]) -> dict[str, str]:
    """Find videos by name: the first of the places that `find_all` gives."""
    return {name: places[0] for name, places in find_all(folder, names).items()}


def find_all(folder: Place, names: Collection[str]) -> dict[str, list[str]]:
    """Find videos by name, however they are sorted into folders and whatever they were encoded to.

    Every folder is listed once, however many links lead to it.

    Args:
        folder: Where to look, at any depth. Hidden folders and the frames of frame folders are passed over; in object
            storage there are no frame folders.
        names: Names of video files without their ending, or of frame folders; best a set.

    Returns:
        `{name: paths}` of those that are there, the least nested first, then by path.
    """
    found: dict[str, list[str]] = defaultdict(list)
    folders, seen = [str(folder)], set[tuple[int, int]]()
    for current in folders:  # grows on the way: breadth first
        for entry in entries_once(current, seen) or ():
            stem, dot, ending = entry.name.rpartition(".")
            if stem in names and stem.strip(".") and (dot + ending).lower() in VIDEO_SUFFIXES:
                found[stem].append(entry.path)
            elif is_folder(entry):
                if entry.name in names and not is_uri(entry.path):
                    found[entry.name].append(entry.path)
                elif not entry.name.startswith("."):
                    folders.append(entry.path)
    return dict(found)


def find_paths(paths: Collection[str], list_names: Callable[[str], Set[str]] | None = None) -> dict[str, str]:
    """Find videos by their exact paths, listing each of their folders once.

    Args:
        paths: Video files or frame folders.
        list_names: Lists a folder, `names_in` by default.

    Returns:
        `{path: path}` of those that are there.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[_folder_of(path)].append(path)
    found: dict[str, str] = {}
    for folder, inside in by_folder.items():
        names = (list_names or names_in)(folder or ".")
        found |= {path: path for path in inside if _name_of(path) in names}
    return found


def _folder_of(path: str) -> str:
    return str(Address(path).parent) if is_uri(path) else os.path.dirname(path)


def _name_of(path: str) -> str:
    return Address(path).name if is_uri(path) else os.path.basename(path)


def find_groups(pattern: str, paths: Sequence[str], option: str) -> list[str]:
    r"""The recordings that clips were cut from, by what a regular expression finds in their paths.

    Args:
        pattern: Its first group is the name, where it has one; else all that it finds.
        paths: Of the clips.
        option: What errors call the pattern.

    Raises:
        InputError: It is no regular expression, or finds nothing in a path.

    >>> find_groups(r"tape\d+", ["run/tape1_a.mp4", "run/tape1_b.mp4"], "group")
    ['tape1', 'tape1']
    """
    try:
        found = [re.search(pattern, path) for path in paths]
    except re.error as error:
        raise InputError(f"{option} {printable(pattern)}: no regular expression ({error})") from error
    for path, match in zip(paths, found, strict=True):
        if match is None or not match.group(bool(match.lastindex)):
            raise InputError(f"{option} {printable(pattern)}: finds nothing in {printable(path)}")
    return [match.group(bool(match.lastindex)) for match in found if match]


def names_in(folder: str) -> Set[str]:
    """What lies in a folder, which need not be there; in object storage, the files."""
    if is_uri(folder):
        return {entry.name for entry in entries_at(folder) if not entry.is_dir()}
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()


def whole_path(path: str) -> str:
    """A path by which a video is known wherever one stands: absolute, or an address as it is."""
    return path if is_uri(path) else os.path.abspath(path)


def read_text(file: Place, hint: str, errors: Literal["strict", "surrogateescape"] = "strict") -> str:
    """The text of an annotation file, line ends as they are.

    Args:
        file: A file in UTF-8.
        hint: What to do where it is missing.
        errors: What to do with bytes that are no UTF-8.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is no file that can be read, in another encoding, or no text.
    """
    try:
        there, regular = file.exists(), file.is_file()
        content = file.read_bytes() if regular else b""  # a pipe would keep us waiting
    except OSError as error:
        raise InputError(f"{printable(file)}: cannot be read ({error.strerror})") from error
    if not there:
        raise MissingFileError(f"{printable(file)} does not exist: {hint}")
    if not regular:
        raise InputError(f"{printable(file)}: is no file; {hint}")
    try:
        text = content.decode("utf-8-sig", errors)  # -sig: spreadsheets add a mark
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{place(file, line)}: not UTF-8; save the file in that encoding") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{place(file, line)}: a NUL byte, so no text; the file is damaged, get it again")
    return text


def read_lines(file: Place, hint: str) -> list[tuple[int, str]]:
    """Numbered lines of a list file, less the blank ones: official files mix line ends and trailing blanks.

    Arguments and errors are those of `read_text`.
    """
    # Not splitlines: it also breaks at characters that titles may hold.
    lines = enumerate(re.split("\r\n|\n|\r", read_text(file, hint)), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_rows(file: Place, columns: Collection[str], hint: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows of a CSV file with a header, less the blank ones; arguments and errors are those of `parse_rows`.

    Raises:
        FileNotFoundError: It is missing.
    """
    return parse_rows(read_text(file, hint), file, columns, hint)


def parse_rows(
    text: str, file: Place, columns: Collection[str], hint: str, exact: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of the text of a CSV file, one after the other, by column and with the line that each ends in.

    Names of columns count in any case and with blanks around them; a cell that a row lacks is empty.

    Args:
        text: What is in the file.
        file: What errors call it.
        columns: Those that it must have, in lower case.
        hint: What to do where one is missing.
        exact: Blanks in front of a cell belong to it, as in files that dynvid itself writes.

    Raises:
        ValueError: A column is missing or there twice, a row has more cells than the header, or it is no CSV.
    """
    # Strict, since an open quote would swallow the rows behind it.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=not exact, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not "".join(cells).strip():
                continue
            if header is None:
                header = _header(cells, file, reader.line_num, columns, hint)
                blank = [""] * len(header)
            elif len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise InputError(
                    f"{place(file, reader.line_num)}: {len(cells)} cells under {len(header)} names of columns; "
                    "a cell with a comma goes in double quotes"
                )
            else:
                yield (
                    reader.line_num,
                    dict(zip(header, cells if len(cells) >= len(header) else cells + blank, strict=False)),
                )
    except csv.Error as error:
        raise InputError(f"{place(file, reader.line_num)}: no CSV ({error})") from error
    if header is None:
        _header([], file, 1, columns, hint)


def _header(cells: Sequence[str], file: Place, line: int, columns: Collection[str], hint: str) -> list[str]:
    """The names of the columns, in lower case.

    Raises:
        ValueError: A column is missing, or there twice.
    """
    header = [name.strip().lower() for name in cells]
    if missing := set(columns) - set(header):
        found = f"found {printable(', '.join(map(short, header[:20])))}; " if header else ""
        raise InputError(f"{place(file, line)}: no column {', '.join(sorted(missing))}; {found}{hint}")
    if twice := [name for name in columns if header.count(name) > 1]:
        raise InputError(f"{place(file, line)}: column {twice[0]} is there twice; leave one")
    return header


def read_json(file: Place, hint: str) -> Any:
    """The content of a JSON file.

    Args:
        file: A file in UTF-8.
        hint: What to do where it is missing or no JSON.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is no JSON.
    """
    text = read_text(file, hint)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{place(file, error.lineno)}: not JSON ({error.msg}); {hint}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets as deep
        raise InputError(f"{printable(file)}: JSON that cannot be read ({error}); {hint}") from error


def read_excluded(file: str | Path) -> set[str]:
    """Absolute paths in the `path` column of a CSV file.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It has no such column.
    """
    listing, hint = place_at(file), "`exclude` takes a file with the columns path,reason"
    rows = parse_rows(read_text(listing, hint, "surrogateescape"), listing, ["path"], hint, exact=True)
    return {whole_path(row["path"]) for _, row in rows}


def check_names(file: Place, numbered: Iterable[tuple[int, str]]) -> list[str]:
    """The class names of a list, which must be there and differ.

    Raises:
        ValueError: There is none, or one is there twice.
    """
    names: dict[str, int] = {}
    for number, name in numbered:
        if name in names:
            raise InputError(f"{place(file, number)}: class {quoted(name)} is in line {names[name]} already")
        names[name] = number
    if not names:
        raise InputError(f"{printable(file)}: names no class")
    return list(names)


def write_missing(names: Sequence[str], folder: str | Path, split: str) -> Path:
    """Write names of missing videos to `folder/missing_<split>.txt`, one per line."""
    file = Path(folder) / f"missing_{split}.txt"
    write_whole(file, "".join(f"{printable(name)}\n" for name in names).encode())
    return file


def write_csv(file: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file whole, whatever bytes the names in it are made of."""
    write_whole(file, "".join(map(csv_line, rows)).encode(errors="surrogateescape"))


def csv_line(cells: Iterable[object]) -> str:
    """A row of a CSV file that `parse_rows` reads as it was, whatever the names in it hold.

    >>> csv_line(["a, b.mp4", 3])
    '"a, b.mp4",3\\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # quotes what holds either of the two
    return text.getvalue().removesuffix("\r\n") + "\n"


def place(file: Place, line: int) -> str:
    """How errors call a line of a file."""
    return f"{printable(file)}, line {line}"


def quoted(text: str) -> str:
    """A piece of a list in quotes, for an error: no longer than a line."""
    return repr(short(text))


def whole_number(text: str) -> int | None:
    """The number that a text says in digits alone; None for others, and for those that no list needs.

    >>> whole_number("042"), whole_number("-1"), whole_number("9" * 5000)
    (42, None, None)
    """
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def short(text: str) -> str:
    """A piece of a list, no longer than a line."""
    return text if len(text) <= 80 else f"{text[:80]}..."
