"""`dynvid fit` stopped from outside, or by a full disk: no finished epoch is lost."""

import contextlib
import copy
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynvid.checkpoint import read_checkpoint, read_run
from dynvid.cli import main
from dynvid.data import SyntheticDataModule
from dynvid.errors import InputError

from .test_checkpoint import ODD, mutate

TINY = [
    *("fit", "--config", "quickstart.yaml", "--data.clips_per_class", "3", "--data.clip_frames", "8"),
    *("--data.size", "32", "--data.num_frames", "4", "--data.batch_size", "8", "--data.num_workers", "0"),
    *("--trainer.default_root_dir", "run"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "clips"
    SyntheticDataModule(root, clips_per_class=3, clip_frames=8, size=32).prepare_data()
    return root


def progress(path):
    saved = torch.load(path, weights_only=True)
    return saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"], saved["global_step"]


@pytest.mark.slow
def test_no_finished_epoch_is_lost(clips, tmp_path, monkeypatch, capsys):
    command = [*TINY, "--data.root", str(clips), "--trainer.max_epochs", "5000"]
    command += ["--checkpoint.monitor", "step", "--checkpoint.mode", "min"]  # never better than after the first epoch
    program = Path(sys.executable).with_name("dynvid")
    codes = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 1}
    runs = {}
    for sent in codes:
        (tmp_path / sent).mkdir()
        err = (tmp_path / sent / "err.txt").open("w")
        runs[sent] = subprocess.Popen(
            [program, *command], cwd=tmp_path / sent, stdout=subprocess.PIPE, stderr=err, text=True
        )
    for sent, run in runs.items():
        told = 0
        for line in run.stdout:
            told += bool(re.match(r"epoch (\d+)/5000, train/loss \S+, val/accuracy .* % saved$", line))
            if told == 3:
                break
        run.send_signal(getattr(signal, sent))
    for sent, run in runs.items():
        monkeypatch.chdir(tmp_path / sent)
        told = max([3, *map(int, re.findall(r"^epoch (\d+)", run.stdout.read(), re.M))])
        assert run.wait(60) == codes[sent]
        assert not re.search(r"Tip|Traceback", Path("err.txt").read_text())
        (last,) = Path().rglob("last.ckpt")
        epochs, steps = progress(last)
        assert epochs >= told
        capsys.readouterr()
        main([*command, "--trainer.max_epochs", str(epochs + 1), "--ckpt_path", "last"])
        lines = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
        assert lines == [f"epoch {epochs + 1}/{epochs + 1}"]
        assert progress(last) == (epochs + 1, steps + 3)  # three steps an epoch, as in a run that was never stopped


@pytest.mark.slow
def test_a_signal_to_the_whole_group_is_one_line_too(clips, tmp_path):
    """It ends the loader processes at the same time, which PyTorch reports wherever the run happens to be."""
    command = [*TINY, "--data.root", str(clips), "--trainer.max_epochs", "5000", "--data.num_workers", "2"]
    program = Path(sys.executable).with_name("dynvid")
    err = (tmp_path / "err.txt").open("w")
    run = subprocess.Popen(
        [program, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True
    )
    next(line for line in run.stdout if line.startswith("epoch 2/"))
    os.killpg(run.pid, signal.SIGTERM)
    run.stdout.read()
    assert run.wait(60) == 143
    assert "Traceback" not in (tmp_path / "err.txt").read_text()
    assert progress(next(tmp_path.rglob("last.ckpt")))[0] >= 2


@pytest.mark.parametrize(("size", "said"), [("14m", r"(best|last)\.ckpt: cannot be written: No"), ("4k", "No space")])
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_the_last_state(clips, tmp_path, monkeypatch, capsys, size, said):
    disk = tmp_path / "run"
    disk.mkdir()
    monkeypatch.chdir(tmp_path)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(SystemExit) as caught:
            main([*TINY, "--data.root", str(clips), "--trainer.max_epochs", "3"])
        assert caught.value.code == 1
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line.lower())
        assert re.search(said, line)
        assert str(disk) in line
        assert not [path for path in disk.rglob("*") if path.suffix == ".unfinished"]
        assert [progress(path)[0] for path in disk.rglob("last.ckpt")] == ([1] if size == "14m" else [])
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# What `--ckpt_path` takes


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([*arguments("fit", clips), "--trainer.max_epochs", "1"])
    return folder


def arguments(command, clips):
    return [command, *TINY[1:], "--data.root", str(clips)]


@pytest.fixture
def files(trained, tmp_path, monkeypatch):
    """A copy of a run's last and best file, in a folder of their own."""
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (last,) = Path("run").rglob("last.ckpt")
    return last, last.with_name("best.ckpt")


def taken(capsys, clips):
    capsys.readouterr()
    main([*arguments("validate", clips), "--ckpt_path", "last"])
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_damaged_last_is_passed_over_in_one_line(files, clips, capsys):
    last, best = files
    last.write_bytes(last.read_bytes()[:20_000])
    said, path, *_ = taken(capsys, clips)
    assert said == f"{last} cannot be read; taking {best}, the newest that can"
    assert path == f"checkpoint: {best}"
    best.write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        taken(capsys, clips)
    assert caught.value.code == 1
    assert f"{last} cannot be read, nor any other checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_a_best_that_is_ahead_of_last_is_the_last_state(files, clips, capsys):
    """A kill between the two leaves them so; files that were merely copied in another order do not."""
    last, best = files
    best.touch()
    assert taken(capsys, clips)[0] == f"checkpoint: {last}"
    saved = torch.load(best, weights_only=True)
    saved["global_step"] = 1000
    torch.save(saved, best)
    assert taken(capsys, clips)[1] == f"checkpoint: {best}"


def test_a_damaged_best_is_an_error(files, clips, capsys):
    _, best = files
    best.write_bytes(best.read_bytes()[:-1000])
    with pytest.raises(SystemExit) as caught:
        main([*arguments("test", clips), "--ckpt_path", "best"])
    assert caught.value.code == 1
    assert f"{best}: is no checkpoint, is truncated" in capsys.readouterr().err


def test_training_does_not_go_on_from_weights_only(files, clips, capsys):
    last, _ = files
    saved = torch.load(last, weights_only=True)
    del saved["optimizer_states"], saved["lr_schedulers"]
    torch.save(saved, last)
    with pytest.raises(SystemExit) as caught:
        main([*arguments("fit", clips), "--ckpt_path", "last"])
    assert caught.value.code == 1
    assert f"{last} holds weights only, and no training can go on from it" in capsys.readouterr().err


def with_older_run(last):
    """The path of a run before the one of `last`."""
    older = last.parents[1].with_name("version_older") / "checkpoints"
    older.mkdir(parents=True)
    for file in last.parent.glob("*.ckpt"):
        shutil.copy(file, older)
        os.utime(older / file.name, (1e9, 1e9))
    return older


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True])
def test_a_run_that_was_killed_before_its_first_last_is_the_newest_still(files, clips, capsys, older):
    last, best = files
    if older:
        with_older_run(last)
    last.unlink()
    assert taken(capsys, clips)[:2] == [
        f"{last.parent}, the newest run, was stopped before it wrote a last.ckpt; taking best.ckpt",
        f"checkpoint: {best}",
    ]
    if older:
        best.write_bytes(b"")
        before = last.parents[1].with_name("version_older") / "checkpoints" / "last.ckpt"
        said = f"{best} cannot be read; taking {before}, the newest that can"
        assert taken(capsys, clips)[:2] == [said, f"checkpoint: {before}"]


