from pathlib import Path
from typing import Any, Literal

import pytest

from dynvid.data import HMDB51DataModule, Video

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}
TITLES = ["(HQ)_Rock_Climbing_-_Free_Solo", "Golf_Tips_-_300+_Yards!!!", "50_FIRST_DATES", "[TB]_#4_a;b~c&d@e"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Two classes, one the beginning of the other; lines end in a blank and some clips are in neither list."""
    root = tmp_path_factory.mktemp("hmdb51")
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir()
    for name in ("climb", "climb_stairs"):
        lines = []
        for title in TITLES:
            for number in range(3):
                file = f"{title}_{name}_f_cm_np1_le_med_{number}.avi"
                write_video(root / "hmdb51_org" / name / file, frames=4, codec="mpeg4")
                mark = 0 if number == 2 else 2 if title == TITLES[-1] else 1
                lines.append(f"{file} {mark} \n")
        (lists / f"{name}_test_split1.txt").write_text("".join(lines))
        (lists / f"{name}_test_split2.txt").write_text("".join(reversed(lines)))
    return root


def test_tree(tree: Path) -> None:
    data = HMDB51DataModule(tree, **SMALL)
    assert data.class_names == ["climb", "climb_stairs"]
    train, val, test = data.videos("train"), data.videos("val"), data.videos("test")
    assert (len(train), len(val), len(test)) == (8, 4, 4)
    assert {video.group for video in train + val} == set(TITLES[:3])
    assert not {video.group for video in train} & {video.group for video in val}
    name = f"{TITLES[-1]}_climb_stairs_f_cm_np1_le_med_1.avi"
    assert test[-1] == Video(str(tree / "hmdb51_org/climb_stairs" / name), 1, TITLES[-1])
    assert next(iter(data.test_dataloader()))["label"].tolist() == [0, 0]


def test_other_split(tree: Path) -> None:
    first, second = (HMDB51DataModule(tree, split=split).listed("test") for split in SPLITS[:2])
    assert sorted(first, key=str) == sorted(second, key=str)
    with pytest.raises(FileNotFoundError, match=r"splits: no \*_test_split3\.txt; unpack"):
        HMDB51DataModule(tree, split=3).videos("test")


def test_a_line_of_another_form(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "climb_test_split1.txt").write_text("a_climb_f_cm_np1_le_med_1.avi 1\nb_climb_f_cm_np1_le_med_1.avi\n")
    with pytest.raises(ValueError, match=r"climb_test_split1\.txt, line 2: does not end in 0, 1 or 2"):
        HMDB51DataModule(tree, annotations=tmp_path).videos("train")


SPLITS: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)


@pytest.mark.parametrize("split", SPLITS)
def test_official_lists(real_data: Path, split: Literal[1, 2, 3]) -> None:
    data = HMDB51DataModule(real_data, "annotations/hmdb51/testTrainMulti_7030_splits", split)
    train, test = data.listed("train"), data.listed("test")
    assert (len(train), len(test), data.num_classes) == (3570, 1530, 51)
    for label in range(51):
        assert (sum(v.label == label for v in train), sum(v.label == label for v in test)) == (70, 30)
    assert not {v.path for v in train} & {v.path for v in test}
    classes = (real_data / "annotations/hmdb51/class_list_from_TSN.txt").read_text().split()
    assert data.class_names == sorted(classes)


def test_official_sources(real_data: Path) -> None:
    """No class, tag or number is left in the name of a source."""
    data = HMDB51DataModule(real_data, "annotations/hmdb51/testTrainMulti_7030_splits")
    for video in data.listed("train") + data.listed("test"):
        name = data.class_names[video.label]
        tags = video.path.removeprefix(f"{video.group}_{name}_").split("_")
        assert (len(tags), tags[1] in ("cm", "nm"), tags[2][:2]) == (6, True, "np")


def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    for file in (real_data / "clips/hmdb51").glob("*.avi"):
        name = next(name for name in ("climb", "golf", "shoot_bow") if f"_{name}_" in file.name)
        (tmp_path / f"{name}_test_split1.txt").write_text(f"{file.name} 2 \n")
    data = HMDB51DataModule(real_data / "clips", annotations=tmp_path, **SMALL)
    assert [label for batch in data.test_dataloader() for label in batch["label"].tolist()] == [0, 1, 2]
