"""Sets of labels through the whole command line, on real files: one word turns them on."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dynvid.cli import main
from dynvid.data.synthetic import SHAPES, draw_scene, render, write_clip
from dynvid.inference import Recognizer, label_files
from dynvid.inference.bulk.results import parts_of
from dynvid.outputs import Outputs

COUNTS = {"train": 24, "val": 24, "test": 12}
NET = [
    *("--model.net.backbone=test_resnet", "--model.net.pretrained=false", "--model.warmup_epochs=0"),
    *("--trainer.accelerator=cpu", "--trainer.max_epochs=1"),
]


def run(*words):
    """The exit code of a command."""
    try:
        return main([str(word) for word in words]) or 0
    except SystemExit as left:
        return left.code or 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Clips of up to two shapes at once, and a net trained on them; the current folder is theirs from then on."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    rows = ["path,label,split"]
    (folder / "clips").mkdir()
    for split, count in COUNTS.items():
        for n in range(count):
            names = [shape for shape in SHAPES[:2] if rng.random() < 0.5]
            drawn = [render(draw_scene(shape, rng), 6, 32) for shape in names] or [np.zeros((6, 32, 32, 3), np.uint8)]
            write_clip(folder / "clips" / f"{split}{n}.mp4", np.max(drawn, axis=0))
            rows.append(f"clips/{split}{n}.mp4,{';'.join(names)},{split}")
    (folder / "all.csv").write_text("\n".join(rows))
    data = ["--config=folder.yaml", f"--data.root={folder}", "--data.annotations=all.csv", "--data.multi_label=true"]
    data += ["--data.num_frames=4", "--data.size=32", "--data.num_workers=0"]
    logs = f"--trainer.default_root_dir={folder / 'logs'}"
    assert run("fit", *data, *NET, logs, "--calibration.max_drop=0.5") == 0
    (checkpoint,) = folder.glob("logs/lightning_logs/version_0/checkpoints/best.ckpt")
    return folder, data, [*NET, logs], checkpoint


@pytest.mark.slow
def test_from_training_to_a_report(trained, capsys):
    folder, data, net, checkpoint = trained
    saved = torch.load(checkpoint, weights_only=True)["dynvid"]
    assert saved["multi_label"] is True
    assert saved["class_names"] == ["square", "triangle"]
    assert run("test", *data, *net, f"--ckpt_path={checkpoint}") == 0
    said = capsys.readouterr().out
    assert "mAP" in said
    (table,) = folder.glob("logs/lightning_logs/version_*/outputs_test.parquet")
    outputs = Outputs.read(table)
    listed = {row["path"]: row["label"] for row in csv.DictReader((folder / "all.csv").open())}
    for path, label in zip(outputs.paths, outputs.labels.tolist(), strict=True):
        names = [name for name, there in zip(outputs.class_names, label, strict=True) if there]
        assert ";".join(names) == listed[path.removeprefix(f"{folder}/")]
    report = json.loads(table.with_name("report.json").read_text())
    assert report["measure_name"] == "set accuracy"
    assert report["full"]["accuracy"] == pytest.approx(float(outputs.correct[-1].double().mean()))
    for name in ("map", "f1", "micro_f1", "macro_recall"):
        assert 0 <= report["dynamic"][name] <= 1
        assert 0 <= report["exits"][0][name] <= 1
    before = table.with_name("report.html").read_text()
    assert "set accuracy" in before
    assert "op-1" not in before
    assert run("report", str(table)) == 0
    assert table.with_name("report.html").read_text() == before
    assert "Set accuracy is" in capsys.readouterr().out


@pytest.mark.slow
def test_other_operating_points_and_answers(trained, capsys, tmp_path):
    folder, data, _, checkpoint = trained
    clips = sorted((folder / "clips").glob("test*.mp4"))
    by_disagreement, by_drop = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    asked = ["--max-disagreement=0.5", f"--output={by_disagreement}", "--num-workers=0"]
    assert run("calibrate", str(checkpoint), "--videos", *map(str, clips), *asked) == 0
    options = ["--max-drop=0.5", "--temperature=true", "--score=margin", f"--output={by_drop}"]
    assert run("calibrate", str(checkpoint), *data, *options) == 0
    assert not Outputs.read(by_disagreement.with_suffix(".parquet")).labelled
    assert Outputs.read(by_drop.with_suffix(".parquet")).labelled
    capsys.readouterr()
    for model in (by_disagreement, by_drop):
        recognizer = Recognizer.load(model)
        assert recognizer.policy.multi_label
        assert run("classify", str(model), *map(str, clips), "--json") == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for row, found in zip(rows, recognizer.many(clips, batch_size=3), strict=True):
            assert (row["label"], row["labels"]) == (found.label, list(found.labels))
            assert found.label == ";".join(found.labels)
            assert set(found.labels) <= {"square", "triangle"}
    assert run("classify", str(by_drop), *map(str, clips)) == 0
    shown = capsys.readouterr().out
    for row in rows:
        assert (row["label"] or "none of them") in shown
    assert run("timeline", str(by_drop), str(clips[0])) == 1
    assert "a segment has one" in capsys.readouterr().err


@pytest.mark.slow
def test_folders_files_and_predictions(trained, tmp_path):
    folder, data, net, checkpoint = trained
    clips = sorted((folder / "clips").glob("test*.mp4"))
    Recognizer.load(checkpoint).save(tmp_path / "model")
    again = Recognizer.load(tmp_path / "model")
    expected = {str(clip): again(clip) for clip in clips}
    assert "each with a set of classes" in (tmp_path / "model" / "README.md").read_text()
    label_files(tmp_path / "model", clips, tmp_path / "out", workers=1)
    rows = [row for part in parts_of(tmp_path / "out") for row in pq.read_table(part).to_pylist()]
    assert {row["path"]: row["label"] for row in rows} == {path: found.label for path, found in expected.items()}
    assert all(row["error"] is None for row in rows)
    assert run("predict", *data, *net, f"--ckpt_path={checkpoint}") == 0
    (file,) = folder.glob("logs/lightning_logs/version_*/predictions.csv")
    predicted = {row["path"]: row["label"] for row in csv.DictReader(file.open())}
    assert predicted == {path: found.label for path, found in expected.items()}
    shutil.rmtree(file.parent)


@pytest.mark.slow
def test_data_and_checkpoint_that_do_not_go_together(trained, capsys):
    _, data, net, checkpoint = trained
    plain = [word for word in data if "multi_label" not in word]
    assert run("test", *plain, *net, f"--ckpt_path={checkpoint}") == 1
    assert "path or label is empty" in capsys.readouterr().err  # the same file is no data of single labels
    assert run("calibrate", str(checkpoint), *plain, "--budget=0.01") == 1
    assert "data.multi_label=False: the checkpoint's net takes True" in capsys.readouterr().err
