import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dynvid.data import KineticsDataModule, Video

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}
CLASSES = ["massaging person's head", "petting animal (not cat)", "yoga"]
HEADER = "label,youtube_id,time_start,time_end,split"


def rows(split: str, ids: str, is_cc: bool = False) -> str:
    lines = [HEADER + (",is_cc" if is_cc else "")]
    for i, letter in enumerate(ids):
        lines.append(f"{CLASSES[i % 3]},-_{letter * 9},{10 * i},{10 * i + 10},{split}" + (",0" if is_cc else ""))
    return "\n".join(lines) + "\n"


def clip(letter: str, ids: str) -> str:
    start = 10 * ids.index(letter)
    return f"-_{letter * 9}_{start:06d}_{start + 10:06d}"


TRAIN, VAL = "abcdefghijkl", "uvwxyz"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Videos of three formats in folders of the two usual spellings; one training video is missing."""
    root = tmp_path_factory.mktemp("kinetics400")
    lists = root / "annotations"
    lists.mkdir()
    (lists / "train.csv").write_text(rows("train", TRAIN))
    (lists / "validate.csv").write_text(rows("validate", VAL))
    for i, letter in enumerate(TRAIN[:-1]):
        suffix, codec = [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx")][i % 3]
        write_video(root / "train" / CLASSES[i % 3] / f"{clip(letter, TRAIN)}.{suffix}", frames=4, codec=codec)
    for i, letter in enumerate(VAL):
        write_video(root / "val" / CLASSES[i % 3].replace(" ", "_") / f"{clip(letter, VAL)}.mp4", frames=4)
    return root


def test_tree(tree: Path) -> None:
    data = KineticsDataModule(tree, **SMALL)
    assert data.class_names == CLASSES
    train, val, test = data.videos("train"), data.videos("val"), data.videos("test")
    assert len(train) + len(val) == 11
    assert data.missing["train"] + data.missing["val"] == [clip("l", TRAIN)]
    assert test[1] == Video(str(tree / "val/petting_animal_(not_cat)" / f"{clip('v', VAL)}.mp4"), 1, "-_" + "v" * 9)
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 2, 3, 32, 32)
    assert [label for batch in data.test_dataloader() for label in batch["label"].tolist()] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("folder", ["", "videos", "val", "validate/yoga"])
def test_layouts(tree: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for letter in VAL:
        (tmp_path / folder / f"{clip(letter, VAL)}.webm").touch()
    videos = KineticsDataModule(tmp_path, annotations=tree / "annotations").videos("test")
    assert [video.path for video in videos] == [str(tmp_path / folder / f"{clip(letter, VAL)}.webm") for letter in VAL]


@pytest.mark.parametrize(
    ("train", "val"),
    [("train.csv", "val.csv"), ("kinetics_train.csv", "kinetics_val.csv"), ("kinetics-600_train.csv", "validate.csv")],
)
def test_older_columns_and_other_names(tree: Path, tmp_path: Path, train: str, val: str) -> None:
    (tmp_path / train).write_bytes(b"\xef\xbb\xbf" + rows("train", TRAIN, is_cc=True).replace("\n", "\r\n").encode())
    (tmp_path / val).write_text(rows("val", VAL, is_cc=True))
    old, new = KineticsDataModule(tree, annotations=tmp_path), KineticsDataModule(tree)
    assert old.class_names == new.class_names
    assert old.listed("train") == new.listed("train")
    assert old.listed("test") == new.listed("test")


def test_testing_needs_no_training_list(tree: Path, tmp_path: Path) -> None:
    shutil.copy(tree / "annotations/validate.csv", tmp_path)
    data = KineticsDataModule(tree, annotations=tmp_path)
    assert data.class_names == CLASSES
    assert len(data.videos("test")) == 6
    with pytest.raises(FileNotFoundError, match=r"holds no train\.csv or \*_train\.csv; set `annotations`"):
        data.videos("train")


def test_a_fifth_may_be_missing(tree: Path, tmp_path: Path) -> None:
    for letter in VAL[:5]:
        (tmp_path / f"{clip(letter, VAL)}.mp4").touch()
    arguments: dict[str, Any] = {"root": tmp_path, "annotations": tree / "annotations"}
    assert len(KineticsDataModule(**arguments).videos("test")) == 5
    (tmp_path / f"{clip('u', VAL)}.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 6 listed test videos \(33\.3%\) are missing: -_u{9}_000000_"):
        KineticsDataModule(**arguments).videos("test")


def test_one_of_two_lists_is_never_taken_in_silence(tree: Path, tmp_path: Path) -> None:
    for name in ("kinetics600_train.csv", "train.csv"):
        (tmp_path / name).write_text(rows("train", "ab"))
    with pytest.raises(ValueError, match=r"holds kinetics600_train\.csv and train\.csv; leave one"):
        _ = KineticsDataModule(tree, annotations=tmp_path).class_names


def test_errors(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(rows("train", "ab"))
    (tmp_path / "validate.csv").write_text(rows("validate", "abc"))
    with pytest.raises(ValueError, match=r"validate\.csv, line 4: class 'yoga' is not among the training videos"):
        KineticsDataModule(tree, annotations=tmp_path).videos("test")
    (tmp_path / "validate.csv").write_text("label,youtube_id,time_start,time_end,split\n" + CLASSES[0] + ",x,,10,val\n")
    with pytest.raises(ValueError, match=r"validate\.csv, line 2: a time is no number"):
        KineticsDataModule(tree, annotations=tmp_path).videos("test")
    (tmp_path / "train.csv").write_text("youtube_id,time_start,time_end,split\na,0,10,test\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 1: no column label"):
        _ = KineticsDataModule(tree, annotations=tmp_path).class_names


def test_official_lists(real_data: Path, tmp_path: Path) -> None:
    lists = real_data / "annotations/kinetics400"
    data = KineticsDataModule(tmp_path, annotations=lists)
    test = data.listed("test")
    assert len(test) == 18375
    assert {video.label for video in test} == set(range(400))
    assert len({video.path for video in test}) == 18375
    assert test[0] == Video("--07WQ2iBlw_000001_000011", data.class_names.index("javelin throw"), "--07WQ2iBlw")
    for name in ("label_map.txt", "mmaction2_label_map_k400.txt"):
        assert data.class_names == (lists / name).read_text().splitlines()


def test_official_older_columns(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "annotations/kinetics400/kinetics-400_val.activitynet_is_cc.csv", tmp_path / "val.csv")
    data = KineticsDataModule(tmp_path, annotations=tmp_path)
    assert (len(data.listed("test")), data.num_classes) == (19906, 400)


def test_official_kinetics_600(real_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "kinetics-600_val.csv"
    shutil.copy(real_data / "annotations/kinetics600/kinetics-600_val_head200.csv", file)
    data = KineticsDataModule(tmp_path, annotations=tmp_path)
    lines = file.read_text().splitlines()[1:]
    test = data.listed("test")
    assert len(test) == len(lines)
    assert [data.class_names[video.label] for video in test] == [next(csv.reader([line]))[0] for line in lines]
    assert all(re.fullmatch(r".{11}_\d{6}_\d{6}", video.path) for video in test)


def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    """Real .mp4 and .mkv files under the names that Kinetics gives."""
    files = sorted((real_data / "clips/kinetics").glob("*.m*"))
    lines = [f"class {i},id-{i},{i},{i + 10},validate" for i in range(len(files))]
    (tmp_path / "validate.csv").write_text("\n".join([HEADER, *lines]))
    for i, file in enumerate(files):
        (tmp_path / f"id-{i}_{i:06d}_{i + 10:06d}{file.suffix}").symlink_to(file)
    data = KineticsDataModule(tmp_path, annotations=tmp_path, **SMALL)
    assert [label for batch in data.test_dataloader() for label in batch["label"].tolist()] == [*range(len(files))]
