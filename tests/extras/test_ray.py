"""Very many files by Ray's actors on this machine: the same rows as without Ray, whoever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.errors import InputError, ModeError
from dynvid.inference import Recognizer, label_files, parts_of
from dynvid.module import DynamicInferenceModule

pytestmark = pytest.mark.extra
ray = pytest.importorskip("ray")

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_many_files.py"
# Opening such a file kills the process that does it, in a way that no reader can catch.
HOOK = """
import os, signal, sys
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("culprit.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, clips, one of which is damaged and one kills its process, and their list."""
    folder = tmp_path_factory.mktemp("ray")
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32))
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.set_thresholds(torch.tensor([0.22, 0.22, 0.22, 0.0]))
    trainer.save_checkpoint(folder / "net.ckpt")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for image in np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    (folder / "clips").mkdir()
    content = (folder / "clip.mp4").read_bytes()
    for number in range(64):
        (folder / "clips" / f"{number}.mp4").write_bytes(content)
    (folder / "clips" / "culprit.mp4").write_bytes(content)
    (folder / "clips" / os.fsdecode(b"damaged caf\xe9.mp4")).write_bytes(b"no video")
    (folder / "hooks").mkdir()
    (folder / "hooks" / "sitecustomize.py").write_text(HOOK)
    return folder


@pytest.fixture(scope="module")
def cluster(folder):
    """Ray on this machine, with two processors; its address."""
    path = os.pathsep.join(filter(None, [str(folder / "hooks"), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # of all that it starts
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def videos(folder):
    return sorted(str(path) for path in (folder / "clips").iterdir())


def rows_of(out):
    return [row for part in parts_of(out) for row in pq.read_table(part).to_pylist()]


def text(path):
    return path.encode("utf-8", "backslashreplace").decode()


def pids(words):
    """Processes that were started from this one, at whatever distance, and whose command line holds these words."""
    parents, lines = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(process.name)] = (process / "cmdline").read_bytes()
        except OSError:
            continue
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return [pid for pid in mine if words in lines.get(pid, b"")]


def test_an_address_without_a_cluster_is_one_line(folder):
    (folder / "any.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"^address=nonsense: Ray finds no cluster there \(Invalid address[^\n]*\)$"):
        label_files(folder / "any.ckpt", ["/a"], folder / "nowhere", engine="ray", address="nonsense")


def test_an_actor_and_the_driver_are_killed_and_each_video_has_one_row(folder, cluster):
    out, script = folder / "results", folder / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom dynvid.inference import label_files\n"
        "folder, address = Path(sys.argv[1]), sys.argv[2]\n"
        "videos = sorted(str(path) for path in (folder / 'clips').iterdir())\n"
        "label_files(folder / 'net.ckpt', videos, folder / 'results', engine='ray', actors=2, address=address,\n"
        "            batch_size=1, part_rows=1)\n"
    )
    driver = subprocess.Popen([sys.executable, script, folder, cluster])
    while driver.poll() is None and not (out.exists() and (out / "manifest.json").exists() and rows_of(out)):
        time.sleep(0.02)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    done = [row["path"] for row in rows_of(out)]
    assert 0 < len(done) < len(videos(folder))

    killed, said = [], []

    def strike(progress):
        if progress.new == 1:
            for pid in pids(b"ray::MapWorker")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    label_files(
        folder / "net.ckpt", videos(folder), out, engine="ray", actors=2, batch_size=1, part_rows=1, report=strike,
        say=said.append,
    )  # fmt: skip
    assert killed
    rows = rows_of(out)
    assert Counter(row["path"] for row in rows) == Counter(map(text, videos(folder)))
    assert set(done) <= {row["path"] for row in rows}
    wrong = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    assert wrong.keys() == {"culprit.mp4", text(os.fsdecode(b"damaged caf\xe9.mp4"))}
    assert wrong["culprit.mp4"].endswith("culprit.mp4: killed the process that read it, twice (SIGSEGV)")

    said_twice = [line for line, count in Counter(said).items() if count > 1]
    assert "the process that reads videos ended (SIGSEGV) and is started anew" in said
    assert said_twice == []
    assert json.loads((out / "manifest.json").read_text())["settings"]["precision"] in ("float32", "bfloat16")

    recognizer = Recognizer.load(folder / "net.ckpt")
    alike = {row["path"]: row for row in rows}
    for found in recognizer.many([path for path in videos(folder) if "culprit" not in path][:9]):
        row = alike[found.path]
        assert (row["label"], row["frames"], row["depth"], row["gmacs"]) == (found.label, *found.exit, found.gmacs)


def test_a_model_that_cannot_be_loaded_is_one_line(folder, cluster):
    (folder / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ModeError, match=r"^[^\n]*broken\.ckpt[^\n]*$"):
        label_files(folder / "broken.ckpt", videos(folder)[:3], folder / "none", engine="ray", actors=1)


def test_07_many_files(tmp_path, cluster):
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--engine", "ray", "--clips", "6"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"RAY_ADDRESS": cluster},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 videos" in done.stdout
