"""Training, calibration, checkpoints and resuming through Lightning's trainer."""

import csv
import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torchmetrics.classification import MulticlassRecall

from dynvid import UnifiedExitNet
from dynvid.calibration import operate, thresholds_for_drop, whole_curve
from dynvid.callbacks import Calibration, FlopsAccuracyReport
from dynvid.data import SyntheticDataModule, VideoFolderDataModule
from dynvid.inference import Recognizer
from dynvid.losses import ExitLoss
from dynvid.module import DynamicInferenceModule, read_checkpoint
from dynvid.multilabel import set_figures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "clips"
    return SyntheticDataModule(
        root, num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0, batch_size=8
    )


def make(data, **arguments):
    torch.manual_seed(0)
    net = UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32)
    return DynamicInferenceModule(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), **arguments)


def trainer(folder, epochs, *callbacks, **arguments):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    return pl.Trainer(max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), **quiet, **arguments)


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """Two epochs with everything on, and the folder of the run."""
    folder = tmp_path_factory.mktemp("run")
    module = make(data)
    run = trainer(
        folder, 2, Calibration(max_drop=0.1, confidence=None), FlopsAccuracyReport(), ModelCheckpoint(save_last=True)
    )
    pl.seed_everything(0)
    run.fit(module, datamodule=data)
    return module, run


def last(run):
    return run.checkpoint_callback.last_model_path


