"""What `dynvid check` says about a data set whose videos can all be read."""

import csv
import shutil
from pathlib import Path

import pytest

from dynvid.data import Video, VideoFolderDataModule, check_data
from dynvid.data.overview import class_table, findings, same_content

from .conftest import WriteVideo


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{i}.mp4", frames=4, seed=i, size=(32, 32)) for i in range(4)]


def test_a_clean_set_is_only_counted(clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, clip in zip(("train/wave/a", "train/jump/b", "val/wave/c", "test/jump/d"), clips, strict=True):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(clip, tmp_path / f"{path}.mp4")
    check_data(VideoFolderDataModule(tmp_path), tmp_path / "out", 0)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in (["class", "train", "val", "test"], ["jump", "1", "0", "1"], ["wave", "1", "1", "0"]):
        assert row in lines
    assert ["2", "in", "all", "2", "1", "1"] in lines
    assert lines[-1][:8] == ["4", "videos", "checked,", "0", "unreadable,", "0", "damaged;", "see"]
    assert not (tmp_path / "out/duplicates.csv").exists()


def test_leaks_are_named(clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file under two names in two splits, one under two labels, and a recording in two splits."""
    rows = [
        ("a.mp4", "wave", "train", "g1"),
        ("copy of a.mp4", "wave", "test", "g2"),
        ("b [x].mp4", "wave", "train", "g3"),
        ("b again.mp4", "jump", "train", "g3"),
        ("c.mp4", "jump", "val", "g4"),
        ("d.mp4", "jump", "test", "g1"),
        ("d.mp4", "jump", "test", "g1"),
    ]
    for path, clip in zip([row[0] for row in rows[:6]], [clips[i] for i in (0, 0, 1, 1, 2, 3)], strict=True):
        shutil.copy(clip, tmp_path / path)
    (tmp_path / "a.csv").write_text("path,label,split,group\n" + "".join(",".join(row) + "\n" for row in rows))
    data, out = VideoFolderDataModule(tmp_path, "a.csv"), tmp_path / "out"
    check_data(data, out, 0)
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "1 recordings are in two splits: g1 (train, test)",
        f"1 videos are in two splits, such as {tmp_path}/a.mp4 (train) and {tmp_path}/copy of a.mp4 (test); "
        f"see {out}/duplicates.csv",
        f"1 videos have two labels, such as {tmp_path}/b [x].mp4 (wave) and {tmp_path}/b again.mp4 (jump); "
        f"see {out}/duplicates.csv",
    ]
    with (out / "duplicates.csv").open(newline="") as file:
        listed = [(row["content"], row["split"], row["label"], Path(row["path"]).name) for row in csv.DictReader(file)]
    assert listed == [
        ("1", "train", "wave", "a.mp4"),
        ("1", "test", "wave", "copy of a.mp4"),
        ("2", "train", "wave", "b [x].mp4"),
        ("2", "train", "jump", "b again.mp4"),
    ]
    (tmp_path / "copy of a.mp4").write_bytes(clips[3].read_bytes()[:-1])
    (tmp_path / "b again.mp4").write_bytes(clips[2].read_bytes()[:-1])
    findings({split: data.videos(split) for split in ("train", "test")}, data.class_names, out)  # type: ignore[misc]
    assert not (out / "duplicates.csv").exists()


def test_few_files_are_read(clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files of one size that would matter; folders of frames by all their frames; the missing by none."""
    read: list[str] = []
    digest = same_content.__globals__["_digest"]
    monkeypatch.setattr("dynvid.data.overview._digest", lambda path: read.append(Path(path).name) or digest(path))
    for name, frames in {"x": (b"1", b"2"), "y": (b"1", b"2"), "z": (b"2", b"1")}.items():
        (tmp_path / name).mkdir()
        for number, content in enumerate(frames):
            (tmp_path / name / f"{number}.jpg").write_bytes(content)
        (tmp_path / name / "notes.txt").write_text(name)
    (tmp_path / "a.mp4").write_bytes(b"one")
    (tmp_path / "b.mp4").write_bytes(b"two")
    (tmp_path / "long.mp4").write_bytes(b"three")
    (tmp_path / "empty.mp4").touch()
    x, y, z, a, b, long, gone, empty = (
        Video(str(tmp_path / name), 0)
        for name in ("x", "y", "z", "a.mp4", "b.mp4", "long.mp4", "gone.mp4", "empty.mp4")
    )
    found = same_content({"train": [x, a, long, gone, empty], "test": [y, z, gone, empty, b]})
    assert found == [[("train", x), ("test", y)]]
    assert sorted(read) == ["a.mp4", "b.mp4", "x", "y", "z"]


def test_one_class(tmp_path: Path) -> None:
    (line,) = findings({"train": [Video("a.mp4", 0)], "test": []}, ["wa\x1bve"], tmp_path)
    assert line == r"one class only (wa\x1bve): there is nothing to tell apart"


def test_many_recordings_are_shortened(tmp_path: Path) -> None:
    videos = [Video(f"{i}.mp4", i % 2, f"g{i}\n") for i in range(9)]
    (line,) = findings({"train": videos, "val": videos[:5], "test": videos[4:5]}, ["a", "b"], tmp_path)
    assert line == (
        r"5 recordings are in two splits: g0\x0a (train, val), g1\x0a (train, val), g2\x0a (train, val), ..."
    )


def test_the_table_of_many_classes_shows_the_largest_and_the_smallest() -> None:
    train = [Video(f"{label}.mp4", label) for label in range(101) for _ in range(label)]
    table = class_table({"train": train, "test": []}, [f"c{label}" for label in range(101)])
    names, counts = ([str(cell) for cell in column.cells] for column in table.columns[:2])
    assert names == [f"c{i}" for i in range(100, 85, -1)] + ["... 71 more ..."] + [
        *(f"c{i}" for i in range(14, -1, -1)),
        "101 in all",
    ]
    assert [int(count) for count in counts if count] == [*range(100, 85, -1), *range(14, -1, -1), sum(range(101))]


def test_real_splits_keep_recordings_apart(real_data: Path, tmp_path: Path) -> None:
    data = VideoFolderDataModule(real_data / "ucf101_5", annotations="manifest.csv")
    sets = {split: data.videos(split) for split in ("train", "val", "test")}
    assert findings(sets, data.class_names, tmp_path) == []  # type: ignore[arg-type]


def test_fit_doubts_what_paths_alone_tell(tmp_path: Path, write_video: WriteVideo, capsys, caplog) -> None:  # type: ignore[no-untyped-def]
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.mp4", frames=3)
    rows = [("a", "x", "train"), ("b", "x", "train"), ("b", "x", "train"), ("a", "x", "test"), ("c", "x", "val")]
    (tmp_path / "a.csv").write_text("path,label,split\n" + "".join(f"{p}.mp4,{c},{s}\n" for p, c, s in rows))
    with caplog.at_level("INFO"):
        VideoFolderDataModule(tmp_path, "a.csv").setup("fit")
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("warning: ")]
    assert said == [
        "warning: one class only: there is nothing to tell apart",
        f"warning: 1 videos are in two splits, such as {tmp_path / 'a.mp4'} in train and test",
        f"warning: 1 videos are listed twice in one split, such as {tmp_path / 'b.mp4'}",
    ]
