"""Labelling whatever is found in folders, with names that strangers chose."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from dynvid import UnifiedExitNet
from dynvid.cli import main
from dynvid.data import Clip
from dynvid.errors import InputError
from dynvid.inference import parts_of
from dynvid.module import DynamicInferenceModule

CLASSES = ["plain", "[red]ma:star:rkup[/red]", "\x1b[31mansi\nline", "bidi \u202egnp", "caf\udce9"]
IMAGES = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for image in IMAGES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32))
    module.class_names = CLASSES
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.set_thresholds(torch.tensor([0.9, 0.9, 0.9, 0.0]))  # calibrated, so that nothing is said of it
    trainer.save_checkpoint(folder / "net.ckpt")
    return folder / "net.ckpt"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def put(clip, here):
    """Make a video, a folder of frames, or another file, by its ending."""

    def make(name):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".jpg", ".png"):
            Image.fromarray(IMAGES[0]).save(path)
        elif path.suffix.lower() in (".txt", ".csv"):
            path.write_text("words")
        else:
            shutil.copy(clip, path)
        return name

    return make


@pytest.fixture
def classify(checkpoint, capsys):
    """Run the command: its exit code, the rows by path, and what it said on standard error."""

    def run(*paths):
        with pytest.raises(SystemExit) as caught:
            main(["classify", str(checkpoint), *paths, "--json", "--precision", "float32"])
        out, err = capsys.readouterr()
        rows = [strictly(line) for line in out.splitlines()]
        assert len({row["path"] for row in rows}) == len(rows)
        return caught.value.code, {row["path"]: row for row in rows}, err

    return run


def changed(checkpoint, **saved):
    """A checkpoint that says something else of itself."""
    content = torch.load(checkpoint, weights_only=True)
    content["dynvid"] |= saved
    torch.save(content, "changed.ckpt")
    return "changed.ckpt"


def strictly(line):
    def refuse(token):
        raise ValueError(f"{token} is no JSON")

    return json.loads(line, parse_constant=refuse)


def labelled(rows):
    assert all(("label" in row) != ("error" in row) for row in rows.values())
    return [path for path, row in rows.items() if "label" in row]


def test_a_folder_of_frame_folders(put, classify):
    for name in ("root/b/img_1.jpg", "root/b/img_2.jpg", "root/a/img_1.jpg", "root/a/img_10.jpg", "root/a/img_2.jpg"):
        put(name)
    code, rows, said = classify("root")
    assert (code, labelled(rows), said) == (0, ["root/a", "root/b"], "")


def test_a_mixed_folder_is_labelled_in_order_and_the_rest_is_counted(put, classify):
    for name in (
        *("root/z.mp4", "root/b/c/w.AVI", "root/b/img_1.png", "root/b/notes.txt", "root/a/f/img_1.jpg", "root/a/v.mp4"),
        *("root/a/v.jpg", "root/.hidden/x.mp4", "root/._z.mp4", "root/labels.csv", "root/README", "root/d/labels.CSV"),
    ):
        put(name)
    code, rows, said = classify("root")
    assert (code, labelled(rows)) == (0, ["root/a/f", "root/a/v.mp4", "root/b", "root/b/c/w.AVI", "root/z.mp4"])
    assert said == "dynvid: passed over: 2 .csv, 1 .txt, 2 hidden, 1 images beside videos, 1 without an ending\n"


def test_links_that_lead_nowhere_or_round_in_circles(put, classify):
    put("root/a/x.mp4")
    os.symlink("gone.mp4", "root/a/dangling.mp4")
    os.symlink("gone", "root/dangling")
    os.symlink("itself", "root/itself")
    os.symlink("..", "root/a/up")
    os.symlink("a", "root/same")
    put("elsewhere/y.mp4")
    os.symlink("../elsewhere", "root/elsewhere")
    code, rows, said = classify("root")
    assert code == 1
    assert labelled(rows) == ["root/a/x.mp4", "root/elsewhere/y.mp4"]
    assert list(rows) == sorted(rows)
    for name in ("root/a/dangling.mp4", "root/dangling"):
        assert rows[name]["error"] == f"{name}: cannot be read (a link that leads nowhere)"
    assert "root/itself: cannot be read" in rows["root/itself"]["error"]
    assert said == "dynvid: passed over: 2 met twice\n"
    code, rows, _ = classify("root/dangling", "root/a/x.mp4")
    assert (code, labelled(rows), len(rows)) == (1, ["root/a/x.mp4"], 2)


def test_a_file_that_is_named_is_tried_whatever_its_ending(put, classify):
    os.rename(put("v.mp4"), "v.data")
    os.rename(put("w.mp4"), "w")
    code, rows, _ = classify("v.data", "w", put("notes.txt"))
    assert (code, labelled(rows)) == (1, ["v.data", "w"])
    assert "notes.txt" in rows["notes.txt"]["error"]


def test_an_empty_folder_is_said_as_such(put, classify):
    os.mkdir("empty")
    put("words/notes.txt")
    code, rows, said = classify("empty", "words", put("v.mp4"))
    assert (code, labelled(rows)) == (1, ["v.mp4"])
    for name in ("empty", "words"):
        assert rows[name]["error"] == f"{name}: holds no video and no frames"
    assert said == "dynvid: passed over: 1 .txt\n"


def test_what_is_given_twice_is_labelled_once(put, classify):
    put("root/v.mp4")
    put("root/a/img_1.jpg")
    code, rows, said = classify("root/v.mp4", "./root/v.mp4", "root", "root/a", "root")
    assert (code, labelled(rows)) == (0, ["root/v.mp4", "root/a"])
    assert said == "dynvid: passed over: 4 met twice\n"


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_labelled(put, classify, monkeypatch):
    put("root/a/v.mp4")
    put("root/locked/v.mp4")
    put("root/z/v.mp4")
    scandir = os.scandir

    def locked(path="."):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    code, rows, _ = classify("root")
    assert (code, labelled(rows)) == (1, ["root/a/v.mp4", "root/z/v.mp4"])
    assert rows["root/locked"]["error"] == "root/locked: cannot be read (Permission denied)"


def test_frames_that_vanish_or_cannot_be_read_are_named(put, classify, monkeypatch):
    put("root/a/img_1.jpg")
    put("root/v.mp4")
    iterdir = Path.iterdir

    def locked(self):
        if self.name == "a":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", locked)
    code, rows, _ = classify("root")
    assert (code, labelled(rows)) == (1, ["root/v.mp4"])
    assert "Permission denied" in rows["root/a"]["error"]


@pytest.mark.parametrize(
    ("unexpected", "reason"),
    [
        (ValueError("no good:\n  \x1b[31m\u202ered"), r"ValueError: no good: \x1b[31m\u202ered"),
        (MemoryError(), "MemoryError: no reason given"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (InputError("v.mp4: said on purpose"), None),
    ],
)
@pytest.mark.parametrize("output", [[], ["--json"]])
def test_what_nobody_foresaw_in_one_file_is_named_and_the_others_are_labelled(
    put, checkpoint, monkeypatch, capsys, unexpected, reason, output
):
    read = Clip.read

    def odd(self, *arguments):
        if "odd" in self._reader.name:
            raise unexpected
        return read(self, *arguments)

    monkeypatch.setattr(Clip, "read", odd)
    for name in ("a.mp4", "odd\nname.mp4", "z.mp4"):
        put(f"root/{name}")
    with pytest.raises(SystemExit) as caught:
        main(["classify", str(checkpoint), "root", "--precision", "float32", *output])
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    said = "v.mp4: said on purpose" if reason is None else rf"root/odd\x0aname.mp4: {reason}"
    if output:
        rows = [strictly(line) for line in out.splitlines()]
        assert ["label" in row for row in rows] == [True, False, True]
        assert rows[1] == {"path": "root/odd\nname.mp4", "error": said}
    else:
        assert err == f"dynvid: {said}\n"
        assert len(out.splitlines()) == 3


def test_what_is_neither_a_file_nor_a_folder_is_not_opened(put, classify):
    put("root/v.mp4")
    os.mkfifo("root/pipe.mp4")
    code, rows, _ = classify("root")
    assert (code, labelled(rows)) == (1, ["root/v.mp4"])
    assert rows["root/pipe.mp4"]["error"] == "root/pipe.mp4: neither a file nor a folder"


ODD = ["two\nlines", "cr\r", "tab\t", "\x1b[2Jansi", "bell\x07", "bidi\u202e4pm", "sep\u2028", "[bold]a[red]"]
ODD += ['q"uote,', ":star:", "\x85next", os.fsdecode(b"caf\xe9"), os.fsdecode(b"\x80\xff"), "日本 ü", "'; rm -rf"]


def test_json_lines_hold_any_name(put, classify):
    names = {put(f"root/{name}.mp4") for name in ODD} | {put(f"root/{name}/img_1.jpg")[:-10] for name in ODD}
    code, rows, _ = classify("root")
    assert code == 0
    assert set(labelled(rows)) == names
    assert {os.fsencode(path) for path in rows} == {os.fsencode(name) for name in names}
    assert {row["label"] for row in rows.values()} <= set(CLASSES)


def test_the_table_cannot_be_steered_by_names(put, checkpoint, capsys):
    for name in ODD:
        put(f"root/{name}.mp4")
        Path(f"root/broken {name}.mp4").write_bytes(b"no video")
    file = changed(checkpoint, class_names=[" ".join(CLASSES)] * 5)
    with pytest.raises(SystemExit):
        main(["classify", file, "root", "--precision", "float32"])
    out, err = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", out + err)
    label = r"plain [red]ma:star:rkup[/red] \x1b[31mansi\x0aline bidi \u202egnp caf\xe9"
    assert out.count(f" {label} ") == len(ODD)
    for text in (r"two\x0alines", r"\x1b[2Jansi", r"bidi\u202e4pm", "[bold]a[red]", ":star:", r"caf\xe9", r"\x80\xff"):
        assert f"root/{text}.mp4 " in out
        assert f"dynvid: root/broken {text}.mp4: cannot open" in err
    assert (len(out.splitlines()), len(err.splitlines())) == (1 + len(ODD), len(ODD))


@pytest.mark.slow
def test_an_error_is_one_line_that_steers_no_terminal(checkpoint):
    program, name = Path(sys.executable).with_name("dynvid"), b"gone\nfor good \x1b[31m\xe2\x80\xaecaf\xe9.mp4"
    run = subprocess.run([program, "classify", checkpoint, name], capture_output=True)
    assert run.returncode == 1
    said = rb"dynvid: error: gone\x0afor good \x1b[31m\u202ecaf\xe9.mp4: no such file or folder" + b"\n"
    assert run.stderr == said


def test_the_words_of_arguments_are_escaped_too(capsys):
    with pytest.raises(SystemExit):
        main(["classify", "a.ckpt", "b.mp4", "--\x1b[31m\u202ered"])
    said = capsys.readouterr().err.rstrip("\n")
    assert said.startswith("dynvid: error: ")
    assert said.isprintable()


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("output", [[], ["--json"]])
def test_a_net_that_was_not_calibrated_says_so(put, checkpoint, capsys, calibrated, output):
    file = changed(checkpoint, calibrated=calibrated)
    with pytest.raises(SystemExit):
        main(["classify", file, put("v.mp4"), "--precision", "float32", *output])
    out, err = capsys.readouterr()
    assert err == ("" if calibrated else "dynvid: not calibrated: every video gets full inference\n")
    assert "calibrated" not in out


def test_a_precision_that_is_not_float32_is_said_in_one_line(put, checkpoint, capsys):
    for precision, said in (("bfloat16", 1), ("float32", 0)):
        with pytest.raises(SystemExit):
            main(["classify", str(checkpoint), put("v.mp4"), "--json", "--precision", precision])
        out, err = capsys.readouterr()
        assert err.count("bfloat16") == said == len(err.splitlines())
        assert json.loads(out)["milliseconds"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "argument --batch-size/--batch_size: '0': a whole number, 1 or more"),
        (["--workers", "-1"], "argument --workers: '-1': a whole number, 1 or more"),
        (["--precision", "half"], "argument --precision: invalid choice: 'half' (choose from "),
        (["--batchsize", "2"], "--batchsize: no such key; did you mean --batch-size?"),
    ],
)
def test_wrong_options_are_said_in_one_line(checkpoint, capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["classify", str(checkpoint), "v.mp4", *words])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def rows_of(out):
    return {row["path"]: row for part in parts_of(out) for row in pq.read_table(part).to_pylist()}


@pytest.mark.slow
def test_many_files_are_kept_as_rows_and_a_second_run_finds_them(put, checkpoint, classify, here):
    """In processes of their own, as a user does it; a video that kills its process by name is among them."""
    for name in (*(f"root/{k}.mp4" for k in range(12)), "root/f/img_1.jpg", "root/culprit.mp4", "root/notes.md"):
        put(name)
    Path("root/broken.mp4").write_bytes(b"no video")
    Path("more.txt").write_text(f"{put('v.mp4')}\nroot/3.mp4\ngone.mp4\n")
    Path("hooks").mkdir()
    Path("hooks/sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('culprit.mp4'):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "sys.addaudithook(hook)\n"
    )
    program = Path(sys.executable).with_name("dynvid")
    command = [program, "classify", checkpoint, "root", "more.txt", "--out", "results", "--precision", "float32"]
    path = os.pathsep.join(filter(None, [str(here / "hooks"), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert run.returncode == 1, run.stderr
    assert run.stdout.splitlines()[0].startswith("17 videos in results, 17 of them now")
    said = run.stdout.splitlines()[2]
    assert said.startswith("3 could not be read: ")
    assert "1 killed the process that read it, twice" in said
    assert "2 cannot open" in said
    assert "passed over: 1 .md, 1 met twice" in run.stderr
    assert "the process that reads videos ended (SIGSEGV) and is started anew" in run.stderr
    rows = rows_of("results")
    assert len(rows) == 17
    assert rows[str(here / "root/culprit.mp4")]["error"].endswith("killed the process that read it, twice (SIGSEGV)")
    assert "cannot open" in rows[str(here / "root/broken.mp4")]["error"]
    assert "cannot open" in rows[str(here / "gone.mp4")]["error"]
    _, alone, _ = classify("root/3.mp4", "root/f")
    for path, row in alone.items():
        found = rows[str(here / path)]
        assert {key: found[key] for key in ("label", "frames", "depth")} == {
            k: row[k] for k in ("label", "frames", "depth")
        }
        assert found["saved"] == pytest.approx(row["saved"])
        assert found["probability"] == pytest.approx(row["probability"], rel=1e-4)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.splitlines()[0] == "17 videos in results, 0 of them now"
    assert again.stdout.splitlines()[1:] == run.stdout.splitlines()[1:]
    assert (again.returncode, again.stderr) == (1, "dynvid: passed over: 1 .md, 1 met twice\n")


def test_each_video_is_audited_that_was_drawn(put, checkpoint, here, capsys):
    for number in range(5):
        put(f"root/{number}.mp4")
    changed = torch.load(checkpoint, weights_only=True)
    changed["state_dict"]["policy.thresholds"] = torch.tensor([0.0, 0.0, 0.0, 0.0])  # all leave by the first exit
    torch.save(changed, "first.ckpt")
    with pytest.raises(SystemExit) as ended:
        main(["classify", "first.ckpt", "root", "--audit", "1", "--precision", "float32"])
    assert ended.value.code == 0
    assert re.search(r"nothing promised: \d of 5 audited videos were given another label", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ray"], "--engine: goes with --out"),
        (["--time-limit", "9"], "--time-limit: goes with --out"),
        (["--retry-errors"], "--retry-errors: goes with --out"),
        (["--out", "results", "--json"], "--json: goes without --out"),
        (["--out", "results", "--actors", "2"], "--actors: goes with --engine ray"),
        (["--out", "results", "--engine", "spark"], "invalid choice: 'spark'"),
    ],
)
def test_options_of_many_files_that_do_not_go_together(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["classify", "net.ckpt", "v.mp4", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_path_that_is_missing_is_said_before_a_folder_is_made(here, capsys):
    with pytest.raises(SystemExit):
        main(["classify", "net.ckpt", "gone.mp4", "--out", "results"])
    assert capsys.readouterr().err == "dynvid: error: gone.mp4: no such file or folder\n"
    assert not Path("results").exists()