@pytest.mark.slow
def test_fit_writes_curve_and_figure(fitted):
    module, run = fitted
    with open(f"{run.log_dir}/flops_accuracy.csv") as file:
        rows = list(csv.DictReader(file))
    curve = [tuple(row.values()) for row in rows if row["kind"] == "curve"]
    assert len(curve) == len(set(curve)) == len(module.curve_thresholds.unique(dim=0))
    exits = [float(row["gmacs"]) for row in rows if row["kind"] == "exit"]
    assert exits == pytest.approx(module.net.gmacs)
    with open(f"{run.log_dir}/flops_accuracy.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_scalars_per_exit_reach_the_logger(fitted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(fitted[1].log_dir)
    events.Reload()
    tags = events.Tags()
    assert {"val/exit_1x2_accuracy", "val/exit_4x4_accuracy", "val/dynamic_accuracy", "train/loss"} <= set(
        tags["scalars"]
    )
    assert tags["images"] == ["val/flops_accuracy"]


def test_calibration_keeps_its_promise_on_the_validation_split(fitted):
    module, _ = fitted
    curve = module.curve
    found = operate(curve.scores, curve.correct, module.net.gmacs, module.policy.thresholds[None])
    assert found.accuracy.item() >= curve.exit_accuracy[-1].item() - 0.1 - 1e-6
    assert not module.policy.thresholds.isinf().all()


def test_checkpoint_is_plain_data_and_holds_what_inference_needs(fitted, data):
    module, run = fitted
    content = torch.load(last(run), weights_only=True)["dynvid"]
    assert content["class_names"] == data.class_names
    assert content["net"]["class_path"] == "dynvid.nets.exit_net.UnifiedExitNet"
    again = DynamicInferenceModule.load_from_checkpoint(last(run))
    video = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    module.eval()
    for a, b in zip(again.net.predict(video, again.policy), module.net.predict(video, module.policy), strict=True):
        assert torch.equal(a, b)
    assert (again.net.num_frames, again.net.input_size, again.class_names) == (4, 32, data.class_names)
    assert torch.equal(again.net.mean, module.net.mean)


def test_the_loss_learns_how_frequent_classes_are_and_macro_recall_is_logged(data, tmp_path):
    net = UnifiedExitNet("test_resnet", num_classes=len(data.class_names), num_frames=4, input_size=32)
    module = DynamicInferenceModule(net, loss=ExitLoss(class_weights="balanced"))
    fit = trainer(tmp_path, 1)
    fit.fit(module, datamodule=data)
    counts = torch.tensor(data.class_counts())
    assert module.loss.per_class.tolist() == pytest.approx((counts.sum() / (len(counts) * counts)).tolist())
    reference = MulticlassRecall(len(counts), average="macro")(module.curve.logits[-1], module.curve.labels)
    assert float(fit.callback_metrics["val/macro_recall"]) == pytest.approx(float(reference))


def test_test_report_agrees_with_executed_early_exit(fitted, data, capsys):
    module, run = fitted
    tester = trainer(run.default_root_dir, 1, FlopsAccuracyReport())
    tester.test(module, datamodule=data, verbose=False)
    printed = capsys.readouterr().out
    assert "full inference:" in printed
    assert "dynamic inference:" in printed
    with open(f"{tester.log_dir}/report.json") as file:
        report = json.load(file)
    assert set(report) >= {"full", "dynamic", "saved", "videos", "exits"}
    assert set(report["exits"][0]) >= {"frames", "depth", "gmacs", "accuracy", "share"}
    assert report["saved"] == pytest.approx(1 - report["dynamic"]["gmacs"] / report["full"]["gmacs"])
    # The same figures from predictions that were really made with early exit.
    predicted = tester.predict(module, datamodule=data)
    label = torch.cat([batch["label"] for batch in predicted])
    gmacs = torch.cat([batch["gmacs"] for batch in predicted])
    truth = torch.tensor([video.label for video in data.videos("test")])
    assert report["dynamic"]["accuracy"] == pytest.approx((label == truth).float().mean().item(), abs=1e-6)
    assert report["dynamic"]["gmacs"] == pytest.approx(gmacs.mean().item(), rel=1e-5)


def test_the_test_curve_uses_thresholds_of_the_validation_split(fitted, data):
    module, run = fitted
    trainer(run.default_root_dir, 1, logger=False).test(module, datamodule=data, verbose=False)
    rows = {tuple(row) for row in module.curve.thresholds.tolist()}
    assert rows == {tuple(row) for row in module.curve_thresholds.tolist()}


@pytest.mark.slow
def test_resuming_equals_never_having_stopped(data, tmp_path):
    class Fixed(SyntheticDataModule):
        """The same clips in the same order every epoch, so that nothing but the state of training matters."""

        def train_dataloader(self):
            return self.val_dataloader()

    data = Fixed(data.root, num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0, batch_size=8)

    def fit(module, epochs, folder, **arguments):
        callbacks = [Calibration(), ModelCheckpoint(dirpath=tmp_path / folder, save_last=True)]
        trainer(tmp_path, epochs, *callbacks, num_sanity_val_steps=0).fit(module, datamodule=data, **arguments)
        return module

    straight = fit(make(data), 2, "straight")
    fit(make(data), 1, "first")
    resumed = fit(make(data), 2, "second", ckpt_path=tmp_path / "first" / "last.ckpt")
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_views_are_averaged_and_paid_for(fitted, data, tmp_path):
    module, _ = fitted
    single = SyntheticDataModule(data.root, num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0)
    single.test_clips, single.test_crops = 2, 3
    run = trainer(tmp_path, 1, FlopsAccuracyReport())
    run.test(module, datamodule=single, verbose=False)
    with open(f"{run.log_dir}/report.json") as file:
        report = json.load(file)
    assert report["full"]["gmacs"] == pytest.approx(6 * module.net.full_gmacs)
    assert report["exits"][0]["gmacs"] == pytest.approx(6 * module.net.gmacs[0])
    right, _ = 0, module.eval()
    for batch in single.test_dataloader():
        for views, label in zip(batch["video"], batch["label"], strict=True):
            with torch.no_grad():
                p = torch.stack([module.net(view[None])[-1, 0].softmax(-1) for view in views]).mean(0)
            right += int(p.argmax() == label)
    assert report["full"]["accuracy"] == pytest.approx(right / len(single.videos("test")))


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_truncated_checkpoint_names_the_file(fitted, tmp_path, keep):
    with open(last(fitted[1]), "rb") as whole:
        (tmp_path / "cut.ckpt").write_bytes(whole.read(keep))
    with pytest.raises(ValueError, match=r"cut\.ckpt: is no checkpoint, is truncated"):
        DynamicInferenceModule.load_from_checkpoint(tmp_path / "cut.ckpt")


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": {}, "dynvid": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="more than plain data"):
        DynamicInferenceModule.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_other_files_say_what_they_are_not(tmp_path):
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds no Lightning checkpoint"):
        read_checkpoint(tmp_path / "other.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="not written by dynvid"):
        DynamicInferenceModule.load_from_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DynamicInferenceModule.load_from_checkpoint(tmp_path / "nowhere.ckpt")


def test_another_net_is_named_before_weights_are_loaded(fitted, data):
    net = UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32, shift="none")
    with pytest.raises(ValueError, match=r"another net: shift='online' \(here 'none'\)"):
        trainer(None, 1, logger=False).test(DynamicInferenceModule(net), datamodule=data, ckpt_path=last(fitted[1]))


def test_a_test_takes_the_score_that_the_thresholds_are_for_and_training_goes_on_with_no_other(fitted, data):
    net = UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32)
    module = DynamicInferenceModule(net, score="margin")
    trainer(None, 1, logger=False).test(module, datamodule=data, ckpt_path=last(fitted[1]), verbose=False)
    assert module.policy.score_name == "max_probability"
    module = DynamicInferenceModule(net, score="margin")
    with pytest.raises(ValueError, match=r"for the score 'max_probability' \(here 'margin'\)"):
        trainer(None, 4, logger=False).fit(module, datamodule=data, ckpt_path=last(fitted[1]))


