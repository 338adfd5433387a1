"""Very many videos, one after the other: the same as `search` finds, and what lists hold."""

import contextlib
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.commands.listing import check, is_list, names_of, stream
from dynvid.commands.search import search
from dynvid.errors import InputError, MissingFileError
from dynvid.inference import Row

FOLDERS = st.sampled_from(["", "a", "a/b", "c", "c/.hidden", "d"])
FILES = st.sampled_from(
    [
        *("v.mp4", "w.AVI", "f_1.jpg", "f_2.png", "notes.txt", "README", "._v.mp4", "pipe.mkv"),
        *(">gone.mp4", ">gone", ">..", ">v.mp4", ">c"),  # links
    ]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(FOLDERS, FILES), max_size=14), st.booleans())
def test_it_finds_what_search_finds(entries, twice):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve() / "root"
        root.mkdir()
        for folder, entry in entries:
            with contextlib.suppress(OSError):  # of that name there may be a link, to itself too
                (root / folder).mkdir(parents=True, exist_ok=True)
            if not (root / folder).is_dir():
                continue
            path = root / folder / entry.removeprefix(">")
            if entry == ">v.mp4":
                path = root / folder / "link.mp4"
            if os.path.lexists(path) or entry == ">..":
                path = root / folder / "again"
            if os.path.lexists(path):
                continue
            if entry.startswith(">"):
                os.symlink({"gone.mp4": "nowhere", "gone": "nowhere"}.get(entry[1:], entry[1:]), path)
            elif entry == "pipe.mkv":
                os.mkfifo(path)
            else:
                path.write_bytes(b"")
        paths = [str(root), *([str(root / "a")] if twice and (root / "a").exists() else [])]
        found, passed = search(paths)
        ours = Counter()
        streamed = list(stream(paths, ours))
        said = {(each.path, each.error) if isinstance(each, Row) else (each, "") for each in streamed}
        # Which of two links to one folder is met first is the file system's affair.
        if not any(path.is_symlink() and path.is_dir() for path in root.rglob("*")):
            assert said == {(str(each.path), each.error) for each in found}
            assert +ours == passed
        real = {(os.path.realpath(path), error.partition(": ")[2]) for path, error in said}
        assert real == {(os.path.realpath(each.path), each.error.partition(": ")[2]) for each in found}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"x.mp4\n\n /y z.mp4\r\n# no comment\ns3://b/k,1.mp4", ["x.mp4", " /y z.mp4", "# no comment", "s3://b/k,1.mp4"]),
        ("a.TXT", b"\xef\xbb\xbfx.mp4\ncaf\xe9.mp4\n", ["x.mp4", os.fsdecode(b"caf\xe9.mp4")]),
        ("a.csv", b"label, Path ,n\r\nswim,x.mp4,1\r\n\r\nrun,\"y,\nz.mp4\",2\r\n", ["x.mp4", "y,\nz.mp4"]),
        ("b.csv", b"x.mp4,swim\ny.mp4,run\n", ["x.mp4", "y.mp4"]),
        ("empty.txt", b"", []),
    ],
)  # fmt: skip
def test_lists(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert list(stream([str(tmp_path / name)], Counter())) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"path,n\nx.mp4,1\n,2\n", "line 3: has no path"), (b'path\n"x.mp4', "line 2: no CSV")],
)
def test_a_list_that_is_none_is_said(tmp_path, content, said):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        list(stream([str(tmp_path / "a.csv")], Counter()))


def test_a_list_is_told_by_its_ending(tmp_path):
    (tmp_path / "frames.txt").mkdir()
    assert not is_list(str(tmp_path / "frames.txt"))
    assert is_list("b.csv")
    assert not is_list("b.mp4")
    (tmp_path / "a.txt").write_text("x\n")
    before = names_of([str(tmp_path / "a.txt"), "v.mp4"])
    (tmp_path / "a.txt").write_text("x\ny\n")
    assert names_of(["v.mp4", str(tmp_path / "a.txt")]) != before
    assert names_of([str(tmp_path / "a.txt"), os.path.abspath("v.mp4")]).keys() == before.keys()


def test_what_is_missing_is_said_first(tmp_path):
    check([str(tmp_path), "s3://bucket/a.mp4"])
    with pytest.raises(MissingFileError, match="gone: no such file or folder"):
        check([str(tmp_path), "gone"])


def test_an_address_is_handed_on_and_an_empty_folder_is_a_row(tmp_path):
    found = list(stream(["s3://bucket/a b.mp4", str(tmp_path)], Counter()))
    assert found == ["s3://bucket/a b.mp4", Row(str(tmp_path), error=f"{tmp_path}: holds no video and no frames")]
