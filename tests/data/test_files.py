import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvid.data.files import find_all, find_names, find_paths, read_lines
from dynvid.data.folders import read_folders


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_names_are_found_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "x/y z/b (HQ)!.WEBM", "x/c/00001.jpg", "x/d.txt", ".cache/e.mp4", "f.mp4/f.jpg", "g.part")
    found = find_names(tmp_path, {"a", "b (HQ)!", "c", "d", "e", "g", "00001", "h"})
    assert found == {name: str(tmp_path / path) for name, path in PLACES.items()}


PLACES = {"a": "a.mp4", "b (HQ)!": "x/y z/b (HQ)!.WEBM", "c": "x/c"}


def test_the_same_one_of_several_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.mp4", "b/a.webm", "b/a.mkv", "b/deep/a.avi", "c.webm", "b/c.mp4")
    assert find_names(tmp_path, {"a", "c"}) == {"a": str(tmp_path / "b/a.mkv"), "c": str(tmp_path / "c.webm")}


def test_all_places_of_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.mp4", "c/a.webm", "a.avi", "b.mp4", "frames/b/1.jpg")
    assert find_all(tmp_path, {"a", "b"}) == {
        "a": [str(tmp_path / path) for path in ("a.avi", "c/a.webm", "z/a.mp4")],
        "b": [str(tmp_path / path) for path in ("b.mp4", "frames/b")],
    }


def test_a_linked_folder_is_looked_into(tmp_path: Path) -> None:
    touch(tmp_path, "disk/a.mp4", "root/b.mp4")
    (tmp_path / "root/train").symlink_to(tmp_path / "disk")
    assert set(find_names(tmp_path / "root", {"a", "b"})) == {"a", "b"}


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4")
    (tmp_path / "x/up").symlink_to(tmp_path)
    (tmp_path / "x/here").symlink_to(tmp_path / "x")
    assert find_names(tmp_path, {"a", "b"}) == {"a": str(tmp_path / "x/a.mp4")}


def test_a_link_to_itself_stops_no_search(tmp_path: Path) -> None:
    touch(tmp_path, "train/x/a.mp4")
    for place in ("here", "train/here", "train/x/here", "train/x/b"):
        (tmp_path / place).symlink_to(Path(place).name)
    found = {"a": str(tmp_path / "train/x/a.mp4")}
    assert find_names(tmp_path, {"a", "b"}) == found
    assert [entry.path for entry in read_folders(tmp_path)[0]] == [found["a"]]


def test_another_encoding_says_where(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes("v_a 1\nv_é 2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list.txt, line 2: not UTF-8"):
        read_lines(file, "")


def test_each_folder_is_listed_once_and_frame_folders_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"class {i % 3}/{i}.mp4" for i in range(30)), *(f"frames/f{i}/1.jpg" for i in range(30)))
    listings: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listings.append(path) or scandir(path))
    assert len(find_names(tmp_path, {str(i) for i in range(30)} | {f"f{i}" for i in range(30)})) == 60
    assert len(listings) == len(set(listings)) == 5


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "x/b.mp4", "x/frames/1.jpg")
    monkeypatch.chdir(tmp_path)
    there = {"a.mp4", "x/b.mp4", "x/frames", str(tmp_path / "a.mp4")}
    assert find_paths(there | {"b.mp4", "x/b.avi", "gone/a.mp4", "a.mp4/c.mp4"}) == {path: path for path in there}


names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs")), min_size=1, max_size=8)


@given(
    lines=st.lists(names.map(str.strip).filter(bool), max_size=5),
    end=st.sampled_from(["\n", "\r\n", " \r\n", "\n\n \n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, mark: str) -> None:
    file = tmp_path_factory.getbasetemp() / "list.txt"
    file.write_bytes((mark + end.join([*lines, ""])).encode())
    read = read_lines(file, "")
    assert [line for _, line in read] == lines
    if end == "\r\n":
        assert [number for number, _ in read] == list(range(1, len(lines) + 1))


def test_a_missing_list_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.txt does not exist: download it"):
        read_lines(tmp_path / "a.txt", "download it")