def test_sync_batchnorm_that_would_drop_activations_is_refused():
    net = UnifiedExitNet("mobilenetv2_035", num_classes=10, num_frames=4, input_size=32)
    module = DynamicInferenceModule(net)
    module.trainer = trainer(None, 1, logger=False)
    module.on_fit_start()
    with pytest.raises(ValueError, match="sync_batchnorm drops the activations"):
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(module).on_fit_start()


def test_an_impossible_budget_is_refused_before_training(data):
    run = trainer(None, 1, Calibration(budget=1e-9), logger=False)
    with pytest.raises(ValueError, match="below the first exit"):
        run.fit(make(data), datamodule=data)
    assert run.global_step == 0


def test_number_of_classes_must_fit_the_data(data):
    net = UnifiedExitNet("test_resnet", num_classes=3, num_frames=4, input_size=32)
    with pytest.raises(ValueError, match="the data has 10 classes, the net 3"):
        trainer(None, 1, logger=False).fit(DynamicInferenceModule(net), datamodule=data)


def test_frozen_batch_norm_stays_as_it_was(data, tmp_path):
    module = make(data, freeze_batch_norm=True, backbone_lr_scale=0.5)
    before = {n: b.clone() for n, b in module.net.segments.named_buffers()}
    run = trainer(tmp_path, 1, logger=False, enable_checkpointing=False)
    run.fit(module, datamodule=data)
    assert all(torch.equal(b, before[n]) for n, b in module.net.segments.named_buffers())
    norms = [layer for layer in module.net.segments.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all((layer.weight == 1).all() or (layer.weight == 0).all() for layer in norms)  # as made, never trained
    assert [group["lr"] for group in run.optimizers[0].param_groups] == [0.1, 0.05]


def test_warmup_rises_step_by_step_and_multiplies_the_schedule(data, tmp_path):
    """40 clips in batches of 8: 5 steps per epoch."""

    class Rates(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    schedule = lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2])  # noqa: E731
    module = make(data, lr_scheduler=schedule, warmup_epochs=1.4)  # 7 steps
    trainer(tmp_path, 3, rates, logger=False, enable_checkpointing=False, limit_val_batches=0).fit(module, data)
    rising = [0.1 * (1 / 8 + i * (7 / 8) / 7) for i in range(7)]
    assert rates.seen == pytest.approx(rising + [0.1] * 3 + [0.01] * 5)


