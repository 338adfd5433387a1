import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dynvid.data import VideoFolderDataModule, VideoReader, check_data, check_videos
from dynvid.data.check import Checked, check_video

from .conftest import WriteVideo


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> list[str]:
    """Three that can be read, one of them a folder of frames, then two that cannot."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", frames=80, options={"g": "20", "sc_threshold": "0"}, fps=20)
    write_video(folder / "b, (HQ).avi", frames=40, codec="mpeg4", options={"g": "10"}, fps=10)
    (folder / "frames").mkdir()
    for i in range(5):
        Image.new("RGB", (64, 48)).save(folder / f"frames/{i}.jpg")
    (folder / "bad.mp4").write_bytes(b"nonsense")
    (folder / "cut.jpgs").mkdir()
    (folder / "cut.jpgs/0.jpg").write_bytes((folder / "frames/0.jpg").read_bytes()[:200])
    return [str(folder / name) for name in ("a.mp4", "b, (HQ).avi", "frames", "bad.mp4", "cut.jpgs")]


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_video(videos: list[str]) -> None:
    assert check_video(videos[0]) == Checked(videos[0], "ok", "", 80, 20.0, 20.0)
    assert check_video(videos[1]) == Checked(videos[1], "ok", "", 40, 10.0, 10.0)
    assert check_video(videos[2]) == Checked(videos[2], "ok", "", 5, 0.0, 1.0)
    for path in videos[3:]:
        result = check_video(path)
        assert result.status == "unreadable"
        assert "bad.mp4: cannot open" in result.reason or "0.jpg: frame 0 could not be decoded" in result.reason


@pytest.mark.parametrize("interval", [1, 7, 31, 32, 33, 250])
def test_every_frame_is_read_once(
    write_video: WriteVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    path = write_video(tmp_path / "a.mp4", frames=70, options={"g": str(interval), "bf": "0", "sc_threshold": "0"})
    asked: list[range] = []
    read = VideoReader.read

    def spy(self: VideoReader, indices: range, short_side: int | None = None) -> object:
        asked.append(indices)
        return read(self, indices, short_side)

    monkeypatch.setattr(VideoReader, "read", spy)
    assert check_video(str(path)).frames == 70
    assert [i for indices in asked for i in indices] == list(range(70))
    assert all(len(indices) < 32 + max(interval, 32) for indices in asked)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results(videos: list[str], tmp_path: Path, num_workers: int) -> None:
    summary = check_videos(videos + videos, tmp_path / "out", num_workers)
    assert (summary.videos, summary.unreadable) == (5, 2)
    assert summary.statistics["frames"][1] == 40
    assert summary.statistics["seconds"] == pytest.approx((4, 4, 4))
    assert summary.statistics["fps"] == pytest.approx((10.5, 15, 19.5))
    assert summary.statistics["key_frame_spacing"][1] == 10
    assert {row["path"]: row["status"] for row in table(tmp_path / "out/checked.csv")} == {
        path: "ok" if i < 3 else "unreadable" for i, path in enumerate(videos)
    }
    unreadable = table(tmp_path / "out/unreadable.csv")
    assert {row["path"] for row in unreadable} == set(videos[3:])
    assert all(row["reason"] for row in unreadable)
    written = json.loads((tmp_path / "out/summary.json").read_text())
    assert (written["videos"], written["unreadable"]) == (5, 2)
    assert {name: tuple(q) for name, q in written["statistics"].items()} == summary.statistics


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded, in this process."""
    paths: list[str] = []
    monkeypatch.setattr("dynvid.data.check.check_video", lambda path: paths.append(path) or check_video(path))
    return paths


def test_goes_on_where_it_stopped(videos: list[str], tmp_path: Path, decoded: list[str]) -> None:
    first = check_videos(videos[:4], tmp_path, 0)
    assert decoded == videos[:4]
    assert check_videos(videos, tmp_path, 0).unreadable == first.unreadable + 1
    assert decoded == videos
    content = (tmp_path / "checked.csv").read_bytes()
    check_videos(videos, tmp_path, 0)
    assert decoded == videos
    assert (tmp_path / "checked.csv").read_bytes() == content


