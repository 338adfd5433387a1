"""The packaged configs of all data sets, from the installed wheel, on tiny trees in their true layout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from .conftest import WriteVideo

REPOSITORY = Path(__file__).parents[2]
CLASSES = ["Holding something", "Pushing something from left to right"]
SMALL = [
    *("--data.batch_size", "2", "--data.num_frames", "4", "--data.size", "64", "--data.num_workers", "0"),
    *("--model.net.pretrained", "false"),
]


def k400(root: Path, write: WriteVideo) -> None:
    (root / "annotations").mkdir()
    for file, split, count in (("train.csv", "train", 4), ("validate.csv", "val", 2)):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for i in range(count):
            label, clip = ("petting cat", "massaging person's head")[i % 2], f"-{split}_{i:05d}"
            lines.append(f"{label},{clip},{i},{i + 10},{split}")
            write(root / split / label / f"{clip}_{i:06d}_{i + 10:06d}.mp4", frames=6, size=(64, 64))
        (root / "annotations" / file).write_text("\n".join(lines) + "\n")


def ucf101(root: Path, write: WriteVideo) -> None:
    (root / "ucfTrainTestlist").mkdir()
    (root / "ucfTrainTestlist/classInd.txt").write_bytes(b"1 YoYo\r\n2 Lunges\r\n")
    for file, groups in (("trainlist01.txt", (8, 9)), ("testlist01.txt", (1,))):
        names = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("YoYo", "Lunges") for group in groups]
        for name in names:
            write(root / "UCF-101" / name, frames=6, size=(64, 64), codec="mpeg4")
        (root / "ucfTrainTestlist" / file).write_bytes("\r\n".join(names).encode())


def hmdb51(root: Path, write: WriteVideo) -> None:
    (root / "testTrainMulti_7030_splits").mkdir()
    for name in ("climb", "climb_stairs"):
        marks = {f"{title}_{name}_f_cm_np1_le_med_0.avi": mark for title, mark in (("A", 1), ("(HQ)_B", 1), ("C!", 2))}
        for file in marks:
            write(root / name / file, frames=6, size=(64, 64), codec="mpeg4")
        text = "".join(f"{file} {mark} \n" for file, mark in marks.items())
        (root / f"testTrainMulti_7030_splits/{name}_test_split1.txt").write_text(text)


def ssv1(root: Path, write: WriteVideo) -> None:
    (root / "labels").mkdir()
    (root / "labels/something-something-v1-labels.csv").write_text("\n".join(CLASSES) + "\n")
    for part, ids in (("train", range(4)), ("validation", range(4, 6))):
        lines = [f"{i};{CLASSES[i % 2]}\n" for i in ids]
        (root / f"labels/something-something-v1-{part}.csv").write_text("".join(lines))
        for i in ids:
            folder = root / f"20bn-something-something-v1/{i}"
            folder.mkdir(parents=True)
            for frame in range(1, 5):
                Image.new("RGB", (64, 64), (20 * i, 40 * frame, 0)).save(folder / f"{frame:05d}.jpg")


def ssv2(root: Path, write: WriteVideo) -> None:
    (root / "labels").mkdir()
    (root / "labels/labels.json").write_text(json.dumps({name: str(i) for i, name in enumerate(CLASSES)}))
    for part, ids in (("train", range(4)), ("validation", range(4, 6))):
        rows = [{"id": str(i), "template": CLASSES[i % 2].replace("something", "[something]")} for i in ids]
        (root / f"labels/{part}.json").write_text(json.dumps(rows))
        for i in ids:
            write(root / f"20bn-something-something-v2/{i}.webm", frames=6, size=(64, 64), codec="libvpx")


TREES: list[Callable[[Path, WriteVideo], None]] = [k400, ucf101, hmdb51, ssv1, ssv2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the wheel unpacked; the dependencies are those of this environment."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, REPOSITORY], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", folder, *wheels.glob("*.whl")], check=True)
    return folder


@pytest.mark.slow
def test_fast_dev_run_of_every_data_set(installed: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    for make in TREES:
        (tmp_path / make.__name__).mkdir()
        make(tmp_path / make.__name__, write_video)
    empty = tmp_path / "empty"
    empty.mkdir()
    program = f"""
import dynvid, sys
from dynvid.cli import main
print(dynvid.__file__)
for name in {[make.__name__ for make in TREES]!r}:
    sys.argv = ["dynvid", "fit", "--config", name + ".yaml", "--data.root", "../" + name, *{SMALL!r}]
    sys.argv += ["--trainer.fast_dev_run", "1", "--trainer.enable_progress_bar", "false"]
    main()
    print("fitted", name)
"""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", program], cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(str(installed))
    assert done.stdout.count("fitted") == len(TREES)
    assert not [path for path in empty.rglob("*") if path.is_file()]


def test_what_the_wheel_holds(installed: Path) -> None:
    configs = {path.name for path in (REPOSITORY / "configs").glob("*.yaml")}
    assert {path.name for path in (installed / "dynvid/configs").glob("*.yaml")} == configs
    assert (installed / "dynvid/py.typed").is_file()
    assert (installed / "bin/dynvid").is_file()
