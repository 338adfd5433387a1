"""Keys that are misspelt, or that something else decides."""

from pathlib import Path

import pytest

from dynvid.cli import main

FIT = ["fit", "--config", "quickstart.yaml"]
TINY = ["--data.clips_per_class", "1", "--data.clip_frames", "8", "--data.size", "32", "--data.num_frames", "4"]
CONFIGS = {
    "net.yaml": "model:\n  net:\n    init_args:\n      backbne: x\n",
    "nett.yaml": "model:\n  nett:\n    class_path: UnifiedExitNet\n",
    "trainer.yaml": "trainer:\n  max_epoch: 3\n",
    "top.yaml": "trainr:\n  max_epochs: 3\n",
    "data.yaml": "data:\n  init_args:\n    num_frame: 3\n",
    "callback.yaml": "trainer: {callbacks: [{class_path: EMAWeightAveraging, init_args: {decai: 1}}]}\n",
    "frames.yaml": "model:\n  net:\n    init_args:\n      num_frames: 16\n",
    "word.yaml": "data: 3\n",
    "only_net.yaml": "class_path: UnifiedExitNet\ninit_args:\n  backbone: test_resnet\n  num_frames: 16\n",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in CONFIGS.items():
        Path(name).write_text(text)


def error(capsys, *arguments):
    """The one line that was said."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1
    return lines[0].removeprefix("dynvid: error: ")


@pytest.mark.parametrize(
    ("arguments", "key", "meant"),
    [
        (["--model.net.backbne", "x"], "--model.net.backbne", "--model.net.backbone"),
        (["--model.net.init_args.backbne=x"], "--model.net.backbne", "--model.net.backbone"),
        (["--model.net", '{"init_args": {"shft": 1}}'], "--model.net.shft", "--model.net.shift"),
        (["--data.rot", "x"], "--data.rot", "--data.root"),
        (["--model.optimizer.lrr", "1"], "--model.optimizer.lrr", "--model.optimizer.lr"),
        (["--model.loss", "ExitLoss", "--model.loss.weigths", "1"], "--model.loss.weigths", "--model.loss.weights"),
        (["--trainer.max_epoch", "2"], "--trainer.max_epoch", "--trainer.max_epochs"),
        (["--trainr.max_epochs=2"], "--trainr.max_epochs", "--trainer.max_epochs"),
        (["--max_epochs", "2"], "--max_epochs", "--trainer.max_epochs"),
        (["--confg", "x.yaml"], "--confg", "--config"),
        (["--config", "net.yaml"], "config net.yaml: model.net.backbne", "model.net.backbone"),
        (["--config", "nett.yaml"], "config nett.yaml: model.nett", "model.net"),
        (["--config=trainer.yaml"], "config trainer.yaml: trainer.max_epoch", "trainer.max_epochs"),
        (["--config", "top.yaml"], "config top.yaml: trainr.max_epochs", "trainer.max_epochs"),
        (["--config", "data.yaml"], "config data.yaml: data.num_frame", "data.num_frames"),
        (["-c", "callback.yaml"], "config callback.yaml: trainer.callbacks.decai", "trainer.callbacks.decay"),
    ],
)
def test_a_misspelt_key_of_fit_keeps_its_name_and_suggests_the_nearest(capsys, arguments, key, meant):
    assert error(capsys, *FIT, *arguments) == f"{key}: no such key; did you mean {meant}?"


def test_a_key_that_is_like_no_other_lists_them(capsys):
    said = error(capsys, *FIT, "--model.optimizer.lr", "0.1", "--data.lr", "1")  # the first lr is known, the second not
    assert said.startswith("--data.lr: no such key; there are background, balanced, batch_size, ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", *FIT[1:], "--data.rot", "x"], "--data.rot: no such key; did you mean --data.root?"),
        (["check", *FIT[1:], "--num_worker", "1"], "--num_worker: no such key; did you mean --num_workers?"),
        (
            ["check", *FIT[1:], "--config", "data.yaml"],
            "config data.yaml: data.num_frame: no such key; did you mean data.num_frames?",
        ),
        (["check", "--config", "data.yaml"], "config data.yaml: no class_path in its `data`"),
        (["check", "--config", "top.yaml"], "top.yaml: no `data` section with a class_path"),
        (["check", *FIT[1:], "--config", "word.yaml"], "config word.yaml: `data` is no section"),
        (["classify", "a.ckpt", "b.mp4", "--jsn"], "--jsn: no such key; did you mean --json?"),
        (["classify", "a.ckpt", "b.mp4", "--jsn=1"], "--jsn: no such key; did you mean --json?"),
        (["classify", "a.ckpt", "b.mp4", "--js"], "--js: no such key"),  # nothing is completed in silence
        (["classify", "a.ckpt"], "the following arguments are required: paths"),
        (["report", "run", "--outptu", "x"], "--outptu: no such key; did you mean --output?"),
        (["report", "run", "-q"], "-q: no such key; there are --help, --output"),
        (["report", "run", "another"], "unrecognized arguments: another"),
        (["report", "run", "--output"], "argument --output: expected one argument"),
        (["report", "run", "--outptu\x1b[2J"], r"--outptu\x1b[2J: no such key; did you mean --output?"),
    ],
)
def test_a_misspelt_key_of_other_commands(capsys, arguments, said):
    assert said in error(capsys, *arguments)


def test_check_takes_overlays_and_the_data_of_a_config_only(tmp_path, capsys):
    (tmp_path / "size.yaml").write_text("data:\n  init_args:\n    root: made\ntrainr: 3\n")
    configs = ["--config", "tsm.yaml", "--config", "quickstart.yaml", "--config", "size.yaml"]
    with pytest.raises(SystemExit) as caught:
        main(["check", *configs, *TINY, "--num_workers", "0"])
    assert caught.value.code == 0
    assert (tmp_path / "made" / "train").is_dir()
    assert "30 videos checked, 0 unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.net.num_frames", "16"], "--model.net.num_frames=16: it is taken from data.num_frames, which is 4"),
        (["--model.net.init_args.num_frames=16"], "--model.net.num_frames=16: it is taken from data.num_frames"),
        (["--model.net.num_classes", "3"], "--model.net.num_classes=3: it is taken from data.num_classes, which is 10"),
        (["--model.net.input_size", "224"], "--model.net.input_size=224: it is taken from data.size, which is 32"),
        (["--model.net", "only_net.yaml"], "config only_net.yaml: model.net.num_frames=16: it is taken from"),
        (["--config", '{"model": {"net": {"init_args": {"num_frames": 16}}}}'], "--model.net.num_frames=16: it is "),
        (["--config", "frames.yaml"], "config frames.yaml: model.net.num_frames=16: it is taken from data.num_frames"),
    ],
)
def test_a_value_that_the_data_decides_is_refused(capsys, arguments, said):
    assert said in error(capsys, *FIT, *TINY, *arguments)


@pytest.mark.slow
def test_the_config_that_a_run_leaves_can_be_used_again(tmp_path, capsys):
    quick = ["--data.num_workers", "0", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    quick += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    # What counts in the end is the data's own value.
    main([*FIT, "--config", "frames.yaml", *TINY, *quick, "--model.net.num_frames", "4"])
    (config,) = tmp_path.rglob("config.yaml")
    main(["fit", "--config", str(config)])
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
