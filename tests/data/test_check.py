import contextlib
import csv
import importlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from dynvid.cli import main
from dynvid.data import Video, VideoFolderDataModule, check_data, check_videos
from dynvid.data.check import Checked, Summary, check_video
from dynvid.data.files import read_excluded, write_missing
from dynvid.data.overview import findings
from dynvid.errors import DynvidError

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


STATUSES = ["unreadable", "damaged"]  # of the last two


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_video(videos: list[str]) -> None:
    assert check_video(videos[0]) == Checked(videos[0], "ok", "", 80, 20.0, 20.0)
    assert check_video(videos[1]) == Checked(videos[1], "ok", "", 40, 10.0, 10.0)
    assert check_video(videos[2]) == Checked(videos[2], "ok", "", 5, 0.0, 1.0)
    bad, cut = map(check_video, videos[3:])
    assert (bad.status, cut.status) == ("unreadable", "damaged")
    assert "bad.mp4: cannot open" in bad.reason
    assert "0.jpg: frame 0 could not be decoded" in cut.reason


@pytest.mark.parametrize("name", ["unreadable.csv", "summary.json", "duplicates.csv", "missing_val.txt"])
@pytest.mark.usefixtures("capsys")  # what is printed must not go to a file either
def test_a_list_that_cannot_be_written_to_its_end_stays_as_it_was(videos: list[str], tmp_path: Path, name: str) -> None:
    """A file of 100 bytes is the largest that there is room for; what is left of a list would pass for all of it."""

    def write() -> None:
        if name == "duplicates.csv":
            findings({"train": [Video(videos[0], 0)], "val": [Video(videos[0], 0)] * 9}, ["a", "b"], tmp_path)
        elif name == "missing_val.txt":
            write_missing(videos, tmp_path, "val")
        else:
            check_videos(videos if name == "unreadable.csv" else videos[:1], tmp_path, 0)

    write()
    before = (tmp_path / name).read_bytes()
    assert len(before) > 100
    (tmp_path / name).write_bytes(before + b"an earlier line\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DynvidError, match=f"{name}: cannot be written: File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / name).read_bytes() == before + b"an earlier line\n"


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.slow
def test_results(videos: list[str], tmp_path: Path, num_workers: int) -> None:
    summary = check_videos(videos + videos, tmp_path / "out", num_workers)
    assert (summary.videos, summary.unreadable, summary.damaged) == (5, 1, 1)
    assert summary.statistics["frames"][1] == 40
    assert summary.statistics["seconds"] == pytest.approx((4, 4, 4))
    assert summary.statistics["fps"] == pytest.approx((10.5, 15, 19.5))
    assert summary.statistics["key_frame_spacing"][1] == 10
    assert {row["path"]: row["status"] for row in table(tmp_path / "out/checked.csv")} == {
        path: "ok" if i < 3 else STATUSES[i - 3] for i, path in enumerate(videos)
    }
    unreadable = table(tmp_path / "out/unreadable.csv")
    assert {row["path"] for row in unreadable} == set(videos[3:])
    assert all(row["reason"] for row in unreadable)
    written = json.loads((tmp_path / "out/summary.json").read_text())
    assert (written["videos"], written["unreadable"], written["damaged"]) == (5, 1, 1)
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
    assert check_videos(videos, tmp_path, 0).damaged == first.damaged + 1
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


def test_any_name_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = ["a\rb.mp4", "c\nd.mp4", " lead.mp4", 'q"u,o.mp4', "\udcff.mp4", "x\u2028y\x85.mp4", "'.mp4"]
    summary = check_videos(odd, "out", 0)
    assert summary == Summary(7, 7, {})
    content = Path("out/checked.csv").read_bytes()
    assert check_videos(odd, "out", 0) == summary
    assert Path("out/checked.csv").read_bytes() == content
    assert read_excluded("out/unreadable.csv") == {str(tmp_path / name) for name in odd}


