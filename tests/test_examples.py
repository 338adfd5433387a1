"""Every example runs, on small data."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynvid import UnifiedExitNet
from dynvid.data import SyntheticDataModule
from dynvid.inference import Recognizer

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 60


def test_each_example_is_run():
    tests = [Path(__file__), *Path(__file__).with_name("extras").glob("test_*.py")]
    run_by_tests = "".join(path.read_text() for path in tests)
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in run_by_tests] == []


@pytest.mark.slow
def test_01_quickstart(tmp_path):
    assert "dynamic inference:" in run(tmp_path, "01_quickstart.py", "--epochs", "1", "--clips_per_class", "4")


@pytest.mark.slow
def test_02_own_folder(tmp_path):
    SyntheticDataModule(tmp_path / "own", clips_per_class=5, clip_frames=6, size=32).prepare_data()
    options = ["--backbone", "test_resnet", "--frames", "4", "--size", "32", "--epochs", "1"]
    assert "'label':" in run(tmp_path, "02_own_folder.py", "own", *options)


@pytest.mark.slow
def test_03_own_loop(tmp_path):
    assert "of the GMACs" in run(tmp_path, "03_own_loop.py")


@pytest.mark.slow
def test_04_custom_backbone(tmp_path):
    printed = run(tmp_path, "04_custom_backbone.py")
    assert "8 frames, depth 3" in printed
    assert "Prediction(label=" in printed


@pytest.mark.slow
def test_05_live(tmp_path):
    SyntheticDataModule(tmp_path / "own", clips_per_class=5, clip_frames=24, size=32).prepare_data()
    (clip, *_) = sorted((tmp_path / "own").rglob("*.mp4"))
    printed = run(tmp_path, "05_live.py", "--camera", "no camera", "--file", clip, "--window", "0.5", "--seconds", "2")
    assert f"no camera: cannot open (No such file or directory); {clip} in its place" in printed
    assert "so far" in printed
    assert "sure)" in printed


@pytest.mark.slow
def test_06_timeline(tmp_path):
    printed = run(tmp_path, "06_timeline.py")
    assert "windows, " in printed
    (subtitles,) = [line.partition(":")[0] for line in printed.splitlines() if ".vtt:" in line]
    assert Path(subtitles).read_text().startswith("WEBVTT")


@pytest.mark.slow
def test_11_multi_label(tmp_path):
    printed = run(tmp_path, "11_multi_label.py", "--clips", "36", "--epochs", "1")
    listed = (tmp_path / "data" / "sets" / "all.csv").read_text().splitlines()
    answers = [line for line in printed.splitlines() if line.startswith("data/sets/clips/")]
    assert len(answers) == sum(line.endswith(",test") for line in listed) == 6
    for line in answers:
        path, _, rest = line.partition(": ")
        truth = rest.partition("is ")[2].replace(", ", ";").replace("none", "")
        assert f"{path.removeprefix('data/sets/')},{truth},test" in listed


@pytest.mark.slow
def test_12_operating_point(tmp_path, scramble):
    torch.manual_seed(0)
    data = SyntheticDataModule(tmp_path / "clips", clips_per_class=40, clip_frames=6, size=32)
    data.prepare_data()
    net = scramble(UnifiedExitNet("test_resnet", data.num_classes, num_frames=4, input_size=32))
    Recognizer(net, class_names=data.class_names).save(tmp_path / "model")
    printed = run(tmp_path, "12_operating_point.py", "model", "0.6", "new", "clips/test")
    assert "promised with 95 % confidence: at most 60 %" in printed
    assert printed.count("threshold") == len(net.route)
    again = Recognizer.load(tmp_path / "new")
    assert (again.point.rule, again.point.target, again.point.promised) == ("max_disagreement", 0.6, True)
    few = run(tmp_path, "12_operating_point.py", "model", "0.001", "none", "clips/test")
    assert "too few" in few
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_07_many_files(tmp_path):
    assert "8 videos, 0 unreadable" in run(tmp_path, "07_many_files.py", "--clips", "8")
    assert "8 videos, 0 unreadable" in run(tmp_path, "07_many_files.py", "--clips", "8")  # there is nothing left to do
