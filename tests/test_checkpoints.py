"""Checkpoints: the last state, whole files, and thresholds that belong to the weights beside them."""

import fcntl
import os
import re
import resource
import signal
import subprocess
from contextlib import contextmanager
from uuid import uuid4

import fsspec
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.plugins.io import AsyncCheckpointIO

from dynvid import DepthExitNet, ExitNet, UnifiedExitNet
from dynvid.calibration import thresholds_for_drop
from dynvid.callbacks import Calibration, EpochLine, FlopsAccuracyReport, TrainingCheckpoint
from dynvid.data import SyntheticDataModule
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule
from dynvid.saving import write_whole


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 training clips, so 5 steps per epoch."""
    root = tmp_path_factory.mktemp("data") / "clips"
    return SyntheticDataModule(
        root, num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0, batch_size=8
    )


class Flat(DynamicInferenceModule):
    """Logs a metric that never improves."""

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("flat", 0.0)


def make(cls=DynamicInferenceModule, net=UnifiedExitNet, **arguments):
    torch.manual_seed(0)
    made = net("test_resnet", num_classes=10, num_frames=4, input_size=32, **arguments)
    return cls(made, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))


def trainer(folder, *callbacks, **arguments):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "logger": False}
    quiet |= {"num_sanity_val_steps": 0, "default_root_dir": folder}
    return pl.Trainer(callbacks=list(callbacks), **quiet | arguments)


def content(path):
    return torch.load(path, weights_only=True)


def flat_checkpoint(folder, **arguments):
    return TrainingCheckpoint(folder, monitor="flat", mode="max", save_last=True, filename="best", **arguments)


# The last state


@pytest.mark.parametrize(
    "how",
    [
        {"max_epochs": 3},
        {"max_epochs": 2, "val_check_interval": 0.4},
        {"max_epochs": 3, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "limit_val_batches": 0},
        {"max_epochs": -1, "max_steps": 7},
        {"max_epochs": 3, "stop_at": 2},
    ],
    ids=lambda how: next(reversed(how)),
)
@pytest.mark.slow
def test_last_is_the_last_state_whatever_the_metric_does(data, tmp_path, how):
    class Stop(pl.Callback):
        """As Lightning's timer stops a run that has a limit of time."""

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop |= trainer.global_step == stop_at

    stop_at = how.pop("stop_at", None)
    run = trainer(tmp_path, Stop(), Calibration(), flat_checkpoint(tmp_path), **how)
    module = make(Flat)
    run.fit(module, datamodule=data)
    saved = content(tmp_path / "last.ckpt")
    assert saved["global_step"] == run.global_step > 0
    for name, value in module.state_dict().items():
        if name.startswith("net."):
            assert torch.equal(saved["state_dict"][name], value), name
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) in (["best.ckpt", "last.ckpt"], ["last.ckpt"])


@pytest.mark.slow
def test_last_is_written_after_each_validation_on_the_way(data, tmp_path):
    class Look(pl.Callback):
        seen = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.seen.append(content(last)["global_step"] if last.exists() else 0)

    last = tmp_path / "last.ckpt"
    run = trainer(tmp_path, Look(), flat_checkpoint(tmp_path), max_epochs=2, val_check_interval=0.4)
    run.fit(make(Flat), datamodule=data)
    assert Look.seen == [0, 0, 2, 2, 4, 5, 5, 7, 7, 9]