def test_warmup_longer_than_training(data, tmp_path):
    module = make(data, warmup_epochs=5)
    with pytest.raises(ValueError, match=r"warmup_epochs=5 is longer than trainer.max_epochs=2"):
        trainer(tmp_path, 2, logger=False, enable_checkpointing=False).fit(module, data)


def test_mixup_in_training_only(data, tmp_path):
    class Labels(pl.Callback):
        def __init__(self):
            self.train, self.val = [], []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.train.append(batch["label"])

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            self.val.append(batch["label"])

    labels = Labels()
    mixing = SyntheticDataModule(
        data.root, num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0, batch_size=8
    )
    mixing.mixup = 0.5
    trainer(tmp_path, 1, labels, logger=False, enable_checkpointing=False).fit(make(mixing), mixing)
    assert {(x.shape, x.dtype) for x in labels.train} == {((8, 10), torch.float32)}
    assert all(x.dtype == torch.int64 for x in labels.val)


@pytest.mark.slow
def test_averaged_weights_keep_thresholds_of_their_own(data, tmp_path):
    """Lightning's averaging averages buffers too: infinite thresholds would stay infinite, or become NaN."""
    average = EMAWeightAveraging(decay=0.8)
    saved = ModelCheckpoint(tmp_path, save_last=True)
    module = make(data)
    run = trainer(tmp_path, 3, average, Calibration(max_drop=0.1, confidence=None), FlopsAccuracyReport(), saved)
    pl.seed_everything(0)
    run.fit(module, datamodule=data)
    content = torch.load(saved.last_model_path, weights_only=True)
    weights = "net.segments.0.conv1.0.weight"
    assert not torch.equal(content["state_dict"][weights], content["current_model_state"][weights])
    again = DynamicInferenceModule.load_from_checkpoint(saved.last_model_path)
    for one in (module, again):  # in memory and on disk: the averaged weights with what was calibrated on them
        tester = trainer(tmp_path, 1, logger=False)
        tester.validate(one, datamodule=data, verbose=False)
        curve = one.curve
        assert torch.equal(one.policy.thresholds, thresholds_for_drop(curve.scores, curve.correct, one.net.gmacs, 0.1))
        assert torch.equal(one.curve_thresholds, whole_curve(curve.scores, curve.correct, one.net.gmacs))


def test_averaged_weights_are_not_saved_by_halves(data, tmp_path):
    halves = ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(ValueError, match="save_weights_only would leave out the averaged weights"):
        trainer(tmp_path, 1, EMAWeightAveraging(decay=0.8), halves).fit(make(data), datamodule=data)


def test_a_schedule_that_drops_the_scale_of_the_backbone_says_so(data, tmp_path):
    def one_cycle(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9)

    plain = trainer(tmp_path, 1, logger=False, enable_checkpointing=False, limit_train_batches=1, limit_val_batches=0)
    plain.fit(make(data, lr_scheduler=one_cycle), datamodule=data)

    def of_its_own(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0, lambda _: 0.5])

    plain.fit(make(data, lr_scheduler=of_its_own), datamodule=data)  # a scale per group that was asked for
    with pytest.raises(ValueError, match="OneCycleLR sets learning rates of its own, so backbone_lr_scale is lost"):
        plain.fit(make(data, lr_scheduler=one_cycle, backbone_lr_scale=0.1), datamodule=data)


def test_a_training_batch_of_one_video_says_what_to_do(data, tmp_path):
    ones = SyntheticDataModule(
        data.root, num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0, batch_size=1
    )
    module = make(data)
    module.net.heads["2"].insert(0, torch.nn.BatchNorm1d(module.net.heads["2"][0].in_features))
    with pytest.raises(ValueError, match=r"holds one video, .* data\.batch_size to 2"):
        trainer(tmp_path, 1, logger=False, enable_checkpointing=False).fit(module, datamodule=ones)


