"""Training, evaluation and checkpoints of an ExitNet with Lightning."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from dynvid.calibration import ChosenBy, OperatingPoint, Reject, num_candidates, reject_level
from dynvid.checkpoint import (
    described,
    fingerprint,
    is_calibrated,
    net_from_checkpoint,
    read_checkpoint,
    reject_from_checkpoint,
)
from dynvid.data import Video, VideoDataModule
from dynvid.data.dataset import Skipped
from dynvid.data.features import Features
from dynvid.data.members import source_of
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError, VideoError
from dynvid.frozen import compute_features
from dynvid.inference import Preparation, Recognizer
from dynvid.losses import ExitLoss
from dynvid.metrics import FlopsAccuracy, FlopsAccuracyCurve
from dynvid.multilabel import SEPARATOR, Label, multi_hot
from dynvid.nets import ExitNet
from dynvid.nets.compiled import drop_compiled_names, plain_name, take_names_of
from dynvid.nets.description import shown
from dynvid.nets.weights.file import check_fit
from dynvid.outputs import Outputs, listing_of, recordings_of
from dynvid.policy import Score, ThresholdPolicy
from dynvid.profile import Profile, read_profiles
from dynvid.recall import class_figures
from dynvid.saving import use_whole_files

__all__ = ["DynamicInferenceModule", "fingerprint", "listing", "read_checkpoint", "recordings_in"]

Batch = dict[str, Any]


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    """TSM's recipe: SGD, lr 0.02 for a batch of 128."""
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)


