"""`dynvid fit --folds`: who answers what, what the final net is given, and that nothing finished is lost."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynvid.calibration import Audit, OperatingPoint, thresholds_for_risk
from dynvid.checkpoint import read_checkpoint
from dynvid.cli import main
from dynvid.data import VideoDataset, VideoFolderDataModule
from dynvid.inference import Recognizer
from dynvid.module import DynamicInferenceModule
from dynvid.outputs import Outputs
from dynvid.report import summarise

FOLDS = 3
PLATEAU = "pytorch_lightning.cli.ReduceLROnPlateau"
SMALL = {"num_frames": 4, "size": 32, "batch_size": 6, "num_workers": 0}
TINY = [
    *("--config", "folder.yaml", "--model.net.backbone", "test_resnet", "--model.net.pretrained", "false"),
    *(word for name, value in SMALL.items() for word in (f"--data.{name}", str(value))),
    *("--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--data.annotations", "a.csv"),
]


def arguments(command, videos, *more):
    more = ("--calibration.max_drop=0.3", *more) if command == "fit" else more
    return [command, *TINY, "--data.root", str(videos), "--trainer.default_root_dir", "run", *more]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """40 videos of 20 recordings in train, 10 of 5 in val and 4 in test, of two classes: bright and dark."""
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    rows = ["path,label,split,group"]
    for n in range(54):
        split = "train" if n < 40 else "val" if n < 50 else "test"
        rows.append(f"{n},{'dark' if n // 2 % 2 else 'bright'},{split},tape {n // 2}")
        (root / f"{n}").mkdir()
        for frame in range(4):
            pixels = rng.integers(0, 140, (32, 32, 3), np.uint8) + np.uint8(0 if n // 2 % 2 else 100)
            Image.fromarray(pixels).save(root / f"{n}" / f"{frame}.png")
    (root / "a.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A finished run: its folder, and which videos were read, in order: `(whether to train, path)`."""
    folder, reads, read = tmp_path_factory.mktemp("run"), [], VideoDataset.__getitem__

    def noted(self, index):
        reads.append((self.train, self.videos[index].path))
        return read(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(VideoDataset, "__getitem__", noted)
        main(arguments("fit", videos, "--folds", str(FOLDS)))
    return folder, reads


@pytest.fixture
def here(run, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    shutil.copytree(run[0] / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run/folds/version_0")


def fails(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([*words])
    assert caught.value.code in (1, 2)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("dynvid: error: "))
    return line


def calibrated(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", *words])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_no_video_is_answered_by_a_net_that_saw_its_recording(run, videos):
    """By what was read from the disk: to train, then to answer, fold after fold, then to train the final net."""
    folder, reads = run
    phases = []
    for is_training, path in reads:
        if not phases or phases[-1][0] != is_training:
            phases.append((is_training, set()))
        phases[-1][1].add(path)
    assert [is_training for is_training, _ in phases] == [True, False] * FOLDS + [True]
    recording = {video.path: video.group for split in ("train", "val") for video in data_of(videos).videos(split)}
    answered = []
    for fold in range(FOLDS):
        (_, seen), (_, asked) = phases[2 * fold : 2 * fold + 2]
        assert not {recording[path] for path in seen} & {recording[path] for path in asked}
        table = Outputs.read(folder / f"run/folds/version_0/fold-{fold + 1}/outputs.parquet")
        assert set(table.paths) == asked
        answered += table.paths
    assert sorted(answered) == sorted(recording)
    pooled = Outputs.read(folder / "run/folds/version_0/final/checkpoints/outputs_out-of-fold.parquet")
    assert pooled.paths == answered
    assert pooled.recordings == [recording[path] for path in answered]
    assert phases[-1][1] <= set(recording)


def data_of(videos, annotations="a.csv", **more):
    return VideoFolderDataModule(videos, annotations=annotations, val_fraction=0.2, **SMALL, **more)


def test_a_fold_is_what_training_by_hand_on_the_others_gives(run, videos, tmp_path, monkeypatch):
    data = data_of(videos)
    data.fold = (2, FOLDS)
    rows = [
        f"{Path(video.path).name},{data.class_names[video.label]},{split},{video.group}"
        for split in ("train", "val", "test")
        for video in data.videos(split)
    ]
    (videos / "hand.csv").write_text("\n".join(["path,label,split,group", *rows]))
    monkeypatch.chdir(tmp_path)
    by_hand = ["--data.annotations", "hand.csv", "--trainer.limit_val_batches", "0", "--checkpoint.monitor", "null"]
    main(arguments("fit", videos, *by_hand))
    module = DynamicInferenceModule.load_from_checkpoint(next(Path("run").rglob("last.ckpt")))
    with torch.no_grad():
        logits = [module.net(batch["video"]) for batch in data_of(videos, "hand.csv").val_dataloader()]
    recorded = Outputs.read(run[0] / "run/folds/version_0/fold-2/outputs.parquet")
    assert torch.equal(torch.cat(logits, 1), recorded.logits)
    other = Outputs.read(run[0] / "run/folds/version_0/fold-1/outputs.parquet")
    assert other.weights != recorded.weights


def test_the_final_net_has_the_thresholds_of_the_pooled_table(here):
    tables = [Outputs.read(here / f"fold-{fold}/outputs.parquet") for fold in (1, 2, 3)]
    logits = torch.cat([table.logits for table in tables], 1)
    labels = torch.cat([table.labels for table in tables])
    right = logits.argmax(-1) == labels
    scores, recordings = logits.softmax(-1).amax(-1), [name for table in tables for name in table.recordings]
    expected = thresholds_for_risk(scores, right[-1] & ~right, tables[0].gmacs, 0.3, groups=recordings)
    assert expected[:-1].isfinite().any()
    pooled = Outputs.read(here / "final/checkpoints/outputs_out-of-fold.parquet")
    for name in ("best", "last"):
        saved = read_checkpoint(here / f"final/checkpoints/{name}.ckpt")
        assert torch.equal(saved["state_dict"]["policy.thresholds"], expected)
        assert saved["dynvid"]["chosen_by"] == "folds"
        assert saved["dynvid"]["calibrated"]
        recognizer = Recognizer.load(here / f"final/checkpoints/{name}.ckpt")
        assert recognizer.point == pooled.point
        assert recognizer.policy.thresholds.tolist() == expected.tolist()
    point = pooled.point
    assert (point.videos, point.recordings, point.chosen_by, point.split) == (50, 25, "folds", "out-of-fold")
    assert not point.promised
    assert Audit(0.1, point).status == "nothing promised"
    assert str(point).startswith(
        "cross-validated, no promise for this net: tested with 95 % confidence for at most 30 %"
    )
    summary = summarise(pooled)
    assert "promise was" not in summary["headline"]["happened"]
    assert "carry a promise" not in str(summary["note"])


def test_old_points_load_and_others_are_refused(here):
    plain = Outputs.read(here / "final/checkpoints/outputs_out-of-fold.parquet").point.plain()
    assert OperatingPoint.from_plain(plain).plain() == plain
    with pytest.raises(ValueError, match="chosen_by of another type or out of range"):
        OperatingPoint.from_plain(plain | {"chosen_by": "fold"})
    with_full = OperatingPoint.from_plain(plain | {"full_inference": True})
    assert not with_full.promised
    assert str(with_full).startswith("full inference: 50 videos of 25 recordings of out-of-fold, answered by nets")


def test_best_and_last_find_the_final_net(here, videos, capsys):
    for name in ("best", "last"):
        capsys.readouterr()
        main(arguments("test", videos, "--ckpt_path", name))
        said = capsys.readouterr().out
        assert said.startswith(f"checkpoint: {here}/final/checkpoints/{name}.ckpt\n")
        assert "cross-validated, no promise for this net" in said
    with pytest.warns(UserWarning, match="trained on train and val"):
        main(arguments("validate", videos, "--ckpt_path", "best"))
    assert "--folds: `test` has none" in fails(capsys, *arguments("test", videos, "--ckpt_path", "best", "--folds=3"))


def test_calibrate_takes_the_pooled_table_and_no_validation_split(here, videos, capsys):
    best, table = (str(here / f"final/checkpoints/{name}") for name in ("best.ckpt", "outputs_out-of-fold.parquet"))
    said = calibrated(capsys, best, "--outputs", table, "--max-drop=0.5")
    assert "cross-validated, no promise for this net: tested with 95 % confidence for at most 50 %" in said
    saved = read_checkpoint(best.replace(".ckpt", "-max_drop-0.5.ckpt"))["dynvid"]
    assert saved["operating_point"]["chosen_by"] == "folds"
    one = str(here / "fold-1/outputs.parquet")
    assert "recorded with other weights" in fails(capsys, "calibrate", best, "--outputs", one, "--max-drop=0.5")
    data = ["--data.root", str(videos), "--data.annotations", "a.csv", "--data.size=32", "--data.num_frames=4"]
    for target in ("--max-drop=0.5", "--budget=1"):
        line = fails(capsys, "calibrate", best, "--config", "folder.yaml", *data, target)
        assert "trained on the validation videos too, by `fit --folds`" in line
    fold = str(here / "fold-1" / "checkpoints" / "last.ckpt")
    for words in (
        [best, "--outputs", table],
        [best, "--outputs", table, "--confidence=null"],
        [best, "--videos", str(videos)],
        [best, "--config", "folder.yaml", *data],
        [fold, "--outputs", one, "--max-drop=0.5"],
    ):
        line = fails(capsys, "calibrate", *words, "--max-error=0.1")
        assert line.endswith("a net of `fit --folds` can have no reject threshold; fit without --folds")
    new = [str(videos / str(n)) for n in range(50, 54)]
    said = calibrated(capsys, best, "--videos", *new, "--max-disagreement=0.9")
    assert "promised with 95 % confidence: at most 90 % of new videos" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--folds", "1"], "--folds 1: 2 or more"),
        (["--folds", "x"], 'key "folds"'),
        (["--folds", "26"], "folds=26: there are 25 recordings in train and val"),
        (["--folds", "3", "--ckpt_path", "best"], "--ckpt_path best beside --folds: only last"),
        (["--folds", "3", "--ckpt_path", "run/x.ckpt"], "only last, which goes on with the newest run of folds"),
        (["--folds", "3", "--checkpoint.dirpath", "x"], "checkpoint.dirpath beside --folds"),
        (["--folds", "3", "--trainer.fast_dev_run", "1"], "trainer.fast_dev_run beside --folds"),
        (["--folds", "3", "--trainer.devices", "2"], "--folds runs in one process: set trainer.devices to 1"),
        (
            ["--folds=3", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
            "EarlyStopping beside --folds: nothing may go by the videos of a fold",
        ),
        (
            ["--folds=3", f"--model.lr_scheduler={PLATEAU}", "--model.lr_scheduler.monitor=val/loss"],
            "ReduceLROnPlateau beside --folds",
        ),
        (
            ["--folds=3", "--calibration.max_drop=null", "--calibration.budget=1e-9"],
            "a budget of 1e-09 GMACs is below the first exit",
        ),
        (["--folds", "3", "--ckpt_path", "last"], "no run of folds under"),
        (["--folds", "3", "--calibration.max_error", "0.1"], "calibration.max_error beside --folds"),
    ],
)
def test_what_does_not_go_with_folds_is_one_line(videos, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, *arguments("fit", videos, *more))
    assert not list(Path().rglob("*.ckpt"))


def test_a_run_goes_on_with_the_same_arguments_and_videos_only(here, videos, capsys):
    again = arguments("fit", videos, "--folds=3", "--ckpt_path=last")
    assert "was begun with other model.optimizer.init_args.lr: go on" in fails(capsys, *again, "--model.optimizer.lr=1")
    assert "was begun with other folds, videos: go on" in fails(capsys, *[*again, "--folds=4"])
    recipe = here / "recipe.json"
    kept = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(kept | {"videos": ["0"]}))
    assert "was begun with other videos: go on" in fails(capsys, *again)
    recipe.write_text("{")
    assert "recipe.json" in fails(capsys, *again)


def test_training_does_not_go_on_from_a_net_that_saw_the_validation_split(here, videos, capsys):
    line = fails(capsys, *arguments("fit", videos, "--ckpt_path=last", "--trainer.max_epochs=3"))
    assert "trained on the validation videos too, by `fit --folds`, so they can neither choose nor calibrate" in line


@pytest.mark.slow
def test_another_run_begins_beside_the_first(here, videos, capsys):
    """With averaged weights, one exit, and folds that are asked for in a config, which other commands read too."""
    Path("folds.yaml").write_text("folds: 2\ncheckpoint:\n  monitor: val/accuracy\n")
    more = ["--config", "tsn.yaml", "--config", "folds.yaml", "--trainer.callbacks+=EMAWeightAveraging"]
    main([*arguments("fit", videos, *more), "--trainer.max_epochs=1"])
    second = here.with_name("version_1")
    assert f"{second}/final/checkpoints/best.ckpt" in capsys.readouterr().out
    assert len(Outputs.read(second / "final/checkpoints/outputs_out-of-fold.parquet").paths) == 50
    assert sorted(path.name for path in second.iterdir()) == ["final", "fold-1", "fold-2", "recipe.json"]
    main([*arguments("test", videos, *more), "--ckpt_path", "best"])
    assert capsys.readouterr().out.startswith(f"checkpoint: {second}/final/checkpoints/best.ckpt")


@pytest.mark.slow
def test_sets_of_labels_have_folds_too(videos, tmp_path, monkeypatch, capsys):
    rows = (videos / "a.csv").read_text().splitlines()
    rows[1:] = [row.replace(",dark,", ",bright;dark,") if n % 5 == 0 else row for n, row in enumerate(rows[1:])]
    (videos / "sets.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    more = ["--folds=2", "--data.multi_label=true", "--data.annotations=sets.csv", "--trainer.max_epochs=1"]
    main(arguments("fit", videos, *more))
    said = capsys.readouterr().out
    assert re.search("set accuracy +mAP +F1", said)
    (table,) = Path("run").rglob("outputs_out-of-fold.parquet")
    pooled = Outputs.read(table)
    assert pooled.multi_label
    assert pooled.labels.shape == (50, 2)
    assert pooled.point.chosen_by == "folds"


@pytest.mark.slow
def test_a_kill_loses_no_finished_fold(videos, run, tmp_path, monkeypatch, capsys):
    """Killed in the second fold and in the final net, a run ends as one that was never stopped."""
    monkeypatch.chdir(tmp_path)
    command = [str(Path(sys.executable).with_name("dynvid")), *arguments("fit", videos, "--folds", "3")]
    for wait_for in ("fold 2 of 3", "final net"):
        going_on = ["--ckpt_path", "last"] if wait_for == "final net" else []
        child = subprocess.Popen([*command, *going_on], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seen = False
        for line in child.stdout:
            seen = seen or line.startswith(wait_for)
            if seen and line.startswith("epoch 1/2"):
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
        assert child.wait(60) == -signal.SIGKILL
        if wait_for == "fold 2 of 3":
            folder = Path("run/folds/version_0")
            first = (folder / "fold-1/outputs.parquet").read_bytes()
            assert not (folder / "fold-2/outputs.parquet").exists()
    capsys.readouterr()
    main(arguments("fit", videos, "--folds", "3", "--ckpt_path", "last"))
    said = capsys.readouterr().out
    assert re.findall(r"fold \d of 3.*", said) == [f"fold {k} of 3: finished before" for k in (1, 2, 3)]
    assert (folder / "fold-1/outputs.parquet").read_bytes() == first
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    pooled = Outputs.read(folder / "final/checkpoints/outputs_out-of-fold.parquet")
    never_stopped = Outputs.read(run[0] / "run/folds/version_0/final/checkpoints/outputs_out-of-fold.parquet")
    assert pooled.paths == never_stopped.paths
    assert torch.equal(pooled.logits[:, :16], never_stopped.logits[:, :16])  # of the fold that was never stopped
    assert read_checkpoint(folder / "final/checkpoints/best.ckpt")["dynvid"]["operating_point"]["chosen_by"] == "folds"


@pytest.mark.slow
def test_features_of_a_frozen_backbone_are_computed_once_for_all_nets(videos, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    main(arguments("fit", videos, "--folds", "2", "--model.freeze_backbone", "true", "--data.hflip", "false"))
    found = [line.partition(" (")[0] for line in caplog.messages if line.startswith("features of")]
    assert found[0].startswith("features of 50 videos in ")
    assert found[1:] == ["features of 50 videos were there"] * 2
    files = [*Path("run/features").rglob("*.safetensors")]
    assert len(files) == 50  # of train and val, each once
    main(arguments("fit", videos, "--model.freeze_backbone", "true", "--data.hflip", "false"))
    assert sorted(Path("run/features").rglob("*.safetensors")) == sorted(files)


FINAL = "run/folds/version_0/final/checkpoints/best.ckpt"


def test_weights_that_have_seen_the_validation_videos_make_no_promise_on_them(videos, here, capsys):
    began = ["--model.net.pretrained", FINAL]
    said = fails(capsys, *arguments("fit", videos, "--folds", "2", *began))
    assert "was trained on these videos, so no fold would be new to it" in said
    main(arguments("fit", videos, *began, "--trainer.max_epochs", "1"))
    (best,) = Path("run/lightning_logs").rglob("best.ckpt")
    point = Recognizer.load(best).point
    assert (point.chosen_by, point.promised and not point.full_inference) == ("these", False)


@pytest.mark.slow
@pytest.mark.parametrize(("confidence", "chosen_by"), [("0.95", "others"), ("null", "these")])
def test_a_run_that_begins_with_another_knows_who_chose_its_weights(
    videos, tmp_path, monkeypatch, confidence, chosen_by
):
    monkeypatch.chdir(tmp_path)
    first = arguments("fit", videos, "--calibration.max_drop=0.6", "--calibration.confidence", confidence)
    main(first)
    (best,) = Path("run/lightning_logs").rglob("best.ckpt")
    assert DynamicInferenceModule.load_from_checkpoint(best).chosen_by == chosen_by
    again = ["--calibration.max_drop=0.6", "--model.net.pretrained", str(best)]
    main(arguments("fit", videos, *again))
    after = Path("run/lightning_logs/version_1/checkpoints/best.ckpt")
    assert DynamicInferenceModule.load_from_checkpoint(after).chosen_by == chosen_by
    with pytest.raises(SystemExit):
        main(arguments("fit", videos, "--folds", "2", *again))


def test_the_number_of_folds_may_stand_in_quotes(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folds.yaml").write_text('folds: "2"\n')
    main(arguments("fit", videos, "--config", "folds.yaml", "--checkpoint.every_n_epochs", "5"))
    assert Path(FINAL).exists()
    last = read_checkpoint(Path(FINAL).with_name("last.ckpt"))
    best = read_checkpoint(FINAL)
    assert all(torch.equal(x, last["state_dict"][name]) for name, x in best["state_dict"].items())
    assert last["epoch"] == 1


def test_what_is_missing_moves_no_fold(videos, here, tmp_path, capsys):
    moved = tmp_path / videos.parent.name / videos.name
    shutil.copytree(videos, moved)
    shutil.rmtree(moved / "3")
    shutil.rmtree("run/folds/version_0/final")
    main(arguments("fit", moved, "--folds", str(FOLDS), "--ckpt_path", "last", "--data.max_missing", "0.1"))
    assert capsys.readouterr().out.count("finished before") == FOLDS