def test_a_line_cut_off_anywhere_is_made_again(videos: list[str], tmp_path: Path, decoded: list[str]) -> None:
    whole = check_videos(videos, tmp_path, 0)
    content = (tmp_path / "checked.csv").read_bytes()
    for length in (0, 5, content.index(b"\n") + 1, content.index(b"\n") + 9, len(content) - 1):
        decoded.clear()
        (tmp_path / "checked.csv").write_bytes(content[:length])
        assert check_videos(videos, tmp_path, 0) == whole
        assert (tmp_path / "checked.csv").read_bytes() == content
        assert len(decoded) == 5 - max(content[:length].count(b"\n") - 1, 0)


def test_an_interrupt_keeps_what_was_done(videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str) -> Checked:
        if path == videos[2]:
            raise KeyboardInterrupt
        return check_video(path)

    monkeypatch.setattr("dynvid.data.check.check_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_videos(videos, tmp_path, 0)
    assert [row["path"] for row in table(tmp_path / "checked.csv")] == videos[:2]


def test_a_file_that_kills_its_process_is_named(
    videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = str(tmp_path / "crash.mp4")
    (tmp_path / "crashing.py").write_text(
        "import os\n"
        "from dynvid.data.check import check_video as check\n"
        "def check_video(path):\n"
        "    return os.abort() if path.endswith('crash.mp4') else check(path)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # a fresh process imports it too
    monkeypatch.setattr("dynvid.data.check.check_video", importlib.import_module("crashing").check_video)
    summary = check_videos([*videos[:2], crash, *videos[2:]], tmp_path, 2)
    assert (summary.videos, summary.unreadable) == (6, 3)
    reasons = {row["path"]: row["reason"] for row in table(tmp_path / "unreadable.csv")}
    assert "the process died while decoding" in reasons[crash]
    assert "cannot open" in reasons[videos[3]]


def test_a_pool_that_cannot_start_blames_no_file(videos: list[str], tmp_path: Path) -> None:
    """As where the main module calls the check without a guard."""
    script = tmp_path / "unguarded.py"
    script.write_text(f"from dynvid.data import check_videos\ncheck_videos({videos!r}, {str(tmp_path / 'out')!r}, 1)\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "__main__" in result.stderr
    assert table(tmp_path / "out/checked.csv") == []


def test_a_data_module(
    tmp_path: Path, write_video: WriteVideo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    rows = [f"{name}.mp4,x,{split}" for name, split in [("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")]]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,split", *rows]))
    for name in "acd":
        write_video(tmp_path / f"{name}.mp4", frames=8)
    (tmp_path / "c.mp4").write_bytes(b"nonsense")
    data = VideoFolderDataModule(tmp_path, annotations="a.csv", max_missing=0.5)
    out = tmp_path / "check"
    summary = check_data(data, out, num_workers=0)
    assert (summary.videos, summary.unreadable) == (3, 1)
    assert (out / "missing_train.txt").read_text() == f"{tmp_path / 'b.mp4'}\n"
    said = capsys.readouterr().out
    assert "train: 1 listed videos are missing" in said
    assert "3 videos checked, 1 unreadable" in said
    left = VideoFolderDataModule(tmp_path, annotations="a.csv", max_missing=0.5, exclude=out / "unreadable.csv")
    assert left.videos("val") == []
    # Those left out stay in the list when the check is made again.
    assert check_data(left, out, num_workers=0).unreadable == 0
    assert len(table(out / "unreadable.csv")) == 1


def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted((real_data / "clips").glob("*/*.*")) if path.suffix not in ("", ".jpg")]
    summary = check_videos([*paths, str(real_data / "clips/frames")], tmp_path, 2)
    assert summary.videos == len(paths) + 1 >= 18
    assert [Path(row["path"]).name for row in table(tmp_path / "unreadable.csv")] == ["corrupted.mp4"]
