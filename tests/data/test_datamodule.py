import inspect
import os
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

import dynvid.data
from dynvid.data import Video, VideoDataModule, VideoFolderDataModule, carve

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}


ONE_CLASS = "warning: one class only: there is nothing to tell apart"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """train (3 + 3 clips), val (1 + 1) and test (1 + 1) of two classes, among what is no video."""
    root = tmp_path_factory.mktemp("tree")
    for split, clips in {"train": 3, "val": 1, "test": 1}.items():
        for name in ("wave", "jump"):
            for i in range(clips):
                write_video(root / split / name / f"{name} (HQ) {i}!.mp4", frames=6, seed=i)
    (root / "train/wave/.hidden.mp4").touch()
    (root / "train/.cache/x").mkdir(parents=True)
    (root / "train/.cache/a.mp4").touch()
    (root / "train/wave/notes.txt").touch()
    (root / "train/wave/empty").mkdir()
    frames = root / "train/jump/frames"
    frames.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 48), (i, 0, 0)).save(frames / f"{i}.jpg")
    return root


def names(videos: list[Video]) -> list[str]:
    return [Path(video.path).name for video in videos]


def test_a_background_that_is_no_class_is_said_before_anything_is_trained(tree: Path) -> None:
    VideoFolderDataModule(tree, background="wave").setup("fit")
    with pytest.raises(ValueError, match="background=nothing: no class, which are jump, wave"):
        VideoFolderDataModule(tree, background="nothing").setup("fit")
    with pytest.raises(ValueError, match="background beside multi_label: of sets, the empty one says that"):
        VideoFolderDataModule(tree, background="wave", multi_label=True).setup("fit")


def test_folders(tree: Path) -> None:
    data = VideoFolderDataModule(tree, **SMALL)
    assert data.class_names == ["jump", "wave"]
    assert data.num_classes == 2
    assert [(Path(v.path).relative_to(tree).as_posix(), v.label) for v in data.videos("train")] == [
        ("train/jump/frames", 0),
        ("train/jump/jump (HQ) 0!.mp4", 0),
        ("train/jump/jump (HQ) 1!.mp4", 0),
        ("train/jump/jump (HQ) 2!.mp4", 0),
        ("train/wave/wave (HQ) 0!.mp4", 1),
        ("train/wave/wave (HQ) 1!.mp4", 1),
        ("train/wave/wave (HQ) 2!.mp4", 1),
    ]
    assert names(data.videos("val")) == ["jump (HQ) 0!.mp4", "wave (HQ) 0!.mp4"]


def test_loaders(tree: Path) -> None:
    data = VideoFolderDataModule(tree, **SMALL)
    batches = list(data.train_dataloader())
    assert len(batches) == 3  # 7 videos, the odd one left out
    assert all(batch["video"].shape == (2, 2, 3, 32, 32) for batch in batches)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [batch["index"].tolist() for batch in loader] == [[0, 1]]
    (batch,) = data.predict_dataloader()  # unread
    assert batch["path"] == [video.path for video in data.videos("test")]
    assert batch["index"].tolist() == [0, 1]


def test_the_loaders_sample_as_they_are_told(tree: Path) -> None:
    data = VideoFolderDataModule(tree, sampling="cheap", **SMALL)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert loader.dataset.sampling == "cheap"  # type: ignore[attr-defined]
    assert VideoFolderDataModule(tree, **SMALL).val_dataloader().dataset.sampling == "center"  # type: ignore[attr-defined]


def test_the_only_batch_is_kept_though_incomplete(tree: Path) -> None:
    data = VideoFolderDataModule(tree, **SMALL | {"batch_size": 50})
    assert [len(batch["label"]) for batch in data.train_dataloader()] == [7]


def test_training_is_shuffled(tree: Path) -> None:
    torch.manual_seed(0)
    loader = VideoFolderDataModule(tree, **SMALL).train_dataloader()
    orders = {tuple(i for batch in loader for i in batch["index"].tolist()) for _ in range(4)}
    assert len(orders) > 1


