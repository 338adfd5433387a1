"""The commands as a user types them, on real files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch._utils import ExceptionWrapper

import dynvid
from dynvid.cli import main
from dynvid.errors import VideoError
from dynvid.outputs import Outputs

TINY = [
    *("--data.clips_per_class", "3", "--data.clip_frames", "8", "--data.size", "32", "--data.num_frames", "4"),
    *("--data.batch_size", "8", "--data.num_workers", "0", "--trainer.max_epochs", "1"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder in which `dynvid fit --config quickstart.yaml` was run."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "quickstart.yaml", *TINY])
    return folder


@pytest.fixture
def here(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    return fitted


def best(folder):
    return next(folder.glob("logs/quickstart/lightning_logs/*/checkpoints/best.ckpt"))


def fails(capsys, *arguments):
    """Exit code and the single line of the error."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dynvid: error:")]
    assert len(error) == 1
    return caught.value.code, error[0]


@pytest.mark.slow
def test_test_prints_the_two_lines_and_writes_the_report(here, capsys):
    main(["test", "--config", "quickstart.yaml", "--ckpt_path", "best", *TINY])
    printed = capsys.readouterr().out
    assert "full inference:    " in printed
    assert "% saved" in printed
    report = json.loads(max(here.glob("logs/**/report.json")).read_text())
    assert set(report["full"]) == set(report["dynamic"]) == {"accuracy", "gmacs", "macro_recall"}
    assert [(e["frames"], e["depth"]) for e in report["exits"]] == [(1, 2), (2, 3), (2, 4), (4, 4)]
    assert sum(e["share"] for e in report["exits"]) == pytest.approx(1)
    assert max(here.glob("logs/**/report.json")).with_name("flops_accuracy.png").is_file()


