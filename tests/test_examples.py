"""Every example runs, on small data."""

import subprocess
import sys
from pathlib import Path

import pytest

from dynvid.data import SyntheticDataModule

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