class DynamicInferenceModule(pl.LightningModule):
    """Trains all exits together and evaluates top-1 against average cost.

    Batches are dicts: `video` uint8 (B, T, C, H, W), `label` int64 (B,), `index` int64 (B,); labels that are sets are
    int64 (B, classes) of 0 and 1.

    Args:
        net: The net.
        loss: `ExitLoss()` by default, the plain sum of the exits' cross-entropies.
        score: How sure an exit is: `max_probability`, `margin`, `negative_entropy` or `patience`.
        optimizer: Parameters -> optimizer; TSM's SGD by default.
        lr_scheduler: Optimizer -> scheduler, stepped per epoch; none by default.
        warmup_epochs: Let the learning rate rise from near zero over this many epochs, step by step, on top of a
            scheduler that multiplies it (such as MultiStepLR, or CosineAnnealingLR down to 0).
        backbone_lr_scale: The backbone's share of the learning rate; below 1 where it is pretrained.
        freeze_batch_norm: Keep the backbone's batch norm as it was pretrained, statistics and weights; for small
            batches, or where it is folded into the convolutions. Leave it off where classes are told by motion: without
            batch norm that centres them again, rectified features that vanish for all videos never come back.
        freeze_backbone: Train the heads only, on features that are computed once for each video and its mirror image,
            from centre frames and centre crops, and kept below the trainer's `default_root_dir`; with other loaders
            than those of a `VideoDataModule` they are computed anew in each step.
        gradient_equilibrium: See `ExitNet`.
        gradient_checkpointing: See `ExitNet`.
        multi_label: A video may have several classes, or none: labels are sets (see `dynvid.multilabel`), and accuracy
            is the share of videos of which all names are right. The command line takes it from the data.

    Attributes:
        policy: The thresholds; full inference until calibrated. `set_thresholds` sets them together with the weights
            that they belong to; a checkpoint of other weights holds full inference.
        class_names: Names of the classes, once a data module or a checkpoint has told them.
        point: What the thresholds were asked to do; None until calibrated.
        reject: Which answers are withheld; None where none are. Other thresholds leave none.
        background: The class of videos that show none of the others, once a data module or a checkpoint has told it.
        curve: What the last validation or test run found.
        kept_apart: Which videos of the validation split choose no checkpoint, bool, one for each of its videos; the
            metrics of a validation are those of the others. None where all of them count.
        chosen_by: Who of the validation split chose these weights: "nothing", "others" than those kept apart, or
            "these", all of them; "folds" where they were trained on too; None where that is not known.
        listing: A name for the list of videos that `fit` validated on.
        features_folder: Where features of a frozen backbone are kept; None for below the trainer's `default_root_dir`.
        sampling: Which frame of each segment the data module takes in evaluation; prediction does likewise.
        profiles: Milliseconds of the exits, as `dynvid profile` measured them; they do not depend on the weights.
        validated_weights: A name for the weights that `fit` validated last; averaged ones are in the net for that only.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=8))
        >>> module.policy.num_exits
        4
    """

    curve_thresholds: Tensor

    def __init__(
        self,
        net: ExitNet,
        loss: ExitLoss | None = None,
        score: Score = "max_probability",
        optimizer: OptimizerCallable = _sgd,
        lr_scheduler: LRSchedulerCallable | None = None,
        warmup_epochs: float = 0.0,
        backbone_lr_scale: float = 1.0,
        freeze_batch_norm: bool = False,
        freeze_backbone: bool = False,
        gradient_equilibrium: bool = False,
        gradient_checkpointing: bool = False,
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        if warmup_epochs < 0:
            raise InputError(f"warmup_epochs={warmup_epochs:g}: 0 or more")
        self.net = net
        net.spec()  # what cannot be written into checkpoints is said before anything is trained
        self.backbone_lr_scale, self.freeze_batch_norm = backbone_lr_scale, freeze_batch_norm
        self.freeze_backbone = freeze_backbone
        self.features_folder: Path | None = None
        if freeze_backbone:
            net.segments.requires_grad_(False)
            net.embeddings.requires_grad_(False)
        if freeze_batch_norm:
            for layer in self._batch_norms():
                layer.requires_grad_(False)
        self.loss = loss or ExitLoss()
        self.loss.multi_label = multi_label
        exits = len(net.route)
        self.policy = ThresholdPolicy(exits, score=score, multi_label=multi_label)
        # The calibrated curve travels with the thresholds, so that a test curve is never fitted to test data.
        self.register_buffer("curve_thresholds", torch.full((num_candidates(exits), exits), torch.inf))
        self.optimizer, self.lr_scheduler, self.warmup_epochs = optimizer, lr_scheduler, warmup_epochs
        net.gradient_equilibrium, net.gradient_checkpointing = gradient_equilibrium, gradient_checkpointing
        self.class_names: list[str] | None = None
        self.point: OperatingPoint | None = None
        self.reject: Reject | None = None
        self.background: str | None = None
        self.curve: FlopsAccuracy | None = None
        self.kept_apart: Tensor | None = None
        self.chosen_by: ChosenBy | None = None
        self.listing: str | None = None
        self.sampling: Sampling = "center"
        self.profiles: tuple[Profile, ...] = ()
        self.listed = ""  # the same of the videos that the curve is of, whether they could be read or not
        self._recorded: tuple[str, list[str], list[str]] | None = None  # split, paths and recordings behind the curve
        self._thresholds_of: str | None = None  # the weights that the thresholds were found for
        self.validated_weights: str | None = None
        self.val_curve = FlopsAccuracyCurve(net.gmacs, self.policy)
        self.test_curve = FlopsAccuracyCurve(net.gmacs, self.policy)
        self.register_state_dict_post_hook(drop_compiled_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(take_names_of)  # type: ignore[no-untyped-call]
        self._has_fused_norms = any(isinstance(layer, BatchNormAct2d) for layer in net.modules())
        self.train(self.training)  # Lightning does not call train() before it trains

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.curve_thresholds
        fit = self._thresholds_of is not None and self.calibrated
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.curve_thresholds = exact.to(self.curve_thresholds.device)  # never rounded, as in ThresholdPolicy
        if fit:  # weights that are rounded are still the same
            self._thresholds_of = fingerprint(self.state_dict())
        return self

    @property
    def multi_label(self) -> bool:
        """Whether labels are sets."""
        return self.policy.multi_label

    @property
    def calibrated(self) -> bool:
        """Whether the thresholds were found for the weights as they are now; a single exit needs none."""
        return self._fits(self.state_dict())

    def set_thresholds(
        self,
        thresholds: Tensor | Sequence[float],
        curve_thresholds: Tensor | None = None,
        weights: str | None = None,
        point: OperatingPoint | None = None,
        reject: Reject | None = None,
    ) -> None:
        """Set thresholds together with the weights that they were found for.

        Args:
            thresholds: One per exit, (K,).
            curve_thresholds: The calibrated curve, as `dynvid.calibration.whole_curve` gives it; none by default.
            weights: `validated_weights`; by default they are those that are in the net now.
            point: What the thresholds were asked to do; by default they are given by hand, and promise nothing.
            reject: Which of the answers that they lead to are withheld; none by default.

        Raises:
            ValueError: They are not one per exit.
        """
        thresholds = torch.as_tensor(thresholds)
        if thresholds.shape != self.policy.thresholds.shape:
            raise InputError(f"thresholds of shape {tuple(thresholds.shape)}: one per exit ({self.policy.num_exits})")
        with torch.no_grad():
            self.policy.thresholds.copy_(thresholds)
            self.curve_thresholds.copy_(torch.full_like(self.curve_thresholds, torch.inf))
            if curve_thresholds is not None:
                self.curve_thresholds.copy_(curve_thresholds)
        self.point = OperatingPoint("thresholds") if point is None else point
        self.reject = reject
        self._thresholds_of = weights or fingerprint(self.state_dict())

    def outputs(self) -> Outputs | None:
        """What the last validation or test run recorded, with the policy as it is now."""
        if self.curve is None:
            return None
        numbers = [str(row) for row in self.curve.index.tolist()]  # where a data set does not tell its videos
        split, paths, recordings = self._recorded or ("", numbers, numbers)
        views = float(self.curve.exit_gmacs[0]) / self.net.gmacs[0]
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        weights = self.validated_weights if fitting else fingerprint(self.state_dict())
        return Outputs(
            logits=self.curve.logits,
            labels=self.curve.labels,
            paths=paths,
            recordings=recordings,
            route=self.net.route,
            gmacs=tuple(self.curve.exit_gmacs.tolist()),
            full_gmacs=views * self.net.full_gmacs,
            policy=self.policy.at(self.policy.thresholds.cpu()),
            point=self.point if self._thresholds_of == weights else None,
            split=split,
            class_names=self.class_names,
            weights=weights or "",
            profiles=self.profiles if round(views) == 1 else (),  # what several views cost was not measured
            reject=self.reject if self._thresholds_of == weights else None,
            background=self.background,
        )

    def setup(self, stage: str) -> None:
        """Take the class names from the data module, and let checkpoints be written whole (`dynvid.saving`).

        Raises:
            ValueError: The data has another number of classes than the net, or only one of both has sets of labels.
        """
        data = getattr(self.trainer, "datamodule", None)
        sets = getattr(data, "multi_label", self.multi_label)  # what is no data module of ours does not tell
        if sets != self.multi_label:
            raise InputError(
                f"the data has multi_label={sets}, the module multi_label={self.multi_label}: give both the same"
            )
        self.sampling = getattr(data, "sampling", self.sampling)
        names = getattr(data, "class_names", None)
        if names is not None:
            if len(names) != self.net.num_classes:
                raise InputError(f"the data has {len(names)} classes, the net {self.net.num_classes}")
            if self.multi_label and any(SEPARATOR in name for name in names):
                raise InputError(f"a class holds {SEPARATOR!r} in its name, which stands between the names of a set")
            self.class_names = list(names)
        self.background = getattr(data, "background", None) or self.background
        if stage == "fit" and self.loss.class_weights == "balanced" and isinstance(data, VideoDataModule):
            self.loss.balance(data.class_counts(), data.num_training_videos())
        if isinstance(data, VideoDataModule):
            data.features = Features() if stage == "fit" and self.freeze_backbone else None
            if data.features is not None and data.mixup:
                raise InputError("data.mixup mixes pixels, and a frozen backbone sees each video once: leave it 0")
        use_whole_files(self.trainer.strategy)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, what is frozen excepted."""
        super().train(mode)
        if mode and self.freeze_backbone:
            self.net.segments.eval()
            self.net.embeddings.eval()
        if mode and self.freeze_batch_norm:
            for layer in self._batch_norms():
                layer.eval()
        return self

    def on_fit_start(self) -> None:
        """Refuse what would change the net in silence.

        Raises:
            ValueError: `sync_batchnorm` has replaced timm's batch norm together with the activation inside it; or
                checkpoints would hold thresholds of averaged weights without these weights.
        """
        if self._has_fused_norms and any(type(layer) is nn.SyncBatchNorm for layer in self.net.modules()):
            raise InputError(
                "trainer.sync_batchnorm drops the activations inside timm's batch norm: leave it off, and pass the net "
                "through timm.layers.convert_sync_batchnorm instead"
            )
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning's own annotation lacks it
        if any(isinstance(callback, WeightAveraging) for callback in callbacks) and any(
            isinstance(callback, ModelCheckpoint) and callback.save_weights_only for callback in callbacks
        ):
            raise InputError("checkpoint.save_weights_only would leave out the averaged weights: leave it off")
        if self.freeze_batch_norm and not self.freeze_backbone and self.net.shift_kind != "none":
            rank_zero_info(
                "warning: model.freeze_batch_norm beside a temporal shift: where motion tells the classes, nets stayed "
                "at chance with it, their last features dead; leave it off unless the weights have batch norm folded in"
            )
        self._compute_features()

    def _compute_features(self) -> None:
        """Compute the features of a frozen backbone where the data module asks for them, each process a part."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, VideoDataModule) or data.features is None:
            return
        folder = self.features_folder or Path(self.trainer.default_root_dir, "features")
        world = self.trainer.world_size
        training = self.training
        self.eval()
        compute_features(self.net, data, folder, rank_zero_info, slice(self.trainer.global_rank, None, world))
        if world > 1:
            self.trainer.strategy.barrier()
            compute_features(self.net, data, folder, rank_zero_info)  # to know what nobody could read
        self.train(training)

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedulers that were asked for."""
        optimizer = self._build_optimizer()
        schedulers = [] if self.lr_scheduler is None else [self._schedule(optimizer, self.lr_scheduler)]
        if self.warmup_epochs:
            schedulers.append(self._warmup(optimizer))
        return [optimizer], schedulers

    def _build_optimizer(self) -> torch.optim.Optimizer:
        """Two groups of parameters, the heads and the backbone, which learns at its own share of the rate."""
        of_segments = {id(p) for p in self.net.segments.parameters()}
        heads = [p for p in self.net.parameters() if id(p) not in of_segments]
        backbone = [p for p in self.net.segments.parameters() if p.requires_grad]  # none, where it is frozen
        try:
            optimizer = self.optimizer([{"params": heads}, {"params": backbone}])
        except ValueError as error:  # such as a negative learning rate
            raise InputError(f"model.optimizer: {error}") from error
        of_backbone = optimizer.param_groups[1]
        of_backbone["lr"] = of_backbone["lr"] * self.backbone_lr_scale  # not in place: it may be a tensor of both
        return optimizer

    def _schedule(self, optimizer: torch.optim.Optimizer, schedule: LRSchedulerCallable) -> dict[str, Any]:
        """The schedule, stepped per epoch; it must keep the backbone's share."""
        scheduler = schedule(optimizer)
        head_lr, backbone_lr = (float(group["lr"]) for group in optimizer.param_groups)
        scale = self.backbone_lr_scale
        if scale != 1 and not math.isclose(backbone_lr, head_lr * scale, rel_tol=1e-6):
            raise InputError(
                f"{type(scheduler).__name__} sets learning rates of its own, so backbone_lr_scale is lost: leave "
                "it at 1, or take a schedule that scales them, such as CosineAnnealingLR with warmup_epochs"
            )
        monitor = {"monitor": scheduler.monitor} if isinstance(scheduler, ReduceLROnPlateau) else {}
        return {"scheduler": scheduler} | monitor

    def _warmup(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The rise from near zero, stepped per batch; it multiplies whatever the schedule says."""
        epochs = self.trainer.max_epochs or -1
        if epochs < 1:
            raise InputError("warmup_epochs needs trainer.max_epochs of 1 or more")
        if epochs < self.warmup_epochs and not getattr(self.trainer, "fast_dev_run", False):
            raise InputError(f"warmup_epochs={self.warmup_epochs:g} is longer than trainer.max_epochs={epochs}")
        steps = math.ceil(self.warmup_epochs * self.trainer.estimated_stepping_batches / epochs)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (steps + 1), total_iters=steps)
        return {"scheduler": warmup, "interval": "step"}

    def forward(self, video: Tensor) -> Tensor:
        """Logits of all exits: (B, T, C, H, W) -> (K, B, classes)."""
        logits: Tensor = self.net(video)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss over all exits.

        Raises:
            ValueError: The batch is one video, and a head normalises over the batch.
        """
        if len(batch["label"]) == 1 and any(isinstance(layer, nn.BatchNorm1d) for layer in self.net.heads.modules()):
            raise InputError(
                "a training batch holds one video, and the heads normalise over the batch: set data.batch_size to 2 or "
                "more, and leave unreadable videos out with data.exclude, not data.on_error"
            )
        loss: Tensor = self.loss(self._answers(batch), batch["label"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]))
        return loss

    def _answers(self, batch: Batch) -> Tensor:
        """Logits of all exits for the videos of a batch, or for their features, by depth (B, n, C): (K, B, classes)."""
        if "features" in batch:
            return self.net.answer({depth: x.transpose(0, 1).contiguous() for depth, x in batch["features"].items()})
        logits: Tensor = self(batch["video"])
        return logits

    def on_train_epoch_end(self) -> None:
        """An average that has not begun is still these weights, when training ends too."""
        self._follow_until_averaged()

    def on_validation_start(self) -> None:
        """An average that has not begun is still these weights; Lightning would validate those before training."""
        self._follow_until_averaged()
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self._say_if_not_calibrated()
            if self.chosen_by == "folds":
                rank_zero_warn("this net was trained on train and val (fit --folds): figures of val say nothing of new")

    def on_validation_epoch_start(self) -> None:
        """Note which weights are validated: those in the net now, where a callback may have put averaged ones."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.validated_weights = fingerprint(self.state_dict())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Record all exits."""
        self.val_curve.update(self._answers(batch), batch["label"], batch["index"])

    def choosing(self) -> Tensor:
        """Which videos of the curve choose checkpoints, bool (N,): in `fit`, all but those kept apart."""
        assert self.curve is not None
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if self.kept_apart is None or not fitting:
            return torch.ones_like(self.curve.index, dtype=torch.bool)
        return ~self.kept_apart[self.curve.index]

    def _record(self, split: str, loaders: Any) -> None:
        """Note which videos the curve is of."""
        assert self.curve is not None
        self.listed = listing(loaders)
        rows = self.curve.index.tolist()
        paths, recordings = _listed(loaders)[0], recordings_in(loaders)
        names = [paths[row] for row in rows] if paths else [str(row) for row in rows]
        self._recorded = split, names, [recordings[row] for row in rows] if paths else names

    def on_validation_epoch_end(self) -> None:
        """Log the loss and accuracies of the videos that choose checkpoints."""
        self.curve = self.val_curve.compute()
        self.val_curve.reset()
        self._record("val", self.trainer.val_dataloaders)
        choosing = self.choosing()
        logits, labels = self.curve.logits[:, choosing].float(), self.curve.labels[choosing]  # autocast gives bf16
        accuracy = self.curve.correct[:, choosing].float().mean(1)
        # All ranks have all answers; sync_dist only tells Lightning so.
        self.log("val/loss", self.loss(logits, labels), sync_dist=True)
        self.log("val/accuracy", accuracy[-1], prog_bar=True, sync_dist=True)
        for name, value in self._class_figures(logits[-1:], labels).items():
            self.log(f"val/{name}", value, sync_dist=True)
        self.log("val/mean_exit_accuracy", accuracy.mean(), sync_dist=True)
        self._say_what_died()

    def _say_what_died(self) -> None:
        """Warn of exits that tell no video from another, as where all features before them are zero or saturated.

        Rectifiers that a step has pushed below zero for every input have no gradient to come back by. Batch norm that
        is trained centres them again with each batch; frozen, it lets them go.
        """
        assert self.curve is not None
        fitting = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        if not fitting or len(self.curve.labels) < 2:
            return
        varies = self.curve.logits.float().std(1).amax(-1)  # (K,)
        if dead := [f"{n}x{d}" for (n, d), x in zip(self.net.route, varies.tolist(), strict=True) if x < 1e-3]:
            free = "leave model.freeze_batch_norm off, or " if self.freeze_batch_norm else ""
            rank_zero_info(
                f"warning: exit {', '.join(dead)} answers all videos alike: the features there have died, and do "
                f"not come back; begin again, and {free}lower model.backbone_lr_scale or the learning rate"
            )

    def on_test_start(self) -> None:
        """Say that the checkpoint is not calibrated, where it is not."""
        self._say_if_not_calibrated()

    def on_predict_start(self) -> None:
        """Say that the checkpoint is not calibrated, where it is not."""
        self._say_if_not_calibrated()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Record all exits; the probabilities of several views (B, V, T, C, H, W) are averaged, and all V paid for."""
        video = batch["video"]
        views = video.shape[1] if video.dim() == 6 else 1
        self.test_curve.gmacs = tuple(views * gmacs for gmacs in self.net.gmacs)
        if views == 1:
            logits = self(video)
        else:  # one after the other: thirty at once seldom fit into memory
            read = torch.sigmoid if self.multi_label else partial(torch.softmax, dim=-1)
            probability = torch.stack([read(self(view).float()) for view in video.unbind(1)]).mean(0)
            if self.multi_label:
                logits = probability.logit(torch.finfo(torch.float32).eps)
            else:
                logits = probability.clamp(min=torch.finfo(torch.float32).tiny).log()
        self.test_curve.update(logits, batch["label"], batch["index"])

    def on_test_epoch_end(self) -> None:
        """Compute the curve with the thresholds of the calibration split."""
        self.test_curve.thresholds = self.curve_thresholds
        self.curve = self.test_curve.compute()
        self.test_curve.reset()
        self._record("test", self.trainer.test_dataloaders)
        self.log("test/accuracy", self.curve.exit_accuracy[-1], sync_dist=True)
        for name, value in self._class_figures(self.curve.logits[-1:].float(), self.curve.labels).items():
            self.log(f"test/{name}", value, sync_dist=True)

    def _class_figures(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What weighs all classes alike, of the last exit: logits (1, N, classes)."""
        found = class_figures(logits, self.policy.answers(logits), labels)
        return {name: value[0] for name, value in found.items()}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Early exit, executed: the label, its probability, the exit, its GMACs, and whether that is an answer.

        Labels that are sets are bool (B, classes).

        Args:
            batch: `path` and `index` of videos, which are decoded as far as they need, as `predict_dataloader` of the
                data modules gives them; or `video` and `index` of clips that are decoded already.
            batch_idx: Its number.

        Raises:
            VideoError: A video cannot be read, and the data module has `on_error="raise"`.
        """
        if "video" in batch:
            label, probability, exit_taken = self.net.predict(batch["video"], self.policy)
        else:
            batch, label, probability, exit_taken = self._recognized(batch)
        gmacs = torch.tensor(self.net.gmacs)[exit_taken.cpu()]
        return {key: batch[key] for key in ("path", "index") if key in batch} | {
            "label": label,
            "probability": probability,
            "exit": exit_taken,
            "gmacs": gmacs,
            "answered": probability >= reject_level(self.reject),
        }

    def _recognized(self, batch: Batch) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """The videos of a batch that could be read, their labels, probabilities and exits."""
        data: VideoDataModule = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning's annotation lacks it
        recognizer = Recognizer(self.net, self.policy)  # which withholds nothing: that is said by `predict_step`
        recognizer.preparation = Preparation(data.num_frames, data.size, data.sampling)
        paths, rows, found = batch["path"], [], []
        labels: list[Label] = []
        sources = map(source_of, paths)
        for row, result in enumerate(recognizer.many(sources, data.batch_size, max(data.num_workers, 1))):
            if not isinstance(result, Skipped):
                rows.append(row)
                label = tuple(map(int, result.labels))
                labels.append(label if self.multi_label else label[0])
                found.append((result.probability, self.net.route.index(result.exit)))
            elif data.on_error == "skip":
                data.skipped[result.path] = result.reason
            else:
                raise VideoError(result.reason)
        kept = {"path": [paths[row] for row in rows], "index": batch["index"][rows]}
        probability, exit_taken = torch.tensor(found, dtype=torch.float64).view(-1, 2).unbind(1)
        answers = multi_hot(labels, self.net.num_classes) > 0 if self.multi_label else torch.tensor(labels).long()
        return kept, answers, probability.float(), exit_taken.long()

    def _batch_norms(self) -> list[nn.Module]:
        return [layer for layer in self.net.segments.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what inference needs, as plain data, with full inference where the weights are not those calibrated."""
        if int(checkpoint.get("averaging_state", {}).get("n_averaged", 1)) == 0:
            checkpoint["state_dict"] = dict(checkpoint["current_model_state"])  # else the net before training
        calibrated = self._fits(checkpoint["state_dict"])
        # What is withheld goes by the weights of a single exit, too.
        found = calibrated and (len(self.net.route) > 1 or self._thresholds_of == fingerprint(checkpoint["state_dict"]))
        # Callbacks that average the weights average the buffers too: those of this module are what was found.
        own = {"policy.thresholds": self.policy.thresholds, "curve_thresholds": self.curve_thresholds}
        none = {name: torch.full_like(value, torch.inf) for name, value in own.items()}
        if not calibrated and self._thresholds_of is None and self.policy.thresholds.isfinite().any():
            rank_zero_warn("thresholds of unknown weights are not saved: set them with set_thresholds")
        checkpoint["state_dict"] |= own if calibrated else none
        # Not under Lightning's hyper_parameters: LightningCLI would import the class that a file names.
        checkpoint["dynvid"] = {
            "net": self.net.spec(),
            "score": self.policy.score_name,
            "class_names": self.class_names,
            "multi_label": self.multi_label,
            "calibrated": calibrated,
            "temperatures": list(self.policy.temperatures),
            "operating_point": self.point.plain() if calibrated and self.point is not None else None,
            "chosen_by": self.chosen_by,
            "listing": self.listing,
            "sampling": self.sampling,
            "gmacs": [*self.net.gmacs, self.net.full_gmacs],  # counting them takes longer than reading them
            "profiles": [profile.plain() for profile in self.profiles],
            "reject": self.reject.plain() if self.reject is not None and found else None,
            "background": self.background,
            "freeze_backbone": self.freeze_backbone,
        }

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the thresholds were found for the weights of a state dict; a single exit needs none."""
        return len(self.net.route) == 1 or self._thresholds_of == fingerprint(state)

    def _say_if_not_calibrated(self) -> None:
        if not self.calibrated and self.trainer.is_global_zero:
            print("not calibrated: no thresholds were found for these weights; `dynvid fit` finds them on validation")

    def _follow_until_averaged(self) -> None:
        """Keep the copy of a callback that averages weights equal to them until its first average."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # Lightning's own annotation lacks it
            average = callback._average_model if isinstance(callback, WeightAveraging) else None
            if average is not None and int(average.n_averaged) == 0:
                average.module.load_state_dict(self.state_dict())

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Note whether a checkpoint is calibrated, before its weights are loaded.

        Raises:
            ValueError: The weights are not those of this module.
        """
        own = self.state_dict()
        state = {plain_name(name): x for name, x in checkpoint["state_dict"].items()}
        check_fit(state, own, "this module")
        loaded = {name: x.to(own[name].dtype) for name, x in state.items() if name in own}
        self._thresholds_of = fingerprint(loaded) if is_calibrated(checkpoint) else None
        self.policy.take_score(checkpoint["dynvid"]["score"], checkpoint["dynvid"].get("temperatures"))
        point = checkpoint["dynvid"].get("operating_point")
        self.point = None if point is None else OperatingPoint.from_plain(point)
        self.reject = reject_from_checkpoint(checkpoint)
        self.background = self.background or checkpoint["dynvid"].get("background")
        self.chosen_by = checkpoint["dynvid"].get("chosen_by")
        self.listing = checkpoint["dynvid"].get("listing")
        if self._trainer is None:  # else the data module has said
            self.sampling = checkpoint["dynvid"].get("sampling", "center")
        self.profiles = read_profiles(checkpoint["dynvid"].get("profiles"), self.net.route)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with this module before its weights are loaded.

        Raises:
            ValueError: It holds another net or other classes; or training would go on with another part of the net.
        """
        saved = described(checkpoint)
        mine, theirs = self.net.spec()["init_args"], saved["net"]["init_args"]
        changed = [key for key in mine if theirs.get(key) != mine[key]]
        other = [f"{key}={shown(theirs.get(key))} (here {shown(mine[key])})" for key in changed]
        if other:
            raise InputError(
                f"the checkpoint holds another net: {', '.join(other)}; use the config it was trained with"
            )
        fitting = self.trainer.state.fn == TrainerFn.FITTING  # other runs take score and thresholds as they were saved
        if fitting and saved["score"] != self.policy.score_name:
            raise InputError(
                f"the checkpoint's thresholds are for the score {saved['score']!r} (here {self.policy.score_name!r}): "
                "use the config it was trained with"
            )
        frozen = saved.get("freeze_backbone", self.freeze_backbone)  # older checkpoints do not say
        if fitting and frozen != self.freeze_backbone:
            raise InputError(
                f"the checkpoint was trained with model.freeze_backbone={frozen} (here {self.freeze_backbone}): go on "
                "as it began, or begin anew from its weights, with model.net.pretrained"
            )
        if saved.get("multi_label", False) != self.multi_label:
            raise InputError(
                f"the checkpoint was trained with multi_label={not self.multi_label}, here it is {self.multi_label}: "
                "use the data and config it was trained with"
            )
        names = saved["class_names"]
        if names and self.class_names and names != self.class_names:
            raise InputError(
                f"the checkpoint knows other classes ({shown(names[:3])}...) than the data "
                f"({shown(self.class_names[:3])}...)"
            )
        self.class_names = names
        self._restore(checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no hparams files and no unsafe loading here
        cls, checkpoint_path: str | Path, map_location: Any = "cpu"
    ) -> Self:
        """Build the module with the net, thresholds and class names of a checkpoint, in eval mode.

        The file is read with `weights_only=True`, and the net's class is looked up among those already imported.

        Args:
            checkpoint_path: A checkpoint written by Lightning's trainer.
            map_location: See `torch.load`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or no dynvid checkpoint, or its parts do not fit together.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        net, saved = net_from_checkpoint(checkpoint, checkpoint_path), described(checkpoint, checkpoint_path)
        try:
            module = cls(net, score=saved["score"], multi_label=saved.get("multi_label", False))
            module._restore(checkpoint)
        except InputError as error:
            raise InputError(f"{checkpoint_path}: {error}") from error
        module.class_names = saved["class_names"]
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()


def recordings_in(loaders: Any) -> list[str]:
    """The recording of each video of a loader's data set, in its order; empty where it does not tell its videos."""
    paths, groups = _listed(loaders)
    return recordings_of(paths, groups)


def listing(loaders: Any) -> str:
    """A name for the list of a loader's videos; empty where it does not tell them."""
    paths, _ = _listed(loaders)
    return listing_of(paths) if paths else ""


def _listed(loaders: Any) -> tuple[list[str], list[str]]:
    """Paths and groups of a loader's videos, where its data set is a list of `Video`."""
    loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
    videos: Sequence[Video] = getattr(getattr(loader, "dataset", None), "videos", ())
    return [video.path for video in videos], [video.group for video in videos]
