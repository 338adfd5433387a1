"""Training, evaluation and checkpoints of an ExitNet with Lightning."""

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from dynvid.calibration import num_candidates
from dynvid.checkpoint import described, net_from_checkpoint, read_checkpoint
from dynvid.errors import InputError
from dynvid.losses import ExitLoss
from dynvid.metrics import FlopsAccuracy, FlopsAccuracyCurve
from dynvid.nets import ExitNet
from dynvid.nets.compiled import drop_compiled_names, plain_name, take_names_of
from dynvid.nets.description import shown
from dynvid.nets.weights.file import check_fit
from dynvid.policy import Score, ThresholdPolicy
from dynvid.saving import use_whole_files

__all__ = ["DynamicInferenceModule", "read_checkpoint"]

Batch = dict[str, Any]


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    """TSM's recipe: SGD, lr 0.02 for a batch of 128."""
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)


class DynamicInferenceModule(pl.LightningModule):
    """Trains all exits together and evaluates top-1 against average cost.

    Batches are dicts: `video` uint8 (B, T, C, H, W), `label` int64 (B,), `index` int64 (B,).

    Args:
        net: The net.
        loss: `ExitLoss()` by default, the plain sum of the exits' cross-entropies.
        score: How sure an exit is: `max_probability`, `margin` or `negative_entropy`.
        optimizer: Parameters -> optimizer; TSM's SGD by default.
        lr_scheduler: Optimizer -> scheduler, stepped per epoch; none by default.
        warmup_epochs: Let the learning rate rise from near zero over this many epochs, step by step, on top of a
            scheduler that multiplies it (such as MultiStepLR, or CosineAnnealingLR down to 0).
        backbone_lr_scale: The backbone's share of the learning rate; below 1 where it is pretrained.
        freeze_batch_norm: Keep the backbone's batch norm as it was pretrained, statistics and weights; for small
            batches, or where it is folded into the convolutions.
        gradient_equilibrium: See `ExitNet`.
        gradient_checkpointing: See `ExitNet`.

    Attributes:
        policy: The thresholds; full inference until calibrated. `set_thresholds` sets them together with the weights
            that they belong to; a checkpoint of other weights holds full inference.
        class_names: Names of the classes, once a data module or a checkpoint has told them.
        curve: What the last validation or test run found.
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
        gradient_equilibrium: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if warmup_epochs < 0:
            raise InputError(f"warmup_epochs={warmup_epochs:g}: 0 or more")
        self.net = net
        net.spec()  # what cannot be written into checkpoints is said before anything is trained
        self.backbone_lr_scale, self.freeze_batch_norm = backbone_lr_scale, freeze_batch_norm
        if freeze_batch_norm:
            for layer in self._batch_norms():
                layer.requires_grad_(False)
        self.loss = loss or ExitLoss()
        exits = len(net.route)
        self.policy = ThresholdPolicy(exits, score=score)
        # The calibrated curve travels with the thresholds, so that a test curve is never fitted to test data.
        self.register_buffer("curve_thresholds", torch.full((num_candidates(exits), exits), torch.inf))
        self.optimizer, self.lr_scheduler, self.warmup_epochs = optimizer, lr_scheduler, warmup_epochs
        net.gradient_equilibrium, net.gradient_checkpointing = gradient_equilibrium, gradient_checkpointing
        self.class_names: list[str] | None = None
        self.curve: FlopsAccuracy | None = None
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
            self._thresholds_of = _fingerprint(self.state_dict())
        return self

    @property
    def calibrated(self) -> bool:
        """Whether the thresholds were found for the weights as they are now; a single exit needs none."""
        return self._fits(self.state_dict())

    def set_thresholds(
        self, thresholds: Tensor, curve_thresholds: Tensor | None = None, weights: str | None = None
    ) -> None:
        """Set thresholds together with the weights that they were found for.

        Args:
            thresholds: One per exit, (K,).
            curve_thresholds: The calibrated curve, as `dynvid.calibration.frontier` gives it; none by default.
            weights: `validated_weights`; by default they are those that are in the net now.
        """
        with torch.no_grad():
            self.policy.thresholds.copy_(thresholds)
            self.curve_thresholds.copy_(torch.full_like(self.curve_thresholds, torch.inf))
            if curve_thresholds is not None:
                self.curve_thresholds.copy_(curve_thresholds)
        self._thresholds_of = weights or _fingerprint(self.state_dict())

    def setup(self, stage: str) -> None:
        """Take the class names from the data module, and let checkpoints be written whole (`dynvid.saving`).

        Raises:
            ValueError: The data has another number of classes than the net.
        """
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        if names is not None:
            if len(names) != self.net.num_classes:
                raise InputError(f"the data has {len(names)} classes, the net {self.net.num_classes}")
            self.class_names = list(names)
        use_whole_files(self.trainer.strategy)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, frozen batch norm excepted."""
        super().train(mode)
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
        backbone = [p for p in self.net.segments.parameters() if p.requires_grad]
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
        loss: Tensor = self.loss(self(batch["video"]), batch["label"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]))
        return loss

    def on_train_epoch_end(self) -> None:
        """An average that has not begun is still these weights, when training ends too."""
        self._follow_until_averaged()

    def on_validation_start(self) -> None:
        """An average that has not begun is still these weights; Lightning would validate those before training."""
        self._follow_until_averaged()
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self._say_if_not_calibrated()

    def on_validation_epoch_start(self) -> None:
        """Note which weights are validated: those in the net now, where a callback may have put averaged ones."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.validated_weights = _fingerprint(self.state_dict())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Record all exits."""
        logits = self(batch["video"])
        loss = self.loss(logits, batch["label"])
        self.log("val/loss", loss, batch_size=len(batch["label"]), sync_dist=True)
        self.val_curve.update(logits, batch["label"], batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Log the top-1 of the last exit and the mean over exits."""
        self.curve = self.val_curve.compute()
        self.val_curve.reset()
        self.log("val/accuracy", self.curve.exit_accuracy[-1], prog_bar=True)
        self.log("val/mean_exit_accuracy", self.curve.exit_accuracy.mean())

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
            probability = torch.stack([self(view).float().softmax(-1) for view in video.unbind(1)]).mean(0)
            logits = probability.clamp(min=torch.finfo(torch.float32).tiny).log()
        self.test_curve.update(logits, batch["label"], batch["index"])

    def on_test_epoch_end(self) -> None:
        """Compute the curve with the thresholds of the calibration split."""
        self.test_curve.thresholds = self.curve_thresholds
        self.curve = self.test_curve.compute()
        self.test_curve.reset()
        self.log("test/accuracy", self.curve.exit_accuracy[-1])

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Early exit, executed: the label, its probability, the exit taken and its GMACs for each video."""
        label, probability, exit_taken = self.net.predict(batch["video"], self.policy)
        gmacs = torch.tensor(self.net.gmacs)[exit_taken.cpu()]
        return {
            "index": batch["index"],
            "label": label,
            "probability": probability,
            "exit": exit_taken,
            "gmacs": gmacs,
        }

    def _batch_norms(self) -> list[nn.Module]:
        return [layer for layer in self.net.segments.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what inference needs, as plain data, with full inference where the weights are not those calibrated."""
        if int(checkpoint.get("averaging_state", {}).get("n_averaged", 1)) == 0:
            checkpoint["state_dict"] = dict(checkpoint["current_model_state"])  # else the net before training
        calibrated = self._fits(checkpoint["state_dict"])
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
            "calibrated": calibrated,
        }

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the thresholds were found for the weights of a state dict; a single exit needs none."""
        return len(self.net.route) == 1 or self._thresholds_of == _fingerprint(state)

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

        Older files do not record it: there it is, unless every threshold is infinite.

        Raises:
            ValueError: The weights are not those of this module.
        """
        own = self.state_dict()
        state = {plain_name(name): x for name, x in checkpoint["state_dict"].items()}
        check_fit(state, own, "this module")
        infinite = state.get("policy.thresholds", torch.tensor(torch.inf)).isposinf().all()
        calibrated = checkpoint["dynvid"].get("calibrated", not infinite)
        loaded = {name: x.to(own[name].dtype) for name, x in state.items() if name in own}
        self._thresholds_of = _fingerprint(loaded) if calibrated else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with this module before its weights are loaded.

        Raises:
            ValueError: It holds another net or other classes.
        """
        saved = described(checkpoint)
        mine, theirs = self.net.spec()["init_args"], saved["net"]["init_args"]
        changed = [key for key in mine if theirs.get(key) != mine[key]]
        other = [f"{key}={shown(theirs.get(key))} (here {shown(mine[key])})" for key in changed]
        if other:
            raise InputError(
                f"the checkpoint holds another net: {', '.join(other)}; use the config it was trained with"
            )
        if saved["score"] != self.policy.score_name:
            raise InputError(
                f"the checkpoint's thresholds are for the score {saved['score']!r} (here {self.policy.score_name!r}): "
                "use the config it was trained with"
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
            module = cls(net, score=saved["score"])
            module._restore(checkpoint)
        except InputError as error:
            raise InputError(f"{checkpoint_path}: {error}") from error
        module.class_names = saved["class_names"]
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    """The net's weights and buffers in a state dict, to the bit and wherever they lie."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state if name.startswith("net.")):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
