"""Calibration within `fit`: which videos choose, which calibrate, and what checkpoints then say."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynvid import ExitNet, UnifiedExitNet
from dynvid.calibration import Target, find_point, kept_apart
from dynvid.callbacks import Calibration, FlopsAccuracyReport
from dynvid.checkpoint import described, read_checkpoint
from dynvid.data import SyntheticDataModule
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 validation clips."""
    root = tmp_path_factory.mktemp("data") / "clips"
    return SyntheticDataModule(
        root, num_frames=4, size=32, clips_per_class=8, clip_frames=8, num_workers=0, batch_size=8
    )


class InRecordings(SyntheticDataModule):
    """The same clips, eight of a class to a recording."""

    def videos(self, split):
        return [type(v)(v.path, v.label, f"recording {n // 8}") for n, v in enumerate(super().videos(split))]


def make(net=UnifiedExitNet, **arguments):
    torch.manual_seed(0)
    return DynamicInferenceModule(net("test_resnet", num_classes=10, num_frames=4, input_size=32, **arguments))


def fit(folder, module, data, *callbacks, monitor="val/mean_exit_accuracy", max_epochs=1, ckpt_path=None):
    saved = ModelCheckpoint(folder, monitor=monitor, mode="max", filename="best")
    run = pl.Trainer(
        max_epochs=max_epochs,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, saved],
    )
    run.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return run, described(read_checkpoint(saved.best_model_path))