@pytest.mark.slow
def test_last_goes_on_where_an_epoch_was_left(data, tmp_path):
    """A run of which `last` is of step 4 of 5 takes one step more in that epoch, not five."""
    first = trainer(tmp_path, flat_checkpoint(tmp_path), max_epochs=-1, max_steps=4, val_check_interval=0.4)
    first.fit(make(Flat), datamodule=data)
    again = trainer(tmp_path, flat_checkpoint(tmp_path), max_epochs=2, val_check_interval=0.4)
    again.fit(make(Flat), datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert (again.current_epoch, content(tmp_path / "last.ckpt")["global_step"]) == (2, again.global_step)
    assert not (tmp_path / "last-v1.ckpt").exists()


def test_nothing_is_saved_on_a_trial_run_or_without_save_last(data, tmp_path):
    trainer(tmp_path, flat_checkpoint(tmp_path), fast_dev_run=True).fit(make(Flat), datamodule=data)
    assert not list(tmp_path.glob("*.ckpt"))
    run = trainer(tmp_path, TrainingCheckpoint(tmp_path, filename="best"), max_epochs=1)
    run.fit(make(Flat), datamodule=data)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["best.ckpt"]


def test_a_last_that_is_a_link_is_refused(data, tmp_path):
    run = trainer(tmp_path, TrainingCheckpoint(tmp_path, save_last="link"), max_epochs=1)
    with pytest.raises(InputError, match="save_last=link: the last state needs a file of its own"):
        run.fit(make(), datamodule=data)
    assert run.global_step == 0


def test_runs_of_lightnings_own_checkpoints_go_on():
    arguments = {"monitor": "val/loss", "every_n_epochs": 2}
    assert TrainingCheckpoint(**arguments).state_key == ModelCheckpoint(**arguments).state_key


# Whole files


@contextmanager
def files_no_larger_than(size):
    """As a full disk, without one: writing beyond it fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder, size):
    """A file system of its own that is soon full."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """A calibrated module of plain Lightning, and its trainer."""
    folder = tmp_path_factory.mktemp("fitted")
    module, run = make(), trainer(folder, Calibration(max_drop=0.1, confidence=None), max_epochs=1)
    run.fit(module, datamodule=data)
    return module, run


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(fitted, tmp_path):
    _, run = fitted
    path = tmp_path / "own.ckpt"
    run.save_checkpoint(path)
    before = path.read_bytes()
    with (
        files_no_larger_than(100_000),
        pytest.raises(InputError, match=r"own\.ckpt: cannot be written: File too large"),
    ):
        run.save_checkpoint(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["own.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_before(fitted, tmp_path):
    _, run = fitted
    with small_disk(tmp_path / "disk", "8m") as disk:
        run.save_checkpoint(disk / "own.ckpt")
        before = (disk / "own.ckpt").read_bytes()
        (disk / "else").write_bytes(bytes(8 * 2**20 - len(before) - 2**20))
        with pytest.raises(InputError, match=r"disk/own\.ckpt: cannot be written: No space left on device"):
            run.save_checkpoint(disk / "own.ckpt")
        assert (disk / "own.ckpt").read_bytes() == before
        assert sorted(os.listdir(disk)) == ["else", "own.ckpt"]


def test_a_kill_while_writing_leaves_the_file_before_and_nothing_for_long(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # all is written, and nothing moved yet
        write_whole(path, b"new")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (leftover,) = (file for file in tmp_path.iterdir() if file != path)
    assert leftover.suffix != ".ckpt"
    write_whole(tmp_path / "other.ckpt", b"x")
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "other.ckpt"]


def test_what_another_process_still_writes_stays(tmp_path):
    busy = tmp_path / f".{uuid4().hex}.unfinished"
    with busy.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(tmp_path / "own.ckpt", b"x")
        assert busy.exists()
    write_whole(tmp_path / "own.ckpt", b"x")
    assert not busy.exists()


@pytest.mark.slow
def test_two_processes_write_into_one_folder(tmp_path):
    """Each takes away what killed ones left, and never what the other is about to write."""
    other = os.fork()
    name, code = f"{'own' if other else 'other'}.ckpt", 1
    try:
        for number in range(600):
            write_whole(tmp_path / name, str(number).encode())
        code = 0
    finally:
        if not other:
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    assert sorted(os.listdir(tmp_path)) == ["other.ckpt", "own.ckpt"]


def test_a_file_that_is_removed_before_it_is_locked_is_begun_anew(tmp_path, monkeypatch):
    """The worst moment, made certain: another writer comes between the making of a file and its lock."""
    lock, removed = fcntl.flock, []

    def late(file, how):
        if not removed:
            removed.extend(tmp_path.glob(".*"))
            removed[0].unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_whole(tmp_path / "own.ckpt", b"x")
    assert len(removed) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"own.ckpt": b"x"}


def test_a_link_is_replaced_and_never_followed(tmp_path):
    (tmp_path / "best.ckpt").write_bytes(b"best")
    (tmp_path / "last.ckpt").symlink_to("best.ckpt")
    write_whole(tmp_path / "last.ckpt", b"last")
    assert (tmp_path / "best.ckpt").read_bytes() == b"best"
    assert not (tmp_path / "last.ckpt").is_symlink()


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    mask = os.umask(0o027)
    try:
        write_whole(tmp_path / "new" / "own.ckpt", b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "new" / "own.ckpt").stat().st_mode & 0o777 == 0o640


def test_remote_paths_and_other_ways_of_saving_work(fitted, data, tmp_path):
    module, run = fitted
    run.save_checkpoint("memory://folder/own.ckpt")
    with fsspec.open("memory://folder/own.ckpt") as file:
        assert "dynvid" in torch.load(file, weights_only=True)
    run.save_checkpoint(f"file://{tmp_path}/local.ckpt")
    assert "dynvid" in content(tmp_path / "local.ckpt")
    late = trainer(tmp_path, plugins=[AsyncCheckpointIO()])
    late.validate(module, datamodule=data, verbose=False)
    late.save_checkpoint(tmp_path / "late.ckpt")
    late.strategy.teardown()  # waits for the thread
    assert content(tmp_path / "late.ckpt")["dynvid"]["calibrated"]


def test_the_report_keeps_its_files_when_the_disk_is_full(fitted, data, tmp_path):
    module, _ = fitted
    run = trainer(tmp_path, FlopsAccuracyReport())
    run.validate(module, datamodule=data, verbose=False)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with files_no_larger_than(1000), pytest.raises(InputError, match=r"flops_accuracy\.png: cannot be written"):
        run.validate(module, datamodule=data, verbose=False)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert len(before) == 6


# Thresholds and the weights they were found for


def is_full_inference(saved):
    state = saved["state_dict"]
    return bool(state["policy.thresholds"].isposinf().all() and state["curve_thresholds"].isposinf().all())


def found_again(path, data, max_drop):
    """What calibration finds on the weights of a checkpoint, from scratch."""
    module = DynamicInferenceModule.load_from_checkpoint(path)
    pl.Trainer(logger=False, enable_progress_bar=False).validate(module, datamodule=data, verbose=False)
    return thresholds_for_drop(module.curve.scores, module.curve.correct, module.net.gmacs, max_drop)


@pytest.mark.slow
def test_checkpoints_between_validations_hold_full_inference(data, tmp_path):
    steps = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    last = TrainingCheckpoint(tmp_path, save_last=True, monitor="val/mean_exit_accuracy", mode="max", filename="best")
    run = trainer(tmp_path, Calibration(max_drop=0.1, confidence=None), steps, last, max_epochs=2)
    run.fit(make(), datamodule=data)
    for step in range(1, 11):
        saved = content(tmp_path / f"step={step}.ckpt")
        assert not saved["dynvid"]["calibrated"]
        assert is_full_inference(saved)
    for name in ("best", "last"):
        saved = content(tmp_path / f"{name}.ckpt")
        assert saved["dynvid"]["calibrated"] is True
        assert torch.equal(saved["state_dict"]["policy.thresholds"], found_again(tmp_path / f"{name}.ckpt", data, 0.1))


def test_an_exception_after_validation_saves_no_stale_thresholds(data, tmp_path):
    class Break(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 7:
                raise RuntimeError("broken")

    saving = TrainingCheckpoint(tmp_path, filename="broken", save_last=True, save_on_exception=True)
    with pytest.raises(RuntimeError, match="broken"):
        trainer(tmp_path, Calibration(max_drop=0.1, confidence=None), Break(), saving, max_epochs=2).fit(
            make(), datamodule=data
        )
    for path in tmp_path.glob("*.ckpt"):
        saved = content(path)
        assert saved["dynvid"]["calibrated"] == (saved["global_step"] == 5)
        assert is_full_inference(saved) == (saved["global_step"] != 5)
    assert content(tmp_path / "last.ckpt")["global_step"] == 7


@pytest.mark.slow
def test_training_on_without_validation_loses_the_thresholds(data, tmp_path, capsys):
    module = make()
    calibration = Calibration(max_drop=0.1, confidence=None)
    first = trainer(tmp_path, calibration, max_epochs=1)
    first.fit(module, datamodule=data)
    first.save_checkpoint(tmp_path / "first.ckpt")
    assert module.calibrated
    second = trainer(tmp_path, calibration, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    second.fit(module, datamodule=data)
    second.save_checkpoint(tmp_path / "second.ckpt")
    assert not is_full_inference(content(tmp_path / "first.ckpt"))
    assert is_full_inference(content(tmp_path / "second.ckpt"))
    assert not module.calibrated
    assert module.policy.thresholds.isposinf().all()  # in memory as on disk
    capsys.readouterr()
    for name in ("first", "second"):
        trainer(tmp_path).test(make(), datamodule=data, ckpt_path=tmp_path / f"{name}.ckpt", verbose=False)
        assert ("not calibrated: " in capsys.readouterr().out) == (name == "second")
        again = DynamicInferenceModule.load_from_checkpoint(tmp_path / f"{name}.ckpt")
        assert again.calibrated == (name == "first")
        trainer(tmp_path).predict(again, datamodule=data)
        assert capsys.readouterr().out.count("not calibrated: ") == (name == "second")


def test_other_weights_are_not_calibrated(fitted, tmp_path):
    fitted_module, run = fitted
    run.save_checkpoint(tmp_path / "own.ckpt")
    module = DynamicInferenceModule.load_from_checkpoint(tmp_path / "own.ckpt")
    own = {name: value.clone() for name, value in module.state_dict().items()}
    assert module.calibrated
    module.net.load_state_dict(make().net.state_dict())
    assert not module.calibrated
    module.load_state_dict(own)
    assert module.calibrated
    module.to(torch.bfloat16)  # the same weights, rounded
    assert module.calibrated
    next(module.net.parameters()).data.add_(1)
    assert not module.calibrated
    fitted_module.net.load_state_dict(make().net.state_dict())
    try:
        run.save_checkpoint(tmp_path / "other.ckpt")
    finally:
        fitted_module.load_state_dict(own)
    assert is_full_inference(content(tmp_path / "other.ckpt"))


def test_a_sanity_check_calibrates_nothing(data, tmp_path):
    class First(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            assert pl_module.curve is not None
            trainer.save_checkpoint(tmp_path / "first.ckpt")

    run = trainer(tmp_path, Calibration(), First(), max_epochs=1, num_sanity_val_steps=2, limit_train_batches=1)
    run.fit(make(), datamodule=data)
    assert not content(tmp_path / "first.ckpt")["dynvid"]["calibrated"]


def test_thresholds_set_by_hand_are_kept_with_their_weights(fitted, data, tmp_path):
    module = make()
    run = trainer(tmp_path)
    run.validate(module, datamodule=data, verbose=False)
    own = torch.tensor([0.9, 0.8, torch.inf, 0.0])
    module.policy.thresholds.copy_(own)
    with pytest.warns(UserWarning, match="thresholds of unknown weights are not saved: set them with set_thresholds"):
        run.save_checkpoint(tmp_path / "own.ckpt")
    assert is_full_inference(content(tmp_path / "own.ckpt"))
    module.set_thresholds(own)
    run.save_checkpoint(tmp_path / "own.ckpt")
    again = DynamicInferenceModule.load_from_checkpoint(tmp_path / "own.ckpt")
    assert torch.equal(again.policy.thresholds, own)
    assert again.calibrated


def test_older_checkpoints_are_calibrated_where_a_threshold_says_so(fitted, tmp_path):
    _, run = fitted
    run.save_checkpoint(tmp_path / "own.ckpt")
    saved = content(tmp_path / "own.ckpt")
    del saved["dynvid"]["calibrated"]
    torch.save(saved, tmp_path / "old.ckpt")
    assert DynamicInferenceModule.load_from_checkpoint(tmp_path / "old.ckpt").calibrated
    saved["state_dict"]["policy.thresholds"].fill_(torch.inf)
    torch.save(saved, tmp_path / "old.ckpt")
    assert not DynamicInferenceModule.load_from_checkpoint(tmp_path / "old.ckpt").calibrated


def test_a_single_exit_needs_no_thresholds(data, tmp_path):
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(make(net=ExitNet, shift="none"), datamodule=data)
    run.save_checkpoint(tmp_path / "tsn.ckpt")
    assert DynamicInferenceModule.load_from_checkpoint(tmp_path / "tsn.ckpt").calibrated


# Averaged weights


@pytest.mark.slow
def test_an_average_that_has_not_begun_is_the_net_itself(data, tmp_path):
    """Lightning would validate, save and leave behind the net as it was before training."""
    average = EMAWeightAveraging(decay=0.5, update_starting_at_step=7)
    steps = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2)
    last = TrainingCheckpoint(tmp_path, save_last=True, filename="best")
    straight = make()
    pl.seed_everything(1)
    trainer(tmp_path, max_epochs=1).fit(straight, datamodule=data)
    averaged = make()
    pl.seed_everything(1)
    run = trainer(tmp_path, average, Calibration(max_drop=0.1, confidence=None), steps, last, max_epochs=1)
    run.fit(averaged, datamodule=data)
    for state in (averaged.state_dict(), content(tmp_path / "last.ckpt")["state_dict"]):
        for name, value in straight.state_dict().items():
            if name.startswith("net."):
                assert torch.equal(state[name], value), name
    saved = content(tmp_path / "step=2.ckpt")
    assert torch.equal(saved["state_dict"]["net.mean"], straight.net.mean)
    for name, value in saved["current_model_state"].items():
        if name.startswith("net."):
            assert torch.equal(saved["state_dict"][name], value), name
    assert content(tmp_path / "last.ckpt")["dynvid"]["calibrated"]
    found = found_again(tmp_path / "last.ckpt", data, 0.1)
    assert torch.equal(content(tmp_path / "last.ckpt")["state_dict"]["policy.thresholds"], found)
    # Once begun, it is an average.
    again = make()
    run = trainer(tmp_path, EMAWeightAveraging(decay=0.5, update_starting_at_step=7), Calibration(), max_epochs=2)
    run.fit(again, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    run.save_checkpoint(tmp_path / "begun.ckpt")
    saved = content(tmp_path / "begun.ckpt")
    assert int(saved["averaging_state"]["n_averaged"]) == 3


@pytest.mark.slow
def test_an_average_that_moves_at_the_end_of_an_epoch_is_saved_as_it_was_validated(data, tmp_path):
    average = EMAWeightAveraging(decay=0.5, update_every_n_steps=0, update_starting_at_epoch=0)
    best = TrainingCheckpoint(tmp_path, filename="best", save_last=True, monitor="val/loss")
    pl.seed_everything(1)
    trainer(tmp_path, average, Calibration(max_drop=0.1, confidence=None), best, max_epochs=3).fit(
        make(), datamodule=data
    )
    saved = content(tmp_path / "best.ckpt")
    assert saved["dynvid"]["calibrated"]
    assert torch.equal(saved["state_dict"]["policy.thresholds"], found_again(tmp_path / "best.ckpt", data, 0.1))
    saved = content(tmp_path / "last.ckpt")  # the average of the last epoch's end was never validated
    assert (saved["global_step"], saved["dynvid"]["calibrated"], is_full_inference(saved)) == (15, False, True)


# Compiled nets


def compiled(module):
    module.net = torch.compile(module.net, backend="eager")
    return module


@pytest.mark.slow
def test_a_compiled_net_trains_saves_and_loads_as_a_plain_one(data, tmp_path, request):
    saving = TrainingCheckpoint(tmp_path, save_last=True, filename="best")
    module = compiled(make(net=DepthExitNet, shift="none"))
    one = {"limit_train_batches": 1, "limit_val_batches": 1}
    trainer(tmp_path, Calibration(max_drop=0.1, confidence=None), saving, max_epochs=1, **one).fit(
        module, datamodule=data
    )
    saved = content(tmp_path / "last.ckpt")
    plain = make(net=DepthExitNet, shift="none")
    assert list(saved["state_dict"]) == list(plain.state_dict())
    assert saved["dynvid"]["calibrated"]
    assert len(saved["optimizer_states"][0]["state"]) == len(list(plain.net.parameters()))
    again = DynamicInferenceModule.load_from_checkpoint(tmp_path / "last.ckpt")
    video = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    theirs = module.eval().net.predict(video, module.policy)
    for mine, other in zip(again.net.predict(video, again.policy), theirs, strict=True):
        torch.testing.assert_close(mine, other)
    torch.compiler.set_stance("force_eager")  # what is wrapped need not be compiled twice
    request.addfinalizer(lambda: torch.compiler.set_stance("default"))
    for other in (compiled(make(net=DepthExitNet, shift="none")), plain):
        resumed = trainer(tmp_path, Calibration(max_drop=0.1, confidence=None), max_epochs=2, **one)
        resumed.fit(other, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
        assert resumed.global_step == 2
        assert list(other.state_dict()) == list(saved["state_dict"])


def test_checkpoints_of_compiled_nets_of_before_load(fitted, tmp_path):
    _, run = fitted
    run.save_checkpoint(tmp_path / "own.ckpt")
    saved = content(tmp_path / "own.ckpt")
    saved["state_dict"] = {name.replace("net.", "net._orig_mod.", 1): x for name, x in saved["state_dict"].items()}
    torch.save(saved, tmp_path / "old.ckpt")
    assert DynamicInferenceModule.load_from_checkpoint(tmp_path / "old.ckpt").calibrated
    assert "net._orig_mod.mean" in content(tmp_path / "old.ckpt")["state_dict"]


# Lines


@pytest.mark.slow
def test_each_epoch_is_one_line_without_a_progress_bar(data, tmp_path, capsys):
    callbacks = [Calibration(max_drop=0.1, confidence=None), EpochLine(), FlopsAccuracyReport()]
    module = make()
    trainer(tmp_path, *callbacks, max_epochs=2, check_val_every_n_epoch=2).fit(module, datamodule=data)
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch "))
    assert first.startswith("epoch 1/2, train/loss ")
    assert "val/accuracy" not in first
    accuracy = 100 * module.curve.exit_accuracy[-1]
    assert "epoch 2/2, train/loss " in second
    assert re.search(rf"val/accuracy {accuracy:.1f} %, macro recall [0-9.]+ %, dynamic ", second)
    assert second.endswith(" % saved")
    bar = trainer(tmp_path, EpochLine(), max_epochs=1, enable_progress_bar=True, limit_train_batches=1)
    bar.fit(make(), datamodule=data)
    assert "epoch 1/1" not in capsys.readouterr().out