@pytest.mark.slow
def test_two_processes_record_what_one_does(here, tmp_path):
    """Each answers half of the clips; the first writes the table of all."""
    tables = []
    for count in ("1", "2"):
        command = [str(Path(sys.executable).with_name("dynvid")), "test", "--config", "quickstart.yaml", *TINY]
        command += ["--ckpt_path", str(best(here)), "--trainer.default_root_dir", str(tmp_path / count)]
        command += ["--trainer.accelerator", "cpu", "--trainer.devices", count, "--trainer.strategy"]
        command += ["auto" if count == "1" else "ddp", "--data.batch_size", "7"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        tables.append(Outputs.read(next((tmp_path / count).rglob("outputs_test.parquet"))))
    one, two = tables
    assert two.paths == one.paths
    assert len(one.paths) == 20
    assert torch.equal(two.labels, one.labels)
    assert torch.allclose(two.logits, one.logits, atol=1e-5)
    assert two.weights == one.weights


def test_a_checkpoint_needs_no_pretrained_weights(here, capsys):
    """The config may name weights that are not on this machine: those of the checkpoint are used."""
    gone = ["--model.net.pretrained", "gone.pth"]
    main(["validate", "--config", "quickstart.yaml", "--ckpt_path", "best", *TINY, *gone])
    assert "dynamic inference: " in capsys.readouterr().out


@pytest.mark.slow
def test_resume_from_last_goes_on_where_the_best_is(here, capsys, recwarn):
    def best_score():
        callbacks = torch.load(best(here).with_name("last.ckpt"), weights_only=True)["callbacks"]
        return next(state["best_model_score"] for name, state in callbacks.items() if "ModelCheckpoint" in name)

    before = best_score()
    main(["fit", "--config", "quickstart.yaml", *TINY, "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    assert "checkpoint: logs/quickstart/lightning_logs/version_0/checkpoints/last.ckpt" in capsys.readouterr().out
    assert best_score() >= before
    assert not [w for w in recwarn if "dirpath has changed" in str(w.message)]
    config = sorted(here.glob("logs/quickstart/lightning_logs/*/config.yaml"))[-1]
    assert yaml.safe_load(config.read_text())["model"]["net"]["class_path"] == "dynvid.UnifiedExitNet"


def printed_config(capsys, *configs):
    with pytest.raises(SystemExit):
        main(["fit", *(word for name in configs for word in ("--config", name)), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["model"]["net"]


SCHEMES = {
    "depth.yaml": ("DepthExitNet", "chronological"),
    "input.yaml": ("InputExitNet", "chronological"),
    "permuted.yaml": ("InputExitNet", "thue_morse"),
    "unified.yaml": ("UnifiedExitNet", "thue_morse"),
}
STATIC = {"tsn.yaml": ("ExitNet", "none"), "tsm.yaml": ("ExitNet", "bidirectional")}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet101.yaml", "msdnet.yaml"])
def test_overlays_compose(capsys, backbone):
    """Each scheme with each shift, whatever the configs before it said."""
    name = {"resnet101.yaml": "resnet101.tv_in1k", "msdnet.yaml": "msdnet38"}[backbone]
    for before, scheme in (
        ("input.yaml", "unified.yaml"),
        ("unified.yaml", "input.yaml"),
        *zip(SCHEMES, SCHEMES, strict=True),
    ):
        for shift, overlay in (("none", "noshift.yaml"), ("online", "online.yaml")):
            net = printed_config(capsys, "ucf101.yaml", "noshift.yaml", backbone, before, scheme, overlay)
            assert net["class_path"] == f"dynvid.{SCHEMES[scheme][0]}"
            arguments = net["init_args"]
            assert (arguments["backbone"], arguments["shift"], arguments["dropout"]) == (name, shift, 0.5)
            assert arguments["frame_order"] == SCHEMES[scheme][1]
    for overlay, (cls, shift) in STATIC.items():
        net = printed_config(capsys, "ucf101.yaml", backbone, overlay)
        assert (net["class_path"], net["init_args"]["shift"]) == (f"dynvid.{cls}", shift)


@pytest.mark.parametrize("overlay", STATIC)
@pytest.mark.slow
def test_static_nets_train_and_test_under_a_budget_too(here, capsys, overlay):
    common = ["--config", "quickstart.yaml", "--config", overlay, *TINY]
    budget = ["--calibration.budget", "0.001", "--calibration.max_drop", "null"]
    main(["fit", *common, *budget, "--trainer.default_root_dir", f"logs/{overlay}"])
    main(["test", *common, "--trainer.default_root_dir", f"logs/{overlay}", "--ckpt_path", "best"])
    assert "0.0 % saved, +0.0 points" in capsys.readouterr().out


@pytest.mark.slow
def test_training_options_of_the_readme(here, capsys):
    options = """--model.loss ExitLoss --model.loss.weights [0.5,1,1,1] --model.loss.label_smoothing 0.1
        --model.loss.distillation 1.0 --model.loss.temperature 2 --model.gradient_equilibrium true
        --model.net.dropout 0.5 --model.warmup_epochs 1 --model.backbone_lr_scale 0.1 --model.freeze_batch_norm true
        --trainer.callbacks+=EMAWeightAveraging --model.gradient_checkpointing true"""
    main(["fit", "--config", "quickstart.yaml", *TINY, *options.split(), "--trainer.default_root_dir", "logs/options"])
    assert "checkpoint: " in capsys.readouterr().out
    main(["test", "--config", "quickstart.yaml", *TINY, *options.split(), "--trainer.default_root_dir", "logs/options",
          "--ckpt_path", "best"])  # fmt: skip
    assert "dynamic inference: " in capsys.readouterr().out


def test_predict_writes_one_line_per_video(here):
    main(["predict", "--config", "quickstart.yaml", "--ckpt_path", "best", *TINY])
    with max(here.glob("logs/**/predictions.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 * 2
    assert all(Path(row["path"]).is_file() and 0 <= float(row["probability"]) <= 1 for row in rows)


def test_classify_prints_a_table_and_json(here, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["classify", str(best(here)), "data/synthetic/test/ring"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "ring_0000.mp4" in printed
    assert "frames read" in printed
    with pytest.raises(SystemExit):
        main(["classify", str(best(here)), "data/synthetic/test/ring/ring_0000.mp4", "--json"])
    row = json.loads(capsys.readouterr().out)
    answer = {"path", "label", "labels", "probability", "answered"}
    assert set(row) == answer | {"frames", "depth", "gmacs", "saved", "milliseconds"}
    assert row["frames"] in (1, 2, 4)


@pytest.mark.slow
def test_classify_brings_nothing_of_training_along(here):
    code = [
        "import sys",
        "from contextlib import suppress",
        "from dynvid.cli import main",
        f"with suppress(SystemExit): main(['classify', {str(best(here))!r}, 'data/synthetic/test/ring/ring_0000.mp4'])",
        "print(*sys.modules)",
    ]
    run = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    assert "ring_0000.mp4" in run.stdout
    training = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "tensorboard", "jsonargparse"}
    assert not {*training, "matplotlib", "pyarrow"} & set(run.stdout.splitlines()[-1].split())


GONE = [["--help"], ["classify", "{best}", "data/synthetic/test/ring", "--precision", "float32"]]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", GONE)
def test_a_reader_that_is_gone_is_no_error(here, arguments):
    program = Path(sys.executable).with_name("dynvid")
    command = [str(program), *(word.format(best=best(here)) for word in arguments)]
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert run.stderr == ""
    assert run.returncode == 1


def test_a_broken_pipe_elsewhere_is_said(here, capsys, monkeypatch):
    def broken(*_):
        raise BrokenPipeError("a loader process died")

    monkeypatch.setattr(sys.modules["dynvid.commands.classify"], "run", broken)
    code, line = fails(capsys, "classify", "x.ckpt", "x.mp4")
    assert (code, line) == (1, "dynvid: error: a loader process died")


@pytest.mark.slow
def test_classify_stops_in_silence_where_nobody_reads(here, tmp_path):
    program = Path(sys.executable).with_name("dynvid")
    for i in range(300):  # more than are done before the reader has gone
        (tmp_path / f"{i}.mp4").symlink_to(here / "data/synthetic/test/ring/ring_0000.mp4")
    command = f"set -o pipefail; '{program}' classify '{best(here)}' {tmp_path} --json | head -n 1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stdout.count("\n") == 1
    assert run.returncode == 1
    assert "Broken pipe" not in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.logger", "false"],
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "run", "--trainer.logger.name", "mine"],
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "elsewhere"],
        ["--checkpoint.dirpath", "kept", "--checkpoint.filename", "final"],
        [
            *("--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=tables"),
            *("--trainer.logger+=TensorBoardLogger", "--trainer.logger.save_dir=board"),
        ],
    ],
)
def test_last_and_best_are_found_whatever_the_logger(fitted, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    common = ["--config", "quickstart.yaml", *TINY, "--data.root", str(fitted / "data/synthetic")]
    common += ["--trainer.default_root_dir", "run", *arguments]
    main(["fit", *common])
    capsys.readouterr()
    for wanted in ("last", "best"):
        main(["test", *common, "--ckpt_path", wanted])
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint: "))
        assert ("last.ckpt" in line) == (wanted == "last")


def test_classify_goes_on_after_an_unreadable_file(here, capsys):
    (here / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit) as caught:
        main(["classify", str(best(here)), "broken.mp4", "data/synthetic/test/ring/ring_0000.mp4", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert caught.value.code == 1
    assert "broken.mp4: cannot open" in rows[0]["error"]
    assert rows[1]["label"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fit", "--config", "nope.yaml"], "config nope.yaml: no such file, and no packaged config; there are"),
        (["fit", "--config", "quickstart.yaml", "--model.net.backbne", "x"], "--model.net.backbne: no such key"),
        (["fit", "--config", "quickstart.yaml", "--data.rot", "x"], "rot"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--model.net.backbone", "resnet51"], "no model 'resnet51'"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--data.size", "48"], "remove it or choose another root"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--model.net.route", "[[4,4],[2,4]]"], "goes back"),
        (
            ["fit", "--config", "folder.yaml", "--model.net.pretrained", "false", "--data.root", "nowhere"],
            "nowhere does not exist",
        ),
        (["test", "--config", "quickstart.yaml", *TINY], "test needs --ckpt_path"),
        (["test", "--config", "quickstart.yaml", *TINY, "--ckpt_path", "gone.ckpt"], "gone.ckpt: no such file"),
        (
            ["test", "--config", "quickstart.yaml", *TINY, "--ckpt_path", "best", "--model.net.shift", "none"],
            "another net",
        ),
        (["classify", "gone.ckpt", "."], "gone.ckpt: no such checkpoint"),
        (["classify"], "required: checkpoint, paths"),
        (["frobnicate"], "no command 'frobnicate'"),
        (
            ["test", "--config", "quickstart.yaml", *TINY, "--ckpt_path", "best", "--checkpoint.filename", "{epoch}"],
            "the checkpoint arguments make several files",
        ),
        (
            ["test", "--config", "quickstart.yaml", *TINY, "--ckpt_path", "best", "--checkpoint.save_top_k", "2"],
            "the checkpoint arguments make several files",
        ),
        (["fit", "--config", "quickstart.yaml", "--data.size", "63"], "error: size=63: H.264 needs an even number"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--data.batch_size", "0"], "error: batch_size=0: 1 or more"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--data.num_workers", "-1"], "error: num_workers=-1: 0 or more"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--model.optimizer.lr", "-1"], "error: model.optimizer: Inv"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--model.optimizer.lr", "1e30"], "training has diverged"),
        (["fit", "--config", "quickstart.yaml", *TINY, "--calibration.budget", "1"], "max_drop=0.01 beside budget=1"),
        (["fit", "--config", "bad.yaml"], "config bad.yaml: "),
        (["fit", "--config", "latin.yaml"], "config latin.yaml: "),
        (["check", "--config", "flat.yaml"], "config flat.yaml: `data` is no section"),
        (["check"], "check needs --config"),
        (["check", "--config", "word.yaml"], "config word.yaml: not a YAML mapping"),
        (["check", "--config", "bad.yaml"], "config bad.yaml: "),
    ],
)
def test_bad_input_is_one_line_and_a_non_zero_code(here, capsys, arguments, reason):
    Path("bad.yaml").write_text("data: [\n")
    Path("word.yaml").write_text("data\n")
    Path("flat.yaml").write_text("data: UCF101DataModule\n")
    Path("latin.yaml").write_bytes(b"# caf\xe9\n")
    code, line = fails(capsys, *arguments)
    assert code in (1, 2)
    assert reason in line
    assert r"\x0a" not in line  # lines of other libraries are joined, not escaped


def test_what_a_loader_process_says_is_its_last_message_with_its_names_escaped(capsys, monkeypatch):
    def in_a_loader(_):
        try:
            raise VideoError("two\nlines.mp4: cannot open")
        except VideoError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr(sys.modules["dynvid.commands.classify"], "run", in_a_loader)
    assert fails(capsys, "classify", "x.ckpt") == (1, r"dynvid: error: two\x0alines.mp4: cannot open")


@pytest.mark.parametrize("folder", ["file", "file/deep/er", "locked/deeper"])
@pytest.mark.parametrize("command", [["fit"], ["test", "--ckpt_path", "best"]])
def test_a_log_folder_that_cannot_be_written_is_named(tmp_path, capsys, monkeypatch, folder, command):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("locked").mkdir()
    access = os.access
    # Permissions do not stop the superuser, who may run this.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    code, line = fails(capsys, *command, "--config", "quickstart.yaml", *TINY, "--trainer.default_root_dir", folder)
    assert code == 1
    assert line.startswith(f"dynvid: error: trainer.default_root_dir {folder}: {tmp_path / folder.split('/')[0]} is no")
    assert not Path("data").exists()


@pytest.mark.parametrize("before", [[], ["--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=x"]])
def test_a_logger_without_its_package_is_one_line(here, capsys, tmp_path, monkeypatch, before):
    text = "from pytorch_lightning.loggers import CSVLogger\nclass Far(CSVLogger):\n"
    text += "    def __init__(self, save_dir: str = 'x'):\n        import package_that_is_not_there\n"
    (tmp_path / "farlogger.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    code, line = fails(capsys, "fit", "--config", "quickstart.yaml", *TINY, *before, "--trainer.logger+=farlogger.Far")
    assert (code, line) == (1, "dynvid: error: a package is missing: No module named 'package_that_is_not_there'")


@pytest.mark.slow
def test_the_console_has_lines_or_a_bar(here, capsys, caplog, monkeypatch):
    command = [word for word in TINY if word not in ("--trainer.enable_progress_bar", "--trainer.enable_model_summary")]
    command = [word for word in command if word != "false"] + ["--trainer.logger", "false"]
    main(["fit", "--config", "quickstart.yaml", *command, "--checkpoint.dirpath", "lines"])
    printed = capsys.readouterr().out
    assert printed.startswith("net: UnifiedExitNet of 0.399 M parameters; GMACs up to each exit (frames x depth): 1x2 ")
    assert "\nepoch 1/1, train/loss " in printed
    assert "FLOPs" not in printed
    assert "Tip" not in caplog.text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(["fit", "--config", "quickstart.yaml", *command, "--checkpoint.dirpath", "lines"])
    assert "epoch 1/1" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["test", "fit", "predict"])
def test_damaged_or_hostile_checkpoints_are_one_line(here, capsys, tmp_path, command):
    (tmp_path / "cut.ckpt").write_bytes(best(here).read_bytes()[:20_000])
    code, line = fails(capsys, command, "--config", "quickstart.yaml", *TINY, "--ckpt_path", str(tmp_path / "cut.ckpt"))
    assert code == 1
    assert "cut.ckpt: is no checkpoint, is truncated" in line


def test_classes_that_a_checkpoint_names_are_not_imported(here, capsys, tmp_path, monkeypatch):
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Opt: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    content = torch.load(best(here), weights_only=True)
    content["hyper_parameters"] = {"optimizer": {"class_path": "evilmod.Opt"}}
    torch.save(content, tmp_path / "evil.ckpt")
    main(["test", "--config", "quickstart.yaml", *TINY, "--ckpt_path", str(tmp_path / "evil.ckpt")])
    assert not (tmp_path / "pwned").exists()


def test_names_with_brackets_are_printed(here, capsys, tmp_path):
    clip = tmp_path / "Title [dQw4w9WgXcQ].mp4"
    shutil.copy("data/synthetic/test/ring/ring_0000.mp4", clip)
    with pytest.raises(SystemExit):
        main(["classify", str(best(here)), str(clip)])
    assert "[dQw4w9WgXcQ]" in capsys.readouterr().out


def test_unreadable_training_video_names_the_file(here, capsys, tmp_path):
    shutil.copytree("data/synthetic/train", tmp_path / "own" / "train")
    (tmp_path / "own" / "train" / "ring" / "ring_0001.mp4").write_bytes(b"broken")
    own = [
        "fit",
        "--config",
        "folder.yaml",
        "--data.root",
        str(tmp_path / "own"),
        "--data.size",
        "32",
        "--data.num_frames",
        "4",
    ]
    own += [
        "--model.net.backbone",
        "test_resnet",
        "--model.net.pretrained",
        "false",
        "--trainer.enable_progress_bar",
        "false",
    ]
    code, line = fails(capsys, *own, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path))
    assert code == 1
    assert "ring_0001.mp4" in line


@pytest.mark.slow
def test_check_lists_the_unreadable_and_fit_leaves_them_out(here, capsys, tmp_path):
    shutil.copytree("data/synthetic", tmp_path / "own")
    (tmp_path / "own" / "train" / "ring" / "ring_0001.mp4").write_bytes(b"broken")
    own = ["--config", "folder.yaml", "--data.root", str(tmp_path / "own")]
    with pytest.raises(SystemExit) as caught:
        main(["check", *own, "--folder", str(tmp_path / "check"), "--num_workers", "1"])
    assert caught.value.code == 1
    with (tmp_path / "check" / "unreadable.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["path"].endswith("ring_0001.mp4")
    assert "cannot open" in row["reason"]
    own += ["--data.size", "32", "--data.num_frames", "4", "--data.num_workers", "0", "--trainer.max_epochs", "1"]
    own += [
        "--model.net.backbone",
        "test_resnet",
        "--model.net.pretrained",
        "false",
        "--trainer.limit_val_batches",
        "1",
    ]
    main(["fit", *own, "--data.exclude", str(tmp_path / "check" / "unreadable.csv"), "--trainer.logger", "false"])


def test_help_lists_commands_and_configs(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    for word in (
        "fit",
        "validate",
        "test",
        "predict",
        "classify",
        "check",
        "quickstart.yaml",
        "ucf101.yaml",
        "folder.yaml",
    ):
        assert word in printed


def test_the_console_script_is_installed():
    done = subprocess.run([Path(sys.executable).with_name("dynvid"), "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == dynvid.__version__