@pytest.mark.slow
def test_the_videos_that_calibrate_do_not_choose(data, tmp_path, caplog):
    module = make()
    with caplog.at_level("INFO"):
        run, saved = fit(tmp_path, module, data, Calibration(max_drop=0.2, confidence=0.9))
    videos = data.videos("val")
    apart = kept_apart([video.path for video in videos])
    count = int(apart.sum())
    assert f"calibration: {count} videos of val calibrate, {40 - count} choose the checkpoint" in caplog.text
    assert 15 < count < 38
    assert module.kept_apart.tolist() == apart.tolist()
    # The metric that chooses, from the logits of the other videos.
    labels = torch.tensor([video.label for video in videos])
    logits = module.curve.logits
    assert module.curve.labels.tolist() == labels.tolist()
    right = (logits[:, ~apart].argmax(-1) == labels[~apart]).float()
    assert run.callback_metrics["val/mean_exit_accuracy"] == pytest.approx(right.mean().item())
    assert run.callback_metrics["val/accuracy"] == pytest.approx(right[-1].mean().item())
    loss = sum(F.cross_entropy(exit_logits[~apart], labels[~apart]) for exit_logits in logits)
    assert run.callback_metrics["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
    # The thresholds, from those that do not choose.
    scores, correct = module.curve.scores[:, apart], module.curve.correct[:, apart]
    target = Target(max_drop=0.2, confidence=0.9)
    names = [video.path for video, is_apart in zip(videos, apart, strict=True) if is_apart]
    expected, _ = find_point(scores, correct[-1] & ~correct, module.net.gmacs, target, names)
    assert torch.equal(module.policy.thresholds, expected)
    point = saved["operating_point"]
    assert (point["videos"], point["split"], point["chosen_by"]) == (count, "val", "others")
    assert (point["target"], point["confidence"]) == (0.2, 0.9)


def test_the_loss_of_half_precision_is_summed_in_full(data, tmp_path):
    module = make()
    run = pl.Trainer(
        max_epochs=1,
        precision="bf16-mixed",
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_train_batches=1,
    )
    run.fit(module, datamodule=data)
    assert module.curve.logits.dtype == torch.bfloat16
    loss = sum(F.cross_entropy(logits.double(), module.curve.labels) for logits in module.curve.logits)
    assert run.callback_metrics["val/loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_enough_in_all_but_not_in_two_thirds_promises_nothing(data, tmp_path, caplog):
    """40 videos could promise 8 %, but they choose the checkpoint, and two thirds of them could not."""
    module = make()
    with caplog.at_level("INFO"):
        _, saved = fit(tmp_path, module, data, Calibration(max_drop=0.08))
    assert "takes about 54 videos" in caplog.text
    assert saved["operating_point"]["full_inference"]
    assert module.policy.thresholds[:-1].isposinf().all()


@pytest.mark.slow
def test_a_callback_serves_a_second_net(data, tmp_path):
    calibration = Calibration(max_drop=0.2)
    fit(tmp_path / "one", make(), data, calibration)
    other = make(route=[(2, 4), (4, 4)])
    _, saved = fit(tmp_path / "two", other, data, calibration)
    assert saved["operating_point"]["chosen_by"] == "others"
    assert other.policy.num_exits == 2


@pytest.mark.slow
def test_a_run_that_goes_on_does_not_forget_who_chose(data, tmp_path):
    """The best so far was chosen by all videos, under a budget; so was what comes of it."""
    module = make()
    run, saved = fit(tmp_path / "first", module, data, Calibration(budget=module.net.gmacs[1]))
    assert saved["operating_point"]["chosen_by"] == "these"
    last = tmp_path / "last.ckpt"
    run.save_checkpoint(last)
    again = make()
    _, saved = fit(tmp_path / "second", again, data, Calibration(max_drop=0.2), max_epochs=2, ckpt_path=last)
    assert again.kept_apart is None
    assert (saved["operating_point"]["chosen_by"], saved["operating_point"]["videos"]) == ("these", 40)


def test_a_split_that_is_too_small_is_not_divided_and_says_what_it_takes(data, tmp_path, caplog, capsys):
    module = make()
    with caplog.at_level("INFO"):
        run, saved = fit(tmp_path, module, data, Calibration(), FlopsAccuracyReport())
    assert "takes about 449 videos, two thirds of which do not choose" in caplog.text  # 299
    assert module.kept_apart is None
    assert run.callback_metrics["val/accuracy"] == pytest.approx(module.curve.exit_accuracy[-1].item())
    assert saved["calibrated"]
    assert module.policy.thresholds[:-1].isposinf().all()
    assert (saved["operating_point"]["chosen_by"], saved["operating_point"]["videos"]) == ("these", 40)
    printed = capsys.readouterr().out
    assert "full inference: 40 videos of val chose the checkpoint" in printed
    assert "needs 449 videos" in printed
    assert "what two thirds of 40 videos can promise" in printed


def test_where_nothing_chooses_all_videos_calibrate(data, tmp_path):
    module = make()
    _, saved = fit(tmp_path, module, data, Calibration(max_drop=0.2), monitor=None)
    assert module.kept_apart is None
    assert (saved["operating_point"]["chosen_by"], saved["operating_point"]["videos"]) == ("nothing", 40)


def test_a_metric_that_drives_the_learning_rate_chooses_too(data, tmp_path):
    module = make()
    module.lr_scheduler = lambda optimizer: pl.cli.ReduceLROnPlateau(optimizer, monitor="val/loss")
    _, saved = fit(tmp_path, module, data, Calibration(max_drop=0.2), monitor=None)
    assert saved["operating_point"]["chosen_by"] == "others"


def test_recordings_are_kept_together(data, tmp_path, caplog):
    grouped = InRecordings(
        data.root, num_frames=4, size=32, clips_per_class=8, clip_frames=8, num_workers=0, batch_size=8
    )
    module = make()
    with caplog.at_level("INFO"):
        _, saved = fit(tmp_path, module, grouped, Calibration(max_drop=0.96))
    names = [video.group for video in grouped.videos("val")]
    apart = module.kept_apart.tolist()
    assert len({(name, is_apart) for name, is_apart in zip(names, apart, strict=True)}) == 5
    whole = sum(apart) // 8
    assert 1 <= whole <= 4
    told = f"calibration: {8 * whole} videos of {whole} recordings of val calibrate, {40 - 8 * whole} choose"
    assert told.replace("1 recordings", "1 recording") in caplog.text
    assert (saved["operating_point"]["videos"], saved["operating_point"]["recordings"]) == (8 * whole, whole)


def test_a_budget_divides_nothing(data, tmp_path):
    module = make()
    budget = sum(module.net.gmacs[:2]) / 2
    _, saved = fit(tmp_path, module, data, Calibration(budget=budget))
    point = saved["operating_point"]
    assert module.kept_apart is None
    assert point["rule"] == "budget"
    assert point["gmacs"] <= budget
    assert point["interval"][0] <= point["gmacs"] <= point["interval"][1]


def test_a_net_with_one_exit_has_nothing_to_calibrate(data, tmp_path, caplog):
    with caplog.at_level("INFO"):
        fit(tmp_path, make(ExitNet, shift="none"), data, Calibration())
    assert "calibration" not in caplog.text


def test_videos_from_a_loader_of_ones_own_are_called_by_their_numbers(data, tmp_path):
    class Clips(Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            generator = torch.Generator().manual_seed(index)
            video = torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
            return {"video": video, "label": index % 10, "index": index}

    module = make()
    loader = DataLoader(Clips(), batch_size=4)
    run = pl.Trainer(
        max_epochs=1,
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[Calibration(max_drop=0.3)],
    )
    run.fit(module, loader, loader)
    assert module.outputs().paths == [str(n) for n in range(16)]
    assert module.point.videos == 16
    assert module.point.chosen_by == "nothing"


@pytest.mark.parametrize("net", [UnifiedExitNet, ExitNet])
def test_what_is_withheld_is_found_on_the_videos_that_do_not_choose(data, tmp_path, caplog, net):
    module = make(net, **({"route": [(4, 4)]} if net is ExitNet else {}))
    data.background = "ring"
    with caplog.at_level("INFO"):
        _, saved = fit(tmp_path, module, data, Calibration(max_drop=0.001, confidence=0.9, max_error=0.95))
    data.background = None
    apart = kept_apart([video.path for video in data.videos("val")])
    assert module.kept_apart.tolist() == apart.tolist()
    outputs = module.outputs().of(apart)
    assert module.reject == outputs.rejected(0.95, 0.9, "others")
    assert module.reject.videos == int(apart.sum())
    assert saved["reject"] == module.reject.plain()
    assert saved["background"] == "ring"
    # As without it, what else cannot be promised is said; a single exit has no thresholds.
    assert ("to promise max_drop 0.1 %" in caplog.text) == (net is UnifiedExitNet)
    assert "max_error" not in caplog.text


def test_too_few_videos_withhold_nothing_and_say_so(data, tmp_path, caplog):
    module = make()
    with caplog.at_level("INFO"):
        fit(tmp_path, module, data, Calibration(budget=1.0, max_error=0.01))
    assert "to promise max_error 1 % with 95 % confidence takes about 449 videos, two thirds of which" in caplog.text
    assert "no answer will be withheld" in caplog.text
    assert module.kept_apart is None
    assert module.reject.threshold is None
    with pytest.raises(InputError, match=r"max_error=1\.5"):
        Calibration(max_error=1.5)