def test_the_best_of_an_older_run_is_not_taken_in_silence(files, clips, capsys):
    last, best = files
    older = with_older_run(last)
    best.unlink()
    capsys.readouterr()
    main([*arguments("validate", clips), "--ckpt_path", "best"])
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{last.parent}, the newest run, has no best.ckpt; taking that of an older one",
        f"checkpoint: {older / 'best.ckpt'}",
    ]


@pytest.mark.slow
def test_a_last_whose_steps_are_no_number_is_passed_over(files, clips, capsys):
    last, best = files
    saved = torch.load(last, weights_only=True)
    saved["global_step"] = "abc"
    torch.save(saved, last)
    assert taken(capsys, clips)[0] == f"{last} cannot be read; taking {best}, the newest that can"


ODD_STATES = {
    "pytorch-lightning_version": [None, 2, "\x1b[2J", "2", "2.6.6\n", "9" * 5000, "2.6" * 100],
    "global_step": ["abc", 1.5, torch.tensor([1, 2])],
    "epoch": [None, "3"],
    "loops": [3, [], {"fit_loop": 3}],
    "callbacks": [[1], 3, {"EarlyStopping{}": 1}],
    "optimizer_states": [3, {}, [1]],
    "lr_schedulers": ["x" * 10_000, [None]],
}


