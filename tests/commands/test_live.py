"""`dynvid live` and `dynvid timeline`: what is printed and written, and bad input in one line."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl

from dynvid import UnifiedExitNet
from dynvid.cli import main
from dynvid.commands.live import run as live
from dynvid.commands.timeline import run as timeline
from dynvid.data.synthetic import write_clip
from dynvid.errors import VideoError
from dynvid.inference import Recognizer
from dynvid.inference.timeline import timeline as found_in
from dynvid.module import DynamicInferenceModule


@pytest.fixture(scope="module")
def checkpoint(scramble_net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    module = DynamicInferenceModule(scramble_net(UnifiedExitNet, input_size=32))
    module.class_names = list("abcde")
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.set_thresholds([0.25, 0.25, 0.25, 0.0])
    trainer.save_checkpoint(folder / "net.ckpt")
    return str(folder / "net.ckpt")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8).repeat(10, 0)
    write_clip(path, images.repeat(8, 1).repeat(8, 2), fps=10)
    return str(path)


def test_live_prints_and_writes_what_the_recognizer_says(checkpoint, video, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    assert live([checkpoint, video, "--window", "3", "--json", "--out", str(out), "--precision", "float32"]) == 0
    printed, said = capsys.readouterr()
    rows = [json.loads(line) for line in printed.splitlines()]
    assert out.read_text() == printed
    assert len(rows) == 17  # slots of half a second in eight seconds, and the end
    assert [r["last"] for r in rows].count(True) == 3  # two whole windows, and what there is of a third
    assert [r["timestamp"] for r in rows[:-1]] == pytest.approx([0.2 + 0.5 * i for i in range(16)], abs=0.06)
    assert all(r["label"] in "abcde" and r["dropped"] == r["reconnects"] == 0 for r in rows)
    assert {(r["start"], r["end"]) for r in rows} == {(0.0, 3.0), (3.0, 6.0), (6.0, 9.0)}
    assert "7.9 s of video" in said
    assert "17 answers, 3 windows" in said
    assert live([checkpoint, video, "--window", "3", "--precision", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 17
    assert f"{rows[5]['label']}  {rows[5]['probability']:.3f}" in lines[5]


@pytest.mark.slow
def test_an_interrupt_ends_live_with_a_summary(checkpoint, video):
    code = "import sys; from dynvid.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "live", checkpoint, video, "--window", "0.6", "--realtime"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "windows" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_source_that_cannot_be_opened_leaves_no_file(checkpoint, video, tmp_path):
    out = tmp_path / "new" / "answers.jsonl"
    with pytest.raises(VideoError):
        live([checkpoint, "missing.mp4", "--out", str(out)])
    assert not out.exists()
    assert live([checkpoint, video, "--window", "3", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 17


def test_timeline_prints_and_writes_what_is_found(checkpoint, video, tmp_path, capsys):
    options = ["--window", "2", "--min-probability", "0", "--precision", "float32"]
    recognizer = Recognizer.load(checkpoint, "cpu", "float32")
    expected = found_in(recognizer, video, window=2.0, min_probability=0.0)
    assert timeline([checkpoint, video, "--json", *options]) == 0
    printed, said = capsys.readouterr()
    assert json.loads(printed) == {"video": video, **expected.plain()}
    assert f"{expected.windows} windows of 2 s every 0.6667 s" in said
    for suffix in ("json", "csv", "vtt"):
        out = tmp_path / f"out.{suffix}"
        assert timeline([checkpoint, video, "--out", str(out), *options]) == 0
        assert out.stat().st_size
        assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(printed)
    assert (tmp_path / "out.vtt").read_text() == expected.vtt()
    with (tmp_path / "out.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == [s.label for s in expected]
    assert timeline([checkpoint, video, *options]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["start", "end", "label", "probability"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["live", "CKPT", "missing.mp4"], "missing.mp4: cannot open"),
        (["live", "CKPT", "ftp://a/b"], "ftp://a/b: no such kind of address; use rtsp"),
        (["live", "CKPT", "VIDEO", "--hop", "9"], "hop=9: 1 to 6"),
        (["live", "CKPT", "VIDEO", "--window", "x"], "'x': a number, 0 or more"),
        (["live", "missing.ckpt", "VIDEO", "--out", "CKPT"], "net.ckpt: is there already; name a new file"),
        (["live", "missing.ckpt", "VIDEO", "--out", "CKPT/a"], "net.ckpt/a: cannot be written (Not a directory)"),
        (["live", "missing.ckpt", "VIDEO"], "missing.ckpt"),
        (["timeline", "CKPT", "missing.mp4"], "missing.mp4: cannot open"),
        (["timeline", "CKPT", "CKPT"], "net.ckpt: cannot open"),
        (["timeline", "CKPT", "VIDEO", "--out", "a.txt"], "a.txt: name it .json, .csv, .vtt"),
        (["timeline", "missing.ckpt", "VIDEO", "--out", "TABLE"], "table.csv: is there already; name a new file"),
        (["timeline", "missing.ckpt", "VIDEO", "--out", "TABLE/a.vtt"], "a.vtt: cannot be written (Not a directory)"),
        (["timeline", "CKPT", "VIDEO", "--hop", "0"], "'0': seconds, above 0"),
        (["timeline", "CKPT", "VIDEO", "--min-probability", "2"], "'2': a probability, 0 to 1"),
        *(
            (["live", "none.ckpt", "VIDEO", "--audit", "0.5", *limit], f"nothing is audited with {limit[0]};")
            for limit in (["--deadline-ms", "0"], ["--max-gmacs", "1"], ["--continual"])
        ),
    ],
)
def test_bad_input_is_said_in_one_line(checkpoint, video, arguments, said, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("mine")
    names = {"CKPT": checkpoint, "VIDEO": video, "TABLE": str(tmp_path / "table.csv")}
    names |= {f"{name}/{file}": f"{names[name]}/{file}" for name, file in (("CKPT", "a"), ("TABLE", "a.vtt"))}
    with pytest.raises(SystemExit) as caught:
        main([names.get(word, word) for word in arguments])
    assert caught.value.code in (1, 2)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert (tmp_path / "table.csv").read_text() == "mine"
