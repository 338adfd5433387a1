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
from dynvid.whole import UNFINISHED, whole_folder

HANGS = """
import sys, time
from pathlib import Path
from dynvid.whole import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("x")
    print("filling", flush=True)
    time.sleep(60)
"""


def start_filling(path):
    environment = os.environ | {"PYTHONPATH": str(Path(dynvid.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", HANGS, path], stdout=subprocess.PIPE, text=True, env=environment)
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
            process.stdout.close()
    begun = time.monotonic()
    with whole_folder(tmp_path / "again"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "new"]
    assert time.monotonic() - begun < 5
