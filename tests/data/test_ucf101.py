import csv
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from dynvid.data import UCF101DataModule, Video
from dynvid.data.ucf101 import read_classes, read_list

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Two classes, not in alphabetical order; CRLF and trailing blanks as in the official files."""
    root = tmp_path_factory.mktemp("ucf101")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"1 YoYo\r\n2 HandstandPushups\r\n\r\n")
    train, test = [], []
    for label, (folder, name) in enumerate([("YoYo", "YoYo"), ("HandstandPushups", "HandStandPushups")], 1):
        for group in (1, 8, 9):
            for clip in (1, 2):
                file = f"{folder}/v_{name}_g{group:02d}_c{clip:02d}.avi"
                write_video(root / file, frames=4, codec="mpeg4")
                train.append(f"{file} {label}") if group > 1 else test.append(file)
    (lists / "trainlist01.txt").write_bytes(("\r\n".join(train) + " \r\n\r\n").encode())
    (lists / "testlist01.txt").write_bytes("\r\n".join(test).encode())
    return root


def test_tree(tree: Path) -> None:
    data = UCF101DataModule(tree, **SMALL)
    assert data.class_names == ["YoYo", "HandstandPushups"]
    assert [(Path(v.path).name, v.label, v.group) for v in data.videos("test")] == [
        ("v_YoYo_g01_c01.avi", 0, "YoYo_g01"),
        ("v_YoYo_g01_c02.avi", 0, "YoYo_g01"),
        ("v_HandStandPushups_g01_c01.avi", 1, "HandStandPushups_g01"),
        ("v_HandStandPushups_g01_c02.avi", 1, "HandStandPushups_g01"),
    ]
    train, val = data.videos("train"), data.videos("val")
    assert len(train) == len(val) == 4  # one group of two in each class
    assert not {v.group for v in train} & {v.group for v in val}
    batch = next(iter(data.val_dataloader()))
    assert batch["video"].shape == (2, 2, 3, 32, 32)
    assert batch["label"].dtype == torch.int64


def test_other_folder_and_suffix(tree: Path, tmp_path: Path) -> None:
    videos = tmp_path / "UCF-101"
    for file in tree.glob("*/*.avi"):
        (videos / file.parent.name).mkdir(parents=True, exist_ok=True)
        (videos / file.parent.name / f"{file.stem}.webm").touch()
    data = UCF101DataModule(tmp_path, annotations=tree / "ucfTrainTestlist")
    assert data.videos("test")[0].path == str(videos / "YoYo/v_YoYo_g01_c01.webm")


def test_names_in_several_places_are_told(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynvid.data.datamodule.rank_zero_info", said.append)
    (tmp_path / "a").symlink_to(tree)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/v_YoYo_g01_c01.avi").symlink_to(tree / "YoYo/v_YoYo_g01_c01.avi")  # the same file
    data = UCF101DataModule(tmp_path, annotations=tree / "ucfTrainTestlist")
    data.videos("test")
    assert said == []
    for name in ("v_YoYo_g01_c02.mp4", "v_HandStandPushups_g01_c01.avi"):
        (tmp_path / f"b/{name}").touch()
    for _ in range(2):
        assert all("/b/v" in v.path for v in data.videos("test")[:3])
    assert said == [
        f"{tmp_path}: 2 names are found in several places, such as {tmp_path}/b/v_HandStandPushups_g01_c01.avi and "
        f"{tmp_path}/a/HandstandPushups/v_HandStandPushups_g01_c01.avi; the first of each is taken"
    ]


def test_missing_videos(tree: Path, tmp_path: Path) -> None:
    lists = tree / "ucfTrainTestlist"
    with pytest.raises(FileNotFoundError, match=r"4 of 4 listed test videos .* are missing: v_YoYo_g01_c01, "):
        UCF101DataModule(tmp_path, annotations=lists).videos("test")


def test_missing_lists(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ucfTrainTestlist/classInd\.txt does not exist: unpack"):
        _ = UCF101DataModule(tmp_path).class_names


def test_unknown_class(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 YoYo\n")
    (tmp_path / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\nSwim/v_Swim_g01_c01.avi\n")
    with pytest.raises(ValueError, match=r"testlist01\.txt, line 2: class 'Swim' is not in classInd\.txt"):
        read_list(tmp_path, "test", 1)


def test_a_line_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 YoYo\nSwim\n")
    with pytest.raises(ValueError, match=r"classInd\.txt, line 2: not a number and a name"):
        read_classes(tmp_path)


def test_official_lists(real_data: Path) -> None:
    lists = real_data / "annotations/ucf101"
    classes = read_classes(lists)
    assert len(classes) == 101
    assert (classes[0], classes[-1]) == ("ApplyEyeMakeup", "YoYo")
    train, test = read_list(lists, "train", 1), read_list(lists, "test", 1)
    assert (len(train), len(test)) == (9537, 3783)
    assert train[0] == Video("v_ApplyEyeMakeup_g08_c01", 0, "ApplyEyeMakeup_g08")
    assert {v.label for v in train} == {v.label for v in test} == set(range(101))
    # The official splits keep the 25 groups of each class apart.
    groups = {(v.label, v.group) for v in train}, {(v.label, v.group) for v in test}
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 101 * 25
    # The train lists carry the label as well.
    lines = (lists / "trainlist01.txt").read_text().split("\n")
    assert [v.label for v in train] == [int(line.split()[1]) - 1 for line in lines if line.strip()]


SPLITS: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)


@pytest.mark.parametrize("split", SPLITS)
def test_official_splits_cover_everything(real_data: Path, split: Literal[1, 2, 3]) -> None:
    lists = real_data / "annotations/ucf101"
    assert len({v.path for part in ("train", "test") for v in read_list(lists, part, split)}) == 13320  # type: ignore[arg-type]


def test_real_subset(real_data: Path) -> None:
    root = real_data / "ucf101_5"
    data = UCF101DataModule(root, **SMALL)
    train, val, test = data.videos("train"), data.videos("val"), data.videos("test")
    assert (len(train) + len(val), len(test)) == (453, 193)
    with (root / "manifest.csv").open() as file:
        group_of = {row["path"]: row["group"] for row in csv.DictReader(file)}
    for video in train + val + test:
        assert video.group == group_of[Path(video.path).relative_to(root).as_posix()]
    assert {v.label for v in val} == set(range(5))
    assert not {v.group for v in train} & {v.group for v in val}
    assert next(iter(data.test_dataloader()))["video"].shape == (2, 2, 3, 32, 32)
