"""Keep the last state of a run, whatever its metric does."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from dynvid.errors import InputError


class TrainingCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, whose `save_last=True` is the last state.

    Lightning writes `last` only when a best file is written. Here it is written at the end of each epoch, with or
    without validation and in an epoch that a limit of steps or time cuts short, and after each validation on the way.

    Raises:
        InputError: `save_last` is "link": the link would point to an older file, or to one that is removed.

    Example:
        >>> TrainingCheckpoint(monitor="val/mean_exit_accuracy", mode="max", save_last=True).save_last
        True
    """

    _wrote_last = False

    @property
    def state_key(self) -> str:
        """Lightning's own, so that runs may go on from its checkpoints."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a link before anything is trained."""
        if self.save_last == "link":
            raise InputError("checkpoint.save_last=link: the last state needs a file of its own; use true")
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, within an epoch; after its last batch its end follows at once."""
        self._wrote_last = False
        super().on_validation_end(trainer, pl_module)
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._write_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; what was saved earlier at the same step is of an epoch that has not ended."""
        self._wrote_last = False
        super().on_train_epoch_end(trainer, pl_module)
        self._write_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is left to do: the last epoch has ended, and with it its state was saved."""

    def _write_last(self, trainer: pl.Trainer) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not self._wrote_last and not getattr(trainer, "fast_dev_run", False):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_last_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self._wrote_last = True

    def _should_save_on_train_epoch_end(self, trainer: pl.Trainer) -> bool:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's own annotation lacks it
        averaging = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        if averaging and self._save_on_train_epoch_end is None and any(trainer.num_val_batches):
            return False  # the best weights are saved as they were validated, before an epoch's end moves the average
        return super()._should_save_on_train_epoch_end(trainer)