def test_rare_classes_come_as_often_as_common_ones_where_that_is_asked(tmp_path: Path, write_video: WriteVideo) -> None:
    for name, clips in (("common", 9), ("rare", 1)):
        for i in range(clips):
            write_video(tmp_path / "train" / name / f"{i}.mp4", frames=4, seed=i)
            write_video(tmp_path / "val" / name / f"{i}.mp4", frames=4, seed=i)
    torch.manual_seed(0)
    data = VideoFolderDataModule(tmp_path, **SMALL | {"batch_size": 5, "balanced": True})
    loader = data.train_dataloader()
    drawn = [label for _ in range(40) for batch in loader for label in batch["label"].tolist()]
    assert len(drawn) == 400
    assert 160 < sum(drawn) < 240  # 40 without; four standard deviations are 40
    assert data.class_counts() == [9, 1]
    assert [label for batch in data.val_dataloader() for label in batch["label"].tolist()] == [0] * 9 + [1]


def test_no_val_is_carved_from_train(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(tree / "train")
    data = VideoFolderDataModule(tmp_path, **SMALL)
    train, val = data.videos("train"), data.videos("val")
    assert len(train) + len(val) == 7
    assert not set(train) & set(val)
    assert {video.label for video in val} == {0, 1}
    with pytest.raises(ValueError, match=r"no test videos; add some"):
        data.test_dataloader()


def test_folder_errors(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone does not exist: set `root`"):
        VideoFolderDataModule(tmp_path / "gone").train_dataloader()
    with pytest.raises(FileNotFoundError, match=r"gone does not exist: set `root`"):
        _ = VideoFolderDataModule(tmp_path / "gone").num_classes
    with pytest.raises(ValueError, match="no training videos; expected train/<class>/<video>"):
        VideoFolderDataModule(tmp_path).train_dataloader()
    (tmp_path / "train").symlink_to(tree / "train")
    (tmp_path / "val/swim").mkdir(parents=True)
    (tmp_path / "val/swim/a.mp4").touch()
    with pytest.raises(ValueError, match=r"a\.mp4: class 'swim' is in val but not in train"):
        VideoFolderDataModule(tmp_path).videos("val")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("dynvid.data.datamodule.rank_zero_info", lines.append)
    return lines


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_folders_of_classes_alone_are_all_for_training(tree: Path, tmp_path: Path, said: list[str]) -> None:
    for name in ("wave", "jump"):
        (tmp_path / name).symlink_to(tree / "train" / name)
    touch(tmp_path, "notes.txt")
    data = VideoFolderDataModule(tmp_path, **SMALL)
    train, val = data.videos("train"), data.videos("val")
    split = VideoFolderDataModule(tree, **SMALL).videos("train")
    below = [os.path.relpath(path, tmp_path) for path in sorted(video.path for video in train + val)]
    assert below == [os.path.relpath(video.path, tree / "train") for video in split]
    assert data.class_names == ["jump", "wave"]
    assert data.listed("test") == []
    assert said[0] == f"{tmp_path}: no folder train, val or test, so each folder is a class, for training"
    assert "1 .txt outside a class" in said[1]


def test_recordings_of_clips_in_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/tape{tape}_{clip}.mp4" for label in "ab" for tape in range(4) for clip in range(3)))
    data = VideoFolderDataModule(tmp_path, group=r"tape\d", val_fraction=0.25)
    held = {video.group for video in data.videos("val")}
    assert held
    assert not held & {video.group for video in data.videos("train")}
    one = VideoFolderDataModule(tmp_path, group=r"([ab])/tape").videos("train")
    assert {video.group for video in one} == {"a", "b"}
    with pytest.raises(ValueError, match=r"group clip: finds nothing in a/tape0_0\.mp4"):
        VideoFolderDataModule(tmp_path, group="clip").listed("train")
    with pytest.raises(ValueError, match=r"group \[: no regular expression \(unterminated"):
        VideoFolderDataModule(tmp_path, group="[").listed("train")
    with pytest.raises(ValueError, match=r"group=x: is for folders; a CSV has the column `group`"):
        VideoFolderDataModule(tmp_path, "a.csv", group="x")


def test_what_is_passed_over_is_counted_in_one_line(tree: Path, tmp_path: Path, said: list[str]) -> None:
    data = VideoFolderDataModule(tree, **SMALL)
    for _ in range(2):
        assert len(data.videos("train")) == 7
    assert said == [f"{tree}: passed over 4 files and folders: 2 hidden, 1 .txt, 1 empty"]
    touch(tmp_path, *(f"train/wave/{name}" for name in ("a.mp4", "b.divx", "c.DIVX", "LICENSE", "Thumbs.db")))
    touch(tmp_path, "train/b.mp4", "train/.x/c.mp4", "labels.csv", ".git/x", "extra/wave/d.mp4")
    said.clear()
    assert names(VideoFolderDataModule(tmp_path).listed("train")) == ["a.mp4"]
    assert said == [
        f"{tmp_path}: passed over 7 files and folders: 2 .divx, 1 .db, 1 .mp4 outside a class, 1 folder extra, "
        "1 hidden, 1 without ending"
    ]
    (tmp_path / "clean/train/wave").mkdir(parents=True)
    (tmp_path / "clean/train/wave/a.mp4").touch()
    said.clear()
    VideoFolderDataModule(tmp_path / "clean").listed("train")
    assert said == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.ogg", "b.OGG", "c.txt"], r"train/swim: no video; found \.ogg, \.txt; endings of videos are \.3gp, "),
        (["sub/README"], r"train/swim: no video; found without ending; endings"),
        (["1.jpg", "2.jpg"], r"train/swim: no video; found \.jpg; the frames of a video go into a folder of their own"),
        ([".hidden.mp4"], r"train/swim: no video; found nothing"),
    ],
)
def test_a_class_without_a_video_names_what_it_found(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, "train/wave/a.mp4", *(f"train/swim/{file}" for file in files))
    with pytest.raises(ValueError, match=message):
        VideoFolderDataModule(tmp_path).listed("test")
    (tmp_path / "train/swim").rename(tmp_path / "swim")
    (tmp_path / "test").mkdir()
    (tmp_path / "swim").rename(tmp_path / "test/swim")
    with pytest.raises(ValueError, match=message.replace("train", "test")):
        VideoFolderDataModule(tmp_path).listed("train")


