"""`dynvid export`: what it writes, whose report it finds, and what it refuses before any work."""

import json
import os
import shutil
import tempfile

import pytest
import torch

from dynvid import UnifiedExitNet
from dynvid.calibration import OperatingPoint
from dynvid.checkpoint import fingerprint
from dynvid.cli import main
from dynvid.inference import Recognizer
from dynvid.inference.saving import as_checkpoint
from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.report import write_report

POINT = OperatingPoint("max_drop", 0.01, 0.95, "val", 400, 400, lost=0.0025, gmacs=0.03)
LEVELS = [0.5, float("inf"), 0.75, float("-inf")]


@pytest.fixture(scope="module")
def runs(scramble_net, tmp_path_factory):
    """Runs as `fit` and `test` leave them: a checkpoint, and beside its run those of two tests."""
    folder = tmp_path_factory.mktemp("runs")
    net = scramble_net(UnifiedExitNet, input_size=32)
    policy = ThresholdPolicy(thresholds=LEVELS)
    checkpoint = as_checkpoint(net, policy, list("abcde"), POINT)
    (folder / "version_0" / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, folder / "version_0" / "checkpoints" / "best.ckpt")
    for number, weights in ((1, fingerprint(checkpoint["state_dict"])), (2, "of another net")):
        outputs = Outputs(
            logits=torch.randn(4, 20, 5),
            labels=torch.arange(20) % 5,
            paths=[f"{k}.mp4" for k in range(20)],
            recordings=[f"{k}.mp4" for k in range(20)],
            route=net.route,
            gmacs=net.gmacs,
            full_gmacs=net.full_gmacs,
            policy=policy,
            point=POINT,
            split="test",
            weights=weights,
            run={"data": f"set {number}"},
        )
        write_report(outputs, folder / f"version_{number}", gallery=False)
    return folder


def export(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, arguments)])
    return ended.value.code


def test_the_report_of_the_same_weights_is_found_and_its_figures_are_in_the_card(runs, tmp_path, capsys):
    assert export(runs / "version_0" / "checkpoints" / "best.ckpt", tmp_path / "new") == 0
    out = capsys.readouterr().out
    assert f"report: {runs / 'version_1' / 'report.json'}" in out
    assert f"promise: {POINT}" in out
    card = (tmp_path / "new" / "README.md").read_text()
    report = json.loads((runs / "version_1" / "report.json").read_text())
    assert "set 1" in card
    assert f"{100 * report['dynamic']['accuracy']:.1f} %" in card
    assert Recognizer.load(tmp_path / "new").point == POINT


def test_a_report_is_named_or_refused_where_it_is_of_others(runs, tmp_path, capsys):
    checkpoint = runs / "version_0" / "checkpoints" / "best.ckpt"
    assert export(checkpoint, tmp_path / "a", "--report", runs / "version_1") == 0
    capsys.readouterr()
    for report, reason in [
        (runs / "version_2", "report.json: is of other weights or thresholds than the model has"),
        (runs / "version_0", "report.json: no such report; `dynvid test` writes one"),
        (checkpoint, "best.ckpt: is no report of dynvid"),
    ]:
        assert export(checkpoint, tmp_path / "b", "--report", report) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        assert not (tmp_path / "b").exists()


def test_only_runs_are_looked_into_for_a_report(runs, tmp_path, capsys):
    other = tmp_path / "me" / "models"
    other.mkdir(parents=True)
    shutil.copy(runs / "version_0" / "checkpoints" / "best.ckpt", other)
    shutil.copytree(runs / "version_1", tmp_path / "somebody")
    assert export(other / "best.ckpt", tmp_path / "new") == 0
    assert "report: " not in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_sibling_that_may_not_be_looked_into_is_passed_over(runs, capsys):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are private
        shutil.copytree(runs, f"{folder}/runs")
        os.mkdir(f"{folder}/runs/private", mode=0o700)
        os.mkdir(f"{folder}/out")
        for path in (folder, f"{folder}/runs", f"{folder}/out", f"{folder}/runs/version_0/checkpoints/best.ckpt"):
            os.chmod(path, 0o777)
        os.seteuid(65534)
        try:
            code = export(f"{folder}/runs/version_0/checkpoints/best.ckpt", f"{folder}/out/new")
        finally:
            os.seteuid(0)
        assert code == 0, capsys.readouterr().err
        with open(f"{folder}/out/new/README.md") as file:
            assert "set 1" in file.read()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--int8", "clips"], 1, "--int8 needs one of --max-disagreement and --budget"),
        (["--int8", "clips", "--budget", "1", "--max-disagreement", "0.1"], 1, "--int8 needs one of"),
        (["--max-disagreement", "0.1"], 1, "--max-disagreement is for --int8; `dynvid calibrate` changes"),
        (["--runtime", "tensorrt"], 2, "invalid choice: 'tensorrt'"),
        (["--runtme", "onnx"], 2, "--runtme: no such key; did you mean --runtime?"),
    ],
)
def test_options_that_do_not_go_together_are_said_in_one_line(runs, tmp_path, capsys, arguments, code, reason):
    assert export(runs / "version_0" / "checkpoints" / "best.ckpt", tmp_path / "new", *arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not (tmp_path / "new").exists()


def test_nothing_is_replaced_and_what_is_no_model_is_refused(runs, tmp_path, capsys):
    checkpoint = runs / "version_0" / "checkpoints" / "best.ckpt"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / "no.ckpt").write_text("no")
    for model, folder, reason in [
        (checkpoint, tmp_path / "mine", "mine: holds files already; name a new folder, nothing is replaced"),
        (checkpoint, checkpoint, "best.ckpt: is there already, and no folder"),
        (tmp_path / "no.ckpt", tmp_path / "new", "no.ckpt: is no checkpoint"),
        (tmp_path / "mine", tmp_path / "new", "mine: is no model's folder, it has no config.json"),
        (tmp_path / "gone.ckpt", tmp_path / "new", "gone.ckpt: no such checkpoint"),
    ]:
        assert export(model, folder) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]
    assert not (tmp_path / "new").exists()


def test_a_package_that_is_missing_is_named_before_any_work(runs, tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "nncf", None)
    checkpoint = runs / "version_0" / "checkpoints" / "best.ckpt"
    for options, extra in [
        (["--runtime", "onnx"], "onnx"),
        (["--int8", runs, "--max-disagreement", "0.1"], "openvino"),
    ]:
        assert export(checkpoint, tmp_path / "new", *options) == 1
        assert f"pip install 'dynvid[{extra}]'" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