def test_an_interrupt_keeps_what_was_done(videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str) -> Checked:
        if path == videos[2]:
            raise KeyboardInterrupt
        return check_video(path)

    monkeypatch.setattr("dynvid.data.check.check_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_videos(videos, tmp_path, 0)
    assert [row["path"] for row in table(tmp_path / "checked.csv")] == videos[:2]


@pytest.mark.slow
def test_a_file_that_kills_its_process_or_takes_too_long_is_named(
    videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash, slow = str(tmp_path / "crash.mp4"), str(tmp_path / "slow.mp4")
    (tmp_path / "crashing.py").write_text(
        "import os, time\n"
        "from dynvid.data.check import check_video as check\n"
        "def check_video(path):\n"
        "    if path.endswith('slow.mp4'):\n"
        "        time.sleep(600)\n"
        "    return os.abort() if path.endswith('crash.mp4') else check(path)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # a fresh process imports it too
    monkeypatch.setattr("dynvid.data.check.check_video", importlib.import_module("crashing").check_video)
    summary = check_videos([*videos[:2], crash, slow, *videos[2:]], tmp_path, 2, time_limit=4)
    assert (summary.videos, summary.unreadable, summary.damaged) == (7, 3, 1)
    reasons = {row["path"]: row["reason"] for row in table(tmp_path / "unreadable.csv")}
    assert reasons[crash] == f"{crash}: the process died while decoding (a crash, or out of memory)"
    assert reasons[slow] == f"{slow}: took longer than 4 s"
    assert "cannot open" in reasons[videos[3]]
    assert multiprocessing.active_children() == []


def processes() -> dict[int, int]:
    """The processes that run, each with its parent; one that has ended and nobody has asked about does not run."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = file.read_text().rpartition(") ")[2].split()[:2]
            if state not in "ZX":
                found[int(file.parent.name)] = int(parent)
    return found


def below(pid: int) -> set[int]:
    """Children of a process, their children and so on."""
    parents, found = processes(), {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def wait_until(true: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes run")
def test_no_signal_leaves_a_process_or_a_lock_behind(tmp_path: Path) -> None:
    """Real commands, each with a process in the middle of a file. SIGTERM ends Python as SIGKILL does."""
    (tmp_path / "stuck.py").write_text(
        "import os, pathlib, time\n"
        "def check_video(path):\n"
        "    pid = pathlib.Path(path).parents[2] / 'pid'\n"
        "    pid.with_suffix('.tmp').write_text(str(os.getpid()))\n"
        "    pid.with_suffix('.tmp').rename(pid)\n"
        "    time.sleep(600)\n"
    )
    program = (
        "import sys, stuck, dynvid.data.check\n"
        "dynvid.data.check.check_video = stuck.check_video\n"
        "from dynvid.cli import main\n"
        "main(['check', '--config', 'folder.yaml', '--data.root', sys.argv[1], '--folder', sys.argv[1] + '/out',"
        " '--num_workers', '1'])\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    roots = {number: tmp_path / number.name for number in (signal.SIGINT, signal.SIGKILL)}
    runs = {}
    for number, root in roots.items():
        (root / "train/wave").mkdir(parents=True)
        (root / "train/wave/a.mp4").touch()
        (root / "train/wave/b.mp4").touch()
        command = [sys.executable, "-c", program, str(root)]
        runs[number] = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
        )
    try:
        for number, run in runs.items():
            root = roots[number]
            wait_until(lambda: run.poll() is not None or (root / "pid").exists())  # noqa: B023
            family = below(run.pid)
            assert int((root / "pid").read_text()) in family
            with pytest.raises(DynvidError, match=rf"{root}/out: another check is writing there; wait until it ends"):
                check_videos([], root / "out", 0)
            run.send_signal(number)
            code = run.wait(60)
            wait_until(lambda: not family & processes().keys(), 20)  # noqa: B023
            assert run.stderr is not None
            error = [line for line in run.stderr.read().splitlines() if "Warning" not in line]
            if number == signal.SIGINT:
                assert (code, error[-1:]) == (130, ["dynvid: stopped; the same command goes on where it was"])
                assert not any("Traceback" in line for line in error)
            else:
                assert code == -number
            assert check_videos([], root / "out", 0) == Summary(0, 0, {})
    finally:
        for run in runs.values():
            run.kill()


@pytest.mark.slow
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


def test_damaged_videos_are_counted_apart(write_video: WriteVideo, tmp_path: Path) -> None:
    """Decoded with errors that FFmpeg conceals: listed with the unreadable, since frames are wrong."""
    whole = write_video(tmp_path / "whole.mp4", size=(96, 128), options={"g": "10", "bf": "0", "crf": "15"})
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == 23)
        for place in range(packet.size // 2, packet.size - 4, 7):
            content[packet.pos + place] ^= 0x55
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    summary = check_videos([str(whole), str(damaged)], tmp_path / "out", 0)
    assert (summary.videos, summary.unreadable, summary.damaged) == (2, 0, 1)
    assert [row["status"] for row in table(tmp_path / "out/checked.csv")] == ["ok", "damaged"]
    assert read_excluded(tmp_path / "out/unreadable.csv") == {str(damaged)}
    assert check_videos([str(whole), str(damaged)], tmp_path / "out", 0) == summary  # read again


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("/x.mp4,ok,,many,25.0,1.0", "invalid literal for int"),
        ("/x.mp4,ok,,1,nan,1.0", "a number out of range"),
        ("/x.mp4,ok,,-1,25.0,1.0", "a number out of range"),
        ("/x.mp4,good,,1,25.0,1.0", "'good'"),
        ("/x.mp4,ok", "invalid literal"),
    ],
)
def test_results_that_are_none_are_refused_with_their_line(tmp_path: Path, row: str, what: str) -> None:
    header = "path,status,reason,frames,fps,key_frame_spacing\n"
    content = f"{header}/y.mp4,ok,,1,25.0,1.0\n{row}\n"
    (tmp_path / "checked.csv").write_text(content)
    with pytest.raises(
        DynvidError, match=rf"checked\.csv, line 3: no result of a check \(.*{what}.*\); remove the file"
    ):
        check_videos([], tmp_path, 0)
    assert (tmp_path / "checked.csv").read_text() == content


@pytest.mark.parametrize("arguments", [{"num_workers": -1}, {"time_limit": 0}, {"time_limit": float("nan")}])
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(DynvidError, match=f"{next(iter(arguments))}="):
        check_videos([], tmp_path, **arguments)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--time_limit", "-1", "--num_workers", "0"], 1, "time_limit=-1.0: more than 0 seconds"),
        (["--num_workers", "-1"], 1, "num_workers=-1: 0 or more"),
        (["--time_limit", "soon"], 2, "Parser key \"time_limit\": Expected a <class 'float'>. Got value: soon"),
        (["--config", "list.yaml"], 1, "config list.yaml: `data.init_args` is no mapping"),
    ],
)
def test_arguments_of_the_command(
    videos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("data:\n  class_path: VideoFolderDataModule\n  init_args: [1]\n")
    Path("a.csv").write_text(f'path,label,split\n"{videos[0]}",x,train\n')
    own = ["--config", "folder.yaml", "--data.root", ".", "--data.annotations", "a.csv"]
    with pytest.raises(SystemExit) as caught:
        main(["check", *own, *arguments])
    assert (caught.value.code, capsys.readouterr().err) == (code, f"dynvid: error: {message}\n")


@pytest.mark.slow
def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted((real_data / "clips").glob("*/*.*")) if path.suffix not in ("", ".jpg")]
    summary = check_videos([*paths, str(real_data / "clips/frames")], tmp_path, 2)
    assert summary.videos == len(paths) + 1 >= 18
    assert [Path(row["path"]).name for row in table(tmp_path / "unreadable.csv")] == ["corrupted.mp4"]