def test_nested_folders(tmp_path: Path, said: list[str]) -> None:
    """At any depth, links that lead back among them; an image beside a video is its thumbnail."""
    touch(tmp_path, "train/wave/monday/a.mp4", "train/wave/monday/x/b.webm", "train/wave/c.mp4")
    touch(tmp_path, *(f"train/wave/monday/frames/{i}.jpg" for i in range(3)))
    touch(tmp_path, "train/wave/id1/id1.mp4", "train/wave/id1/id1.jpg")
    (tmp_path / "train/wave/monday/up").symlink_to(tmp_path / "train/wave")
    data = VideoFolderDataModule(tmp_path)
    assert [Path(video.path).relative_to(tmp_path / "train/wave").as_posix() for video in data.listed("train")] == [
        "c.mp4",
        "id1/id1.mp4",
        "monday/a.mp4",
        "monday/frames",
        "monday/x/b.webm",
    ]
    assert {video.group for video in data.listed("train")} == {""}
    assert said == [f"{tmp_path}: passed over 1 files and folders: 1 .jpg"]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "validation", "TEST"), ("training", "valid", "Testing"), ("TRAIN", "Val", "test")],
)
def test_other_names_of_splits(tmp_path: Path, said: list[str], train: str, val: str, test: str) -> None:
    for folder in (train, val, test):
        touch(tmp_path, f"{folder}/wave/{folder}.mp4")
    (tmp_path / "a.csv").write_text(f"Path,Label,Split\n1.mp4,x,{train}\n2.mp4,x,{val}\n3.mp4,x, {test}\n")
    for data, paths in (
        (VideoFolderDataModule(tmp_path), [f"{name}/wave/{name}.mp4" for name in (train, val, test)]),
        (VideoFolderDataModule(tmp_path, "a.csv"), ["1.mp4", "2.mp4", "3.mp4"]),
    ):
        found = [data.listed(split) for split in SPLITS]
        assert found == [[Video(str(tmp_path / path), 0)] for path in paths]
    assert said == []


SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")


def test_one_split_in_two_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/wave/a.mp4", "val/wave/b.mp4", "validation/wave/c.mp4")
    with pytest.raises(ValueError, match="holds val and validation, which both mean val; leave one"):
        VideoFolderDataModule(tmp_path).listed("train")


def test_a_file_as_root_says_where_it_goes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label,split\n")
    with pytest.raises(ValueError, match=r"a\.csv: is no folder; a CSV file goes into `annotations`"):
        VideoFolderDataModule(tmp_path / "a.csv").listed("train")


def test_rows_of_other_splits_are_counted_and_left_out(tmp_path: Path, said: list[str]) -> None:
    splits = ["train", "unused", "extra", "unused", "val", "Holdout"]
    rows = [f"{i}.mp4,{'other' if split == 'extra' else 'x'},{split}" for i, split in enumerate(splits)]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,split", *rows]))
    data = VideoFolderDataModule(tmp_path, "a.csv")
    assert data.class_names == ["x"]
    assert [len(data.listed(split)) for split in SPLITS] == [1, 1, 0]
    assert said == [f"{tmp_path}/a.csv: left out 4 rows of other splits: 2 of unused, 1 of Holdout, 1 of extra"]


def test_the_sizes_are_said_before_training(tree: Path, tmp_path: Path, said: list[str]) -> None:
    VideoFolderDataModule(tree).setup("test")
    assert said == []
    VideoFolderDataModule(tree).setup("fit")
    assert said[-1] == "train 7, val 2, test 2 videos of 2 classes"
    (tmp_path / "train").symlink_to(tree / "train")
    VideoFolderDataModule(tmp_path, val_fraction=0.3).setup("fit")  # a third of each class is kept back
    assert said[-1] == "train 5, val 2 videos of 2 classes"


