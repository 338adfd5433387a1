from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynvid.data import Video, VideoListDataModule
from dynvid.data.lists import split_line

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}
LISTS = {"train_list": "train.txt", "test_list": "val.txt", "classes": "classes.txt"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Training videos as mmaction2 lists them, test videos as TSM does."""
    root = tmp_path_factory.mktemp("lists")
    (root / "classes.txt").write_text("air drumming\nyoga\n")
    train, test = [], []
    for i in range(8):
        path = f"air drumming/v_a_g{i // 2:02d}_c{i % 2:02d}.mp4"
        write_video(root / path, frames=4)
        train.append(f"{path} {i // 4}")
    for i in range(2):
        folder = root / "frames" / str(100218 + i)
        folder.mkdir(parents=True)
        for frame in range(3):
            Image.new("RGB", (64, 48)).save(folder / f"{frame:05d}.jpg")
        test.append(f"{folder if i else f'frames/{folder.name}'} 3 {i}")
    (root / "train.txt").write_text("\r\n".join(train) + "\r\n")
    (root / "val.txt").write_text("\n".join(test))
    return root


def test_tree(tree: Path) -> None:
    data = VideoListDataModule(tree, **LISTS, group="g[0-9]+", **SMALL)
    assert data.class_names == ["air drumming", "yoga"]
    assert data.videos("test") == [Video(str(tree / f"frames/{100218 + i}"), i) for i in range(2)]
    train, val = data.videos("train"), data.videos("val")
    assert [{v.group for v in part} for part in (train, val)] in ([{a, b}, {c, d}] for a, b, c, d in ORDERS)
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 2, 3, 32, 32)
    assert next(iter(data.test_dataloader()))["label"].tolist() == [0, 1]


ORDERS = [
    (f"g0{i}", f"g0{j}", f"g0{1 - i}", f"g0{5 - j}") for i in (0, 1) for j in (2, 3)
]  # one recording of each class in either part


def test_own_validation_list(tree: Path) -> None:
    data = VideoListDataModule(tree, **LISTS, val_list="val.txt")
    assert len(data.videos("train")) == 8
    assert data.videos("val") == data.videos("test")


@pytest.mark.parametrize("line", ["a.mp4", "a.mp4 2", "a.mp4 -1", "a.mp4 x", "frames 30 2"])
def test_labels_out_of_range(tree: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "train.txt").write_text(f"a.mp4 0\n{line}\n")
    arguments = LISTS | {"train_list": str(tmp_path / "train.txt")}
    with pytest.raises(ValueError, match=r"train\.txt, line 2: no label from 0 to 1"):
        VideoListDataModule(tree, **arguments).videos("train")


def test_counts_of_frames_are_compared(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynvid.data.datamodule.rank_zero_info", said.append)
    VideoListDataModule(tree, **LISTS).videos("test")
    assert said == []  # three frames each, as the list says; videos have no count
    (tmp_path / "empty").mkdir()
    lines = ["frames/100218 4 0", "frames/100219 3 1", f"{tmp_path}/empty 7 1", "air drumming/v_a_g00_c00.avi 99 0"]
    (tmp_path / "test.txt").write_text("\n".join(lines))
    data = VideoListDataModule(tree, **LISTS | {"test_list": str(tmp_path / "test.txt")}, max_missing=0.5)
    assert len(data.videos("test")) == 3
    assert said == [
        f"test: 2 folders hold another number of frames than their list says: {tree}/frames/100218 holds 3, not 4"
    ]


def test_a_pattern_that_is_none(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"group='g\[': is no regular expression \(unterminated"):
        VideoListDataModule(tree, **LISTS, group="g[")


def test_missing_list(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.txt does not exist: set `test_list`"):
        VideoListDataModule(tree, **LISTS | {"test_list": "gone.txt"}).videos("test")


paths = st.text(st.sampled_from("ab7 _-(!/"), min_size=1, max_size=12).map(lambda path: path.strip(" /")).filter(bool)


@given(path=paths, frames=st.integers(0, 999), label=st.integers(0, 999))
def test_lines(path: str, frames: int, label: int) -> None:
    assert split_line(f"{path}.mkv {label}") == (f"{path}.mkv", label)
    assert split_line(f"{path} {frames} {label}") == (path, label)


def test_a_folder_whose_name_ends_in_a_word() -> None:
    assert split_line("my frames 7") == ("my frames", 7)
    assert split_line("my frames 30 7") == ("my frames", 7)
