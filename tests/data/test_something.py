import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dynvid.data import SomethingSomethingV1DataModule, SomethingSomethingV2DataModule, Video

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}
# The first lines of the official file are not in alphabetical order.
CLASSES = ["Holding something", "Turning something upside down", "Pushing something from left to right"]
V1 = "something-something-v1"
V2 = "something-something-v2"


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("v1")
    (root / "labels").mkdir()
    (root / f"labels/{V1}-labels.csv").write_text("\n".join(CLASSES) + "\n")
    for part, ids in {"train": range(100218, 100230), "validation": range(1, 7)}.items():
        lines = [f"{i};{CLASSES[i % 3]}" for i in ids]
        (root / f"labels/{V1}-{part}.csv").write_text("\n".join(lines) + "\n")
        for i in ids:
            folder = root / f"20bn-{V1}" / str(i)
            folder.mkdir(parents=True)
            for frame in (1, 2, 3):
                Image.new("RGB", (64, 48), (i % 200, 40 * frame, 0)).save(folder / f"{frame:05d}.jpg")
    return root


def test_v1(v1: Path) -> None:
    data = SomethingSomethingV1DataModule(v1, **SMALL)
    assert data.class_names == CLASSES
    assert not data.hflip
    assert data.videos("test")[0] == Video(str(v1 / f"20bn-{V1}/1"), 1)
    train, val = data.videos("train"), data.videos("val")
    assert (len(train), len(val)) == (9, 3)  # one of each class
    assert not set(train) & set(val)
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 2, 3, 32, 32)


def test_v1_from_the_inner_folder(v1: Path) -> None:
    data = SomethingSomethingV1DataModule(v1 / f"20bn-{V1}", annotations=v1 / "labels")
    assert data.videos("test") == SomethingSomethingV1DataModule(v1).videos("test")


def test_v1_errors(v1: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"v1-labels\.csv does not exist: unpack the labels"):
        SomethingSomethingV1DataModule(v1, annotations=tmp_path).videos("test")
    (tmp_path / f"{V1}-labels.csv").write_text("Holding something\n")
    (tmp_path / f"{V1}-validation.csv").write_text("1;Holding something\n2;Holding\n")
    with pytest.raises(ValueError, match=r"v1-validation\.csv, line 2: class 'Holding' is not in the labels"):
        SomethingSomethingV1DataModule(v1, annotations=tmp_path).videos("test")


@pytest.fixture(scope="module", params=[f"{V2}-", ""], ids=["long names", "short names"])
def v2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Templates with brackets, labels without, indices as strings that sort wrongly as text."""
    root = tmp_path_factory.mktemp("v2")
    (root / "labels").mkdir()
    index = {CLASSES[0]: "10", CLASSES[1]: "9", "[Something] falling, like a rock".strip("[]").replace("]", ""): "2"}
    (root / f"labels/{request.param}labels.json").write_text(json.dumps(index))
    templates = ["Holding [something]", "Turning [something] upside down", "[Something] falling, like a rock"]
    for part, ids in {"train": range(20, 32), "validation": range(1, 7)}.items():
        rows = [{"id": str(i), "label": "x", "template": templates[i % 3], "placeholders": ["x"]} for i in ids]
        (root / f"labels/{request.param}{part}.json").write_text(json.dumps(rows))
        for i in ids:
            settings = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
            write_video(root / f"20bn-{V2}" / f"{i}.webm", frames=4, **settings)
    (root / "labels/test-answers.csv").write_text(f"3;{CLASSES[0]}\n4;{CLASSES[1]}\n")
    (root / f"20bn-{V1}/1").mkdir(parents=True)  # the other version beside it has the same ids
    return root


def test_v2(v2: Path) -> None:
    data = SomethingSomethingV2DataModule(v2, **SMALL)
    assert data.class_names == ["Something falling, like a rock", "Turning something upside down", "Holding something"]
    assert not data.hflip
    assert data.videos("test")[0] == Video(str(v2 / f"20bn-{V2}/1.webm"), 1)
    assert (len(data.videos("train")), len(data.videos("val"))) == (9, 3)
    assert next(iter(data.test_dataloader()))["video"].shape == (2, 2, 3, 32, 32)


def test_v2_test_list(v2: Path) -> None:
    videos = SomethingSomethingV2DataModule(v2, test_list="test").videos("test")
    assert [(Path(video.path).name, video.label) for video in videos] == [("3.webm", 2), ("4.webm", 1)]


def test_v2_errors(v2: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"v2-validation\.json does not exist: unpack the labels"):
        SomethingSomethingV2DataModule(v2, annotations=tmp_path).videos("test")
    (tmp_path / "labels.json").write_text('{"Holding something": "0",\n')
    with pytest.raises(ValueError, match=r"labels\.json, line 2: not JSON .*; download it again"):
        _ = SomethingSomethingV2DataModule(v2, annotations=tmp_path).class_names
    (tmp_path / "labels.json").write_text('{"Holding something": "0"}')
    (tmp_path / "validation.json").write_text('[{"id": "7", "template": "Dropping [something]"}]')
    with pytest.raises(ValueError, match=r"validation\.json, video 7: class 'Dropping something' is not in the labels"):
        SomethingSomethingV2DataModule(v2, annotations=tmp_path).videos("test")


def test_official_v2(real_data: Path) -> None:
    lists = real_data / "annotations/sthv2"
    data = SomethingSomethingV2DataModule(real_data, annotations=lists)
    validation = data.listed("test")
    assert (len(validation), data.num_classes) == (24777, 174)
    assert {video.label for video in validation} == set(range(174))
    assert data.class_names == sorted(data.class_names)
    assert data.class_names[validation[0].label] == "Spinning something that quickly stops spinning"
    answers = SomethingSomethingV2DataModule(real_data, annotations=lists, test_list="test").listed("test")
    asked = json.loads((lists / f"{V2}-test.json").read_text())
    assert len(answers) == 27157
    assert {video.path for video in answers} == {row["id"] for row in asked}


def test_official_v1_lines(real_data: Path, tmp_path: Path) -> None:
    """The v2 answers have v1's line form, and both versions have the same classes."""
    names = (real_data / "annotations/sthv1/mmaction2_label_map.txt").read_text()
    (tmp_path / f"{V1}-labels.csv").write_text(names)
    (tmp_path / f"{V1}-validation.csv").write_bytes((real_data / "annotations/sthv2/test-answers.csv").read_bytes())
    data = SomethingSomethingV1DataModule(tmp_path, annotations=tmp_path)
    assert data.class_names == names.splitlines()
    assert (len(data.listed("test")), data.num_classes) == (27157, 174)


def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    files = sorted((real_data / "clips/somethingv2").glob("*.webm"))
    (tmp_path / "labels.json").write_text('{"Holding something": "0"}')
    rows = [{"id": file.stem, "template": "Holding [something]"} for file in files]
    (tmp_path / "validation.json").write_text(json.dumps(rows))
    data = SomethingSomethingV2DataModule(real_data / "clips", annotations=tmp_path, **SMALL)
    assert sum(len(batch["path"]) for batch in data.test_dataloader()) == len(files)
