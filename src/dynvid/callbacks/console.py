"""What a run says on the console: the net at its start, and a line per epoch where no progress bar does."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelSummary
from torch import Tensor

from dynvid.callbacks.report import key_figures
from dynvid.module import DynamicInferenceModule
from dynvid.recall import main_figures


class EpochLine(pl.Callback):
    """Print one line of metrics per epoch where there is no progress bar, as in a log file.

    The line comes when the epoch has been saved: what it tells of is not lost.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[EpochLine()], enable_progress_bar=False, logger=False)
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._validated = False
        self._line = ""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss, where the batch was not skipped."""
        if outputs:
            self._losses.append(outputs["loss"].detach())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that there are figures to tell."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line; checkpoints are saved after this."""
        assert isinstance(pl_module, DynamicInferenceModule)
        bounded = trainer.max_epochs is not None and trainer.max_epochs > 0
        words = [f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if bounded else "")]
        if self._losses:
            words.append(f"train/loss {float(torch.stack(self._losses).mean()):.4g}")
        if self._validated and pl_module.curve is not None:
            found = key_figures(pl_module)
            change = 100 * (found["dynamic"]["accuracy"] - found["full"]["accuracy"])
            words.append(f"val/accuracy {100 * found['full']['accuracy']:.1f} %")
            figures = main_figures(found["full"]).items()
            words += [f"{word} {100 * found['full'][name]:.1f} %" for name, word in figures]
            words.append(f"dynamic {change:+z.1f} points with {100 * found['saved']:z.1f} % saved")
        self._line = ", ".join(words)
        self._losses, self._validated = [], False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the epoch before."""
        self._print(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last line."""
        self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        if self._line and trainer.progress_bar_callback is None and trainer.is_global_zero:
            print(self._line, flush=True)
        self._line = ""


class NetLine(ModelSummary):
    """Print the net in one line, in place of Lightning's table, whose FLOPs are 0 for want of an example input.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[NetLine()], logger=False)
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print it."""
        assert isinstance(pl_module, DynamicInferenceModule)
        if not trainer.is_global_zero:
            return
        net = pl_module.net
        count = sum(p.numel() for p in net.parameters()) / 1e6
        fixed = sum(p.numel() for p in net.parameters() if not p.requires_grad) / 1e6
        size = f"{count:.3g} M parameters" + (f" ({fixed:.3g} M of them fixed)" if fixed else "")
        exits = ", ".join(f"{n}x{d} {g:.3g}" for (n, d), g in zip(net.route, net.gmacs, strict=True))
        name = net.spec()["class_path"].rpartition(".")[2]  # a compiled net is of another class
        print(f"net: {name} of {size}; GMACs up to each exit (frames x depth): {exits}", flush=True)