@pytest.mark.parametrize("key", ODD_STATES)
def test_what_lightning_would_trip_over_is_named(files, key):
    last, _ = files
    whole = torch.load(last, weights_only=True)
    assert read_run(last)["global_step"] == whole["global_step"]
    for value in ODD_STATES[key]:
        torch.save(whole | {key: value}, last)
        with pytest.raises(InputError) as caught:
            read_run(last)
        assert re.match(rf"{re.escape(str(last))}: {key} is [ -~]{{1,200}}$", str(caught.value)), caught.value
        read_checkpoint(last)  # the weights can be had all the same
    del whole[key]
    torch.save(whole, last)
    if key == "pytorch-lightning_version":
        with pytest.raises(InputError, match="pytorch-lightning_version is None"):
            read_run(last)
    else:
        assert key not in read_run(last)


def deeper(*path, value):
    """A checkpoint with another value at `path`."""

    def changed(saved):
        inner = saved
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return changed


@pytest.mark.parametrize(
    ("command", "changed", "said"),
    [
        ("test", deeper("dynvid", "net", "init_args", "num_classes", value=torch.tensor([1, 2])), "must be plain data"),
        ("test", deeper("dynvid", "net", "init_args", "shift", value="x" * 900), "shift='xxx"),
        ("test", deeper("dynvid", "calibrated", value=torch.tensor([1, 2])), "calibrated is tensor"),
        ("fit", deeper("loops", "fit_loop", "epoch_progress", value=3), "cannot be restored"),
        ("fit", deeper("optimizer_states", 0, "param_groups", value=[]), "cannot be restored"),
        ("fit", deeper("optimizer_states", 0, value={}), "cannot be restored"),
    ],
)
def test_a_part_that_does_not_fit_is_one_line(files, clips, capsys, command, changed, said):
    last, _ = files
    saved = torch.load(last, weights_only=True)
    changed(saved)
    torch.save(saved, last)
    with pytest.raises(SystemExit) as caught:
        main([*arguments(command, clips), "--trainer.max_epochs", "2", "--ckpt_path", str(last)])
    assert caught.value.code == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("dynvid: error: "))
    assert said in line
    assert len(line) < 1000


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_random_changes_are_refused_in_one_line_or_do_no_harm(files, clips, capsys, seed):
    last, _ = files
    whole, chance = torch.load(last, weights_only=True), random.Random(seed)
    for _ in range(5):
        changed, command = copy.deepcopy(whole), chance.choice(["test", "fit"])
        if command == "test":
            mutate(changed, chance)
        if command == "fit" or chance.random() < 0.5:
            changed[chance.choice([*ODD_STATES])] = chance.choice(ODD)
        torch.save(changed, last)
        capsys.readouterr()
        with contextlib.suppress(SystemExit):  # anything else is a bug
            main([*arguments(command, clips), "--trainer.max_epochs", "2", "--ckpt_path", str(last)])
            continue
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dynvid: error: ")]
        assert len(lines) == 1
        assert lines[0].isprintable()
        assert len(lines[0]) < 2000