@pytest.mark.parametrize(
    "arguments", [{"max_drop": 5.0}, {"max_drop": float("nan")}, {"budget": -1.0}, {"max_drop": 0.01, "budget": 1.0}]
)
def test_calibration_refuses_numbers_out_of_range_and_two_at_once(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Calibration(**arguments)


def test_the_calibrated_curve_keeps_its_precision(data):
    module = make(data)
    module.curve_thresholds.fill_(0.9985)
    assert module.to(torch.bfloat16).curve_thresholds.dtype == torch.float32
    assert module.net.dtype == torch.bfloat16


@pytest.mark.slow
def test_the_report_draws_the_published_rows_beside_the_curve(fitted, data, tmp_path):
    module, _ = fitted
    pages = []
    for published in (None, "ucf101"):
        run = trainer(tmp_path, 1, FlopsAccuracyReport(published=published))
        run.validate(module, datamodule=data, verbose=False)
        with Image.open(f"{run.log_dir}/flops_accuracy.png") as picture:
            assert picture.width == 1275
        pages.append(Path(run.log_dir, "report.html").read_text())
    assert ["MSDNet-38" in page for page in pages] == [False, True]


def test_clips_of_a_loader_of_your_own_need_no_path(fitted):
    module, _ = fitted
    batch = {"video": torch.zeros(2, module.net.num_frames, 3, 32, 32), "index": torch.tensor([4, 7])}
    found = module.eval().predict_step(batch, 0)
    assert found.keys() == {"index", "label", "probability", "exit", "gmacs", "answered"}
    assert found["index"].tolist() == [4, 7]


@pytest.fixture(scope="module")
def sets(data, tmp_path_factory):
    """The same clips, each with the first letters of its class and of the one before it in the alphabet, or none."""
    data.prepare_data()
    folder, rows = tmp_path_factory.mktemp("sets"), ["path,label,split"]
    for n, path in enumerate(sorted(data.root.rglob("*.mp4"))):
        letters = sorted({path.stem[0], chr(ord(path.stem[0]) - 1)} if n % 5 else set())
        rows.append(f"{path},{';'.join(letters)},{path.parts[-3]}")
    (folder / "sets.csv").write_text("\n".join(rows))
    arguments = {"num_frames": 4, "size": 32, "num_workers": 0, "batch_size": 8, "mixup": 0.2, "balanced": True}
    return VideoFolderDataModule(folder, "sets.csv", multi_label=True, **arguments)


def of_sets(sets, **arguments):
    torch.manual_seed(0)
    net = UnifiedExitNet("test_resnet", num_classes=sets.num_classes, num_frames=4, input_size=32)
    return DynamicInferenceModule(net, multi_label=True, **arguments)


@pytest.fixture(scope="module")
def fitted_sets(sets, tmp_path_factory):
    module = of_sets(sets, loss=ExitLoss(class_weights="balanced", distillation=0.5, label_smoothing=0.1))
    folder = tmp_path_factory.mktemp("run of sets")
    run = trainer(folder, 1, Calibration(max_drop=0.5, confidence=None), ModelCheckpoint(folder, save_last=True))
    run.fit(module, datamodule=sets)
    return module, run


def test_sets_are_trained_on_and_logged(fitted_sets, sets):
    module, run = fitted_sets
    logged, curve = run.callback_metrics, module.curve
    assert torch.equal(curve.labels, torch.stack([sets_row(v, sets.num_classes) for v in sets.videos("val")]))
    said = curve.logits[-1] > 0
    assert logged["val/accuracy"] == pytest.approx(float((said == curve.labels).all(1).float().mean()))
    for name, value in set_figures(curve.logits[-1], said, curve.labels).items():
        assert logged[f"val/{name}"] == pytest.approx(float(value))
    positives = torch.tensor(sets.class_counts(), dtype=torch.float32)
    torch.testing.assert_close(module.loss.per_class, (len(sets.videos("train")) - positives) / positives)
    outputs = module.outputs()
    assert outputs.multi_label
    taken = outputs.lost(with_labels=True).gather(0, outputs.taken[None])[0]
    assert float(taken.double().mean()) <= 0.5  # what the calibration was asked for, on these very videos


def sets_row(video, classes):
    return torch.tensor([int(label in video.label) for label in range(classes)])


def test_checkpoints_of_sets_are_read_and_those_of_old_have_none(fitted_sets, sets, tmp_path):
    path = fitted_sets[1].checkpoint_callback.last_model_path
    again = DynamicInferenceModule.load_from_checkpoint(path)
    assert again.multi_label
    assert again.policy.multi_label
    recognizer = Recognizer.load(path)
    clip = sets.videos("test")[0].path
    found = recognizer(clip)
    assert found.labels == tuple(name for name in sets.class_names if name in found.labels)
    assert found.label == ";".join(found.labels)
    old = torch.load(path, weights_only=True)
    del old["dynvid"]["multi_label"]
    torch.save(old, tmp_path / "old.ckpt")
    assert not DynamicInferenceModule.load_from_checkpoint(tmp_path / "old.ckpt").multi_label
    assert len(Recognizer.load(tmp_path / "old.ckpt")(clip).labels) == 1


def test_sets_and_single_labels_do_not_mix(fitted_sets, sets, data, tmp_path):
    with pytest.raises(ValueError, match="the data has multi_label=True, the module multi_label=False: give both"):
        trainer(tmp_path, 1).fit(make(sets), datamodule=sets)
    with pytest.raises(ValueError, match="the data has multi_label=False, the module multi_label=True"):
        trainer(tmp_path, 1).fit(of_sets(sets), datamodule=data)
    other = pl.LightningDataModule()  # somebody's own
    other.class_names, other.train_dataloader = ["a;b", *sets.class_names[1:]], sets.train_dataloader
    with pytest.raises(ValueError, match="a class holds ';' in its name"):
        trainer(tmp_path, 1).fit(of_sets(sets), datamodule=other)
    net = UnifiedExitNet("test_resnet", num_classes=sets.num_classes, num_frames=4, input_size=32)
    module, path = DynamicInferenceModule(net), fitted_sets[1].checkpoint_callback.last_model_path
    with pytest.raises(ValueError, match="trained with multi_label=True, here it is False"):
        trainer(tmp_path, 1).test(module, sets.test_dataloader(), ckpt_path=path)


def test_views_of_sets_are_averaged_as_probabilities(fitted_sets, sets, tmp_path):
    module, _ = fitted_sets
    several = VideoFolderDataModule(
        sets.root, "sets.csv", multi_label=True, num_frames=4, size=32, num_workers=0, test_clips=2
    )
    run = trainer(tmp_path, 1, logger=False)
    run.test(module, datamodule=several, verbose=False)
    batch, _ = next(iter(several.test_dataloader())), module.eval()
    with torch.no_grad():
        p = torch.stack([module.net(view).sigmoid() for view in batch["video"].unbind(1)]).mean(0)
    torch.testing.assert_close(module.curve.logits[:, : p.shape[1]].sigmoid(), p, atol=1e-4, rtol=0)
    assert run.callback_metrics["test/map"] <= 1


def test_predictions_of_sets_are_those_of_the_net(fitted_sets, sets, tmp_path):
    module, _ = fitted_sets
    (found, *_) = trainer(tmp_path, 1, logger=False).predict(module, datamodule=sets)
    clips = next(iter(sets.test_dataloader()))
    expected = module.eval().net.predict(clips["video"], module.policy)
    rows = len(expected.label)
    assert found["label"].dtype == torch.bool
    assert torch.equal(found["label"][:rows], expected.label)
    assert torch.equal(found["exit"][:rows], expected.exit)
