"""Folders are whole or absent, and nothing is replaced."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dynvid
from dynvid.errors import InputError, MissingFileError
from dynvid.whole import UNFINISHED, whole_folder, write_whole

HANGS = """
import sys, time
from pathlib import Path
from dynvid.whole import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("x")
    print("filling", flush=True)
    time.sleep(60)
"""

WRITES = """
import sys, time
from dynvid.whole import whole_folder
end, count = time.monotonic() + 3, 0
while time.monotonic() < end:
    with whole_folder(f"{sys.argv[1]}_{count}") as folder:
        (folder / "file").write_text("x")
    count += 1
print(count)
"""


def start(code, path):
    environment = os.environ | {"PYTHONPATH": str(Path(dynvid.__file__).parents[1])}
    call = [sys.executable, "-c", code, path]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def start_filling(path):
    process = start(HANGS, path)
    assert process.stdout.readline() == "filling\n"
    return process


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_all_is_there_at_once(tmp_path, there):
    path = tmp_path / "a" / "b"
    if there != "nothing":
        path.mkdir(parents=True)
    with whole_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        assert not path.exists() or not list(path.iterdir())
    assert (path / "inner" / "file").read_text() == "x"
    assert os.listdir(path.parent) == ["b"]


@pytest.mark.parametrize("there", ["file", "full folder", "link to a folder", "link to nowhere"])
def test_what_is_there_stays_and_is_said_before_any_work(tmp_path, there):
    path, other = tmp_path / "taken", tmp_path / "other"
    other.mkdir()
    if there == "file":
        path.write_text("mine")
    elif there == "full folder":
        path.mkdir()
        (path / "config.json").write_text("mine")
    else:
        path.symlink_to(other if there == "link to a folder" else tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="taken: ") as caught, whole_folder(path):
        pytest.fail("work was begun")
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def fill(path, then):
    with whole_folder(path) as folder:
        (folder / "ours").write_text("x")
        then()


def test_what_comes_there_meanwhile_stays(tmp_path):
    path = tmp_path / "new"

    def others_come():
        path.mkdir()
        (path / "theirs").write_text("y")

    with pytest.raises(InputError, match="new: holds files already"):
        fill(path, others_come)
    assert [p.name for p in tmp_path.rglob("*")] == ["new", "theirs"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MissingFileError("gone"), ZeroDivisionError()], ids=repr)
def test_an_error_leaves_nothing_and_stays_itself(tmp_path, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        fill(tmp_path / "new", fail)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed otherwise there")
def test_a_killed_writer_leaves_no_folder_and_the_next_one_tidies_up_after_it_only(tmp_path):
    killed, alive = start_filling(tmp_path / "killed"), start_filling(tmp_path / "alive")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not (tmp_path / "killed").exists()
        assert len(list(tmp_path.glob(f".*{UNFINISHED}"))) == 2
        with whole_folder(tmp_path / "new"):
            pass
        left = list(tmp_path.glob(f".*{UNFINISHED}"))
        assert [(path / "half").read_text() for path in left] == ["x"]
    finally:
        alive.kill()
        alive.wait()
        for process in (alive, killed):
            process.communicate()
    begun = time.monotonic()
    with whole_folder(tmp_path / "again"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "new"]
    assert time.monotonic() - begun < 5


def test_what_others_call_unfinished_stays(tmp_path):
    (tmp_path / ".thesis.unfinished").mkdir()
    (tmp_path / ".thesis.unfinished" / "chapter").write_text("mine")
    (tmp_path / ".song.unfinished").write_text("mine")
    with whole_folder(tmp_path / "new"):
        pass
    write_whole(tmp_path / "file", b"x")
    assert (tmp_path / ".thesis.unfinished" / "chapter").read_text() == "mine"
    assert (tmp_path / ".song.unfinished").read_text() == "mine"


def test_writers_into_one_parent_never_take_what_another_has_begun(tmp_path):
    processes = [start(WRITES, tmp_path / name) for name in "abc"]
    counts = []
    for process in processes:
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        counts.append(int(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}_{k}" for name, count in zip("abc", counts, strict=True) for k in range(count)
    )
    assert all((path / "file").read_text() == "x" for path in tmp_path.iterdir())