def test_the_sizes_are_those_that_are_trained_on(listed: Path, said: list[str]) -> None:
    """Less the missing and the excluded, in a carved split too; a split that cannot be had is not said."""
    (listed / "bad.csv").write_text(f"path,reason\n{listed}/1.mp4,x\n")
    data = VideoFolderDataModule(listed, annotations="a.csv", exclude=listed / "bad.csv", max_missing=0.8, **SMALL)
    data.setup("fit")
    assert said[-2:] == ["train 1 (8 left out), val 1 videos of 1 class", ONE_CLASS]
    data.exclude = None  # by hand, arguments may change before the loaders are made
    assert len(data.train_dataloader().dataset) == 2  # type: ignore[arg-type]
    rows = [f"{i}.mp4,x,train" for i in range(9)]
    (listed / "b.csv").write_text("\n".join(["path,label,split", *rows, "gone.mp4,x,test"]))
    data = VideoFolderDataModule(listed, annotations="b.csv", max_missing=0.8, val_fraction=0.5, **SMALL)
    data.setup("fit")
    train, val = (len(data.videos(split)) for split in ("train", "val"))
    left = [len(data.missing[split]) for split in ("train", "val")]
    assert (train + val, sum(left)) == (2, 7)
    assert said[-2] == f"train {train} ({left[0]} left out), val {val} ({left[1]} left out) videos of 1 class"
    (listed / "0.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="8 of 9 listed train videos"):
        data.setup("fit")


def test_a_fit_lists_the_disk_once_for_each_split(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    videos = VideoDataModule.videos
    monkeypatch.setattr(VideoDataModule, "videos", lambda self, split: asked.append(split) or videos(self, split))
    data = VideoFolderDataModule(tree, **SMALL)
    trainer(tmp_path).fit(Validated(), datamodule=data)
    assert asked == ["train", "val", "test"]
    (tmp_path / "bad.csv").write_text(f"path,reason\n{tree}/train/jump/frames,x\n")
    data.exclude = tmp_path / "bad.csv"
    model = Validated()
    trainer(tmp_path).fit(model, datamodule=data)  # nothing is kept from one run to the next
    assert len(set(model.paths)) == 6
    assert len(data.train_dataloader().dataset) == 6  # type: ignore[arg-type]


CSV = (
    "\ufeffpath, label,split,group,fps\r\n"
    "\r\n"
    '"wave/a, b.mp4",wave,train,g1,25\r\n'
    "wave/c.mp4 ,wave,train,g2,25\r\n"
    ",,,,\r\n"
    '"/else where/d.mp4","jump, high",train,,25\r\n'
    "e.mp4,wave,test\r\n"
)


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/all.csv").write_bytes(CSV.encode())
    data = VideoFolderDataModule(tmp_path, annotations="lists/all.csv")
    assert data.class_names == ["jump, high", "wave"]
    assert data.listed("test") == [Video(str(tmp_path / "lists/e.mp4"), 1)]
    assert data.listed("val") == []
    assert data.listed("train") == [
        Video(str(tmp_path / "lists/wave/a, b.mp4"), 1, "g1"),
        Video(str(tmp_path / "lists/wave/c.mp4"), 1, "g2"),
        Video("/else where/d.mp4", 0),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.mp4,x\n", r"a\.csv, line 1: no column split; found path, label"),
        ("", r"a\.csv, line 1: no column label, path, split"),
        ("path,label,split\na.mp4,x,train\nb.mp4,x,\n", r"a\.csv, line 3: split is empty; it is train, val or test"),
        ("path,label,split\na.mp4,x,trian\n", r"a\.csv: no training videos; .*; left out are 1 of trian"),
        ("path,label,split\n\na.mp4,,train\n", r"a\.csv, line 3: path or label is empty"),
        ("path,label,split\na.mp4,x,test\n", r"a\.csv: no training videos"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,val\n", r"b\.mp4: class 'y' is in val but not in train"),
    ],
)
def test_csv_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        VideoFolderDataModule(tmp_path, annotations="a.csv").videos("train")


@pytest.fixture
def listed(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Nine listed training videos, of which the first two are there; one for validation."""
    lines = [f"{i}.mp4,x,train" for i in range(9)] + ["v.mp4,x,val"]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,split", *lines]))
    for name in ("0", "1", "v"):
        write_video(tmp_path / f"{name}.mp4", frames=4)
    return tmp_path


def test_missing_videos_are_an_error(listed: Path) -> None:
    message = (
        r"7 of 9 listed train videos \(77\.8%\) are missing: \S+/2\.mp4, .*, \.\.\.; "
        rf"correct the paths in {listed}/a\.csv, which count from its own folder \({listed}\), or raise `max_missing`"
    )
    for share in (0.0, 0.77):
        with pytest.raises(FileNotFoundError, match=message):
            VideoFolderDataModule(listed, annotations="a.csv", max_missing=share).train_dataloader()
    with pytest.raises(FileNotFoundError, match=r"b\.csv does not exist"):
        VideoFolderDataModule(listed, annotations="b.csv").train_dataloader()


def test_permitted_missing_videos_are_counted_and_listed(listed: Path, said: list[str]) -> None:
    data = VideoFolderDataModule(listed, annotations="a.csv", max_missing=0.8, **SMALL)
    assert names(data.videos("train")) == ["0.mp4", "1.mp4"]
    assert data.missing == {"train": [str(listed / f"{i}.mp4") for i in range(2, 9)]}
    model = Count()
    trainer(listed / "logs").fit(model, datamodule=data)
    file = listed / "logs/missing_train.txt"
    assert file.read_text().splitlines() == data.missing["train"]
    assert said == [
        "train 2 (7 left out), val 1 videos of 1 class",
        ONE_CLASS,
        f"train: 9 videos listed, 7 missing, listed in {file}, 0 excluded",
    ]


def test_a_full_split_is_not_commented(listed: Path, said: list[str]) -> None:
    VideoFolderDataModule(listed, annotations="a.csv", **SMALL).val_dataloader()
    assert said == []


def test_excluded(listed: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(listed)
    (listed / "bad.csv").write_text('path,reason\n./1.mp4,"broken, really"\nelsewhere.mp4,gone\n')
    data = VideoFolderDataModule(listed, annotations="a.csv", exclude="bad.csv", max_missing=0.8, **SMALL)
    assert names(data.videos("train")) == ["0.mp4"]
    assert data.excluded == {"train": [str(listed / "1.mp4")]}
    data.train_dataloader()
    assert said == ["train: 9 videos listed, 7 missing, 1 excluded"]
    (listed / "bad.csv").write_text("file,reason\n")
    with pytest.raises(ValueError, match=r"bad\.csv, line 1: no column path; found file, reason; `exclude` takes"):
        data.videos("train")


def test_missing_and_excluded_videos_do_not_move_the_carved_split(tree: Path, tmp_path: Path) -> None:
    rows = [f"{i}.mp4,x,train,g{i // 2}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,split,group", *rows]))
    for i in range(20):
        (tmp_path / f"{i}.mp4").touch()
    data = VideoFolderDataModule(tmp_path, annotations="a.csv", max_missing=0.5, val_fraction=0.3)
    train, val = data.videos("train"), data.videos("val")
    (tmp_path / "bad.csv").write_text(f"path,reason\n{train[0].path},x\n")
    data.exclude = tmp_path / "bad.csv"
    Path(val[0].path).unlink()
    Path(train[1].path).unlink()
    assert data.videos("val") == val[1:]
    assert data.videos("train") == train[2:]


@pytest.mark.parametrize(("clips", "crops"), [(1, 3), (2, 1), (4, 3)])
def test_views(tree: Path, clips: int, crops: Literal[1, 3]) -> None:
    data = VideoFolderDataModule(tree, test_clips=clips, test_crops=crops, **SMALL)
    assert next(iter(data.test_dataloader()))["video"].shape == (2, clips * crops, 2, 3, 32, 32)
    for loader in (data.val_dataloader(), data.train_dataloader()):
        assert next(iter(loader))["video"].shape == (2, 2, 3, 32, 32)


MODULES = [getattr(dynvid.data, name) for name in dynvid.data.__all__ if name.endswith("DataModule")]
SUBCLASSES = [cls for cls in MODULES if cls is not VideoDataModule]
# Where a mirrored clip belongs to another class.
DIRECTED = {"SyntheticDataModule", "SomethingSomethingV1DataModule", "SomethingSomethingV2DataModule"}
OWN_DEFAULTS = {
    "SyntheticDataModule": {"root", "num_frames", "size", "batch_size"},
    "KineticsDataModule": {"max_missing", "val_fraction"},
    "SomethingSomethingV1DataModule": {"val_fraction"},
    "SomethingSomethingV2DataModule": {"val_fraction"},
}
# None of them a default.
ARGUMENTS = {
    "num_frames": 3,
    "size": 34,
    "batch_size": 5,
    "num_workers": 1,
    "hflip": False,
    "mixup": 0.3,
    "on_error": "skip",
    "max_missing": 0.7,
    "exclude": "bad.csv",
    "val_fraction": 0.33,
    "seed": 9,
    "test_clips": 6,
    "test_crops": 3,
    "sampling": "cheap",
    "balanced": True,
    "background": "nothing",
}
NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "refused", "meant", "taken"),
    [
        ("num_frames", (0, NAN), "1 or more", (1,)),
        ("size", (0, NAN), "1 or more", (2,)),
        ("batch_size", (-1, NAN), "1 or more", (1,)),
        ("num_workers", (-1, NAN), "0 or more", (0, None)),
        ("mixup", (-1, NAN, float("inf")), "0 or more, and finite", (0, 0.2, 5)),
        ("on_error", ("ignore", ""), "raise or skip", ("raise", "skip")),
        ("max_missing", (5, -0.1, NAN), "from 0 to 1", (0, 1)),
        ("val_fraction", (3, 0, 1, -0.1, NAN), "between 0 and 1", (0.01, 0.99)),
        ("test_clips", (0, NAN), "1 or more", (1, 10)),
        ("test_crops", (2, 0, NAN), "1 or 3", (1, 3)),
        ("sampling", ("centre", ""), "center or cheap", ("center", "cheap")),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(
    name: str, refused: tuple[Any, ...], meant: str, taken: tuple[Any, ...]
) -> None:
    for value in refused:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={value}: {meant}')}$"):
            VideoFolderDataModule("x", **{name: value})
    for value in taken:
        VideoFolderDataModule("x", **{name: value})


LISTS = {"train_list": "a", "test_list": "b", "classes": "c"}


def arguments(cls: type[VideoDataModule]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


@pytest.mark.parametrize("cls", SUBCLASSES)
def test_every_argument_is_spelled_out_and_arrives(cls: type[VideoDataModule]) -> None:
    common, own = arguments(VideoDataModule), arguments(cls)
    assert len(SUBCLASSES) == 9
    assert set(common) == {"root", *ARGUMENTS}
    assert not {p.kind for p in own.values()} & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert set(common) - set(own) == ({"hflip"} if cls.__name__ in DIRECTED else set())
    for name in (common.keys() & own.keys()) - OWN_DEFAULTS.get(cls.__name__, set()):
        assert own[name].default == common[name].default, name
        assert own[name].annotation == common[name].annotation, name
    given: dict[str, Any] = {name: value for name, value in ARGUMENTS.items() if name in own}
    data = cls("x", **given, **{name: value for name, value in LISTS.items() if name in own})
    arrived = {name: getattr(data, name) for name in ARGUMENTS}
    if cls.__name__ == "SyntheticDataModule":
        arrived["seed"] = data.clip_seed  # type: ignore[attr-defined]
    assert arrived == ARGUMENTS
    if cls.__name__ in DIRECTED:
        with pytest.raises(TypeError, match="hflip"):
            cls("x", hflip=True)


@pytest.mark.parametrize(
    ("name", "positional"),
    [
        ("VideoFolderDataModule", ["root", "annotations"]),
        ("VideoListDataModule", ["root", "train_list", "test_list", "classes", "val_list", "group"]),
        ("UCF101DataModule", ["root", "annotations", "split"]),
        ("HMDB51DataModule", ["root", "annotations", "split"]),
        ("ShardDataModule", ["root"]),
        ("KineticsDataModule", ["root", "annotations", "max_missing", "val_fraction"]),
        ("SomethingSomethingV1DataModule", ["root", "annotations", "val_fraction"]),
        ("SomethingSomethingV2DataModule", ["root", "annotations", "test_list", "val_fraction"]),
        (
            "SyntheticDataModule",
            ["root", "num_frames", "size", "batch_size", "clips_per_class", "clip_frames", "seed"],
        ),
    ],
)
def test_own_arguments_may_go_by_position(name: str, positional: list[str]) -> None:
    own = arguments(getattr(dynvid.data, name)).values()
    assert [p.name for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY] == positional


@pytest.mark.parametrize("cls", SUBCLASSES)
def test_the_help_describes_every_argument(cls: type[VideoDataModule], capsys: pytest.CaptureFixture[str]) -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(VideoDataModule, "data")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--data.help=dynvid.data.{cls.__name__}"])
    text = " ".join(capsys.readouterr().out.partition("Help for ")[2].split())
    for name in arguments(cls):
        described = re.search(rf"--data\.{name} \S+ (.*?)\((required|type)", text)
        assert described, name
        assert len(described[1].split()) >= 3, name


class Count(pl.LightningModule):
    """A model that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.paths: list[str] = []

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        assert "skipped" not in batch
        self.paths += batch["path"]
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(Count):
    """The same, with validation."""

    def validation_step(self, batch: dict[str, Any]) -> None:
        pass


def trainer(folder: Path) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_skipped_videos_are_recorded_once_and_warned_about(tree: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nonsense")
    good = sorted(map(str, (tree / "train").glob("[wj]*/[wj]*.mp4")))
    rows = [f"{path},wave,train" for path in [*good, bad]] + [f"{good[0]},wave,val"]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,split", *rows]))
    data = VideoFolderDataModule(tmp_path, annotations="a.csv", on_error="skip", **SMALL | {"batch_size": 20})
    model = Count()
    with pytest.warns(UserWarning, match=r"^1 unreadable video\(s\) left out: \S+bad\.mp4: cannot open"):
        trainer(tmp_path).fit(model, datamodule=data)
    assert list(data.skipped) == [str(bad)]
    assert Counter(model.paths) == Counter(good + good)  # two epochs


groups_and_labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(pairs=groups_and_labels, fraction=st.floats(0.05, 0.6), seed=st.integers(0, 99), shared=st.booleans())
def test_carve(pairs: list[tuple[int, int]], fraction: float, seed: int, shared: bool) -> None:
    """Group 0 stands for "no group". Groups belong to one class each, or are shared between classes."""
    videos = [
        Video(f"{i}.mp4", label, (f"{group}" if shared else f"{label}/{group}") if group else "")
        for i, (label, group) in enumerate(pairs)
    ]
    train, val = carve(videos, fraction, seed)
    assert (train, val) == carve(videos, fraction, seed)
    assert sorted(train + val, key=videos.index) == videos
    assert train == [video for video in videos if video in set(train)]
    assert not {v.group for v in train if v.group} & {v.group for v in val if v.group}
    sources: dict[int, set[str]] = defaultdict(set)
    for video in videos:
        sources[video.label].add(video.group or video.path)
    held = {video.group or video.path for video in val}
    for label, own in sources.items():
        assert own - held, "every class keeps something to learn from"
        if not shared and len(own) >= 2:
            assert 1 <= len(own & held) <= max(1, fraction * len(own) + 0.5)
        if len(own) == 1:
            assert label not in {v.label for v in val}


def test_carve_depends_on_the_seed_only() -> None:
    videos = [Video(f"{i}.mp4", i % 3, f"{i % 3}/{i // 6}") for i in range(180)]
    splits = {tuple(carve(videos, 0.2, seed)[1]) for seed in range(5)}
    assert len(splits) == 5
    random.seed(1)
    assert tuple(carve(videos, 0.2, 0)[1]) in splits


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_carve_rejects(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, not {fraction}"):
        carve([], fraction, 0)


def test_real_csv(real_data: Path) -> None:
    """The manifests there have columns of their own besides."""
    data = VideoFolderDataModule(real_data / "ucf101_5", annotations="manifest.csv", **SMALL)
    assert data.num_classes == 5
    assert (len(data.videos("train") + data.videos("val")), len(data.videos("test"))) == (453, 193)


@pytest.mark.parametrize("hflip", [True, False])
def test_the_loader_mirrors_only_where_it_may(tree: Path, hflip: bool) -> None:
    data = VideoFolderDataModule(tree, hflip=hflip, **SMALL)
    steps = data.train_dataloader().dataset.transform.transforms  # type: ignore[attr-defined]
    assert any(isinstance(step, v2.RandomHorizontalFlip) for step in steps) == hflip
