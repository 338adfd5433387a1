"""Find thresholds after each validation, so that every checkpoint holds those of its own weights."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from dynvid.calibration import frontier, thresholds_for_budget, thresholds_for_drop
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule


class Calibration(pl.Callback):
    """Set the module's thresholds on the validation split at the end of each validation of `fit`.

    Args:
        max_drop: Top-1 that early exit may lose against the last exit, in [0, 1]; 0.01 is one point.
        budget: Mean GMACs per video to spend on the validation split instead; `max_drop` is then not used. A net with
            one exit has no thresholds, and stays as it is.

    Raises:
        ValueError: A number is out of its range, or the budget does not reach the first exit.

    Example:
        >>> Calibration(budget=20.0).budget
        20.0
    """

    def __init__(self, max_drop: float = 0.01, budget: float | None = None) -> None:
        if not 0 <= max_drop <= 1:  # so written, it refuses NaN too
            raise InputError(f"max_drop={max_drop}: a share in [0, 1], 0.01 is one point")
        if budget is not None and not budget > 0:
            raise InputError(f"budget={budget}: GMACs above 0")
        self.max_drop, self.budget = max_drop, budget
        self._found: tuple[Tensor, Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse an impossible budget before anything is trained."""
        assert isinstance(pl_module, DynamicInferenceModule)
        cheapest, *more = pl_module.net.gmacs
        if self.budget is not None and more and self.budget < cheapest:
            raise InputError(f"a budget of {self.budget:g} GMACs is below the first exit, which costs {cheapest:g}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calibrate; Lightning saves checkpoints after this."""
        assert isinstance(pl_module, DynamicInferenceModule)
        if trainer.sanity_checking or trainer.state.fn != "fit" or pl_module.curve is None:
            return
        scores, correct, gmacs = pl_module.curve.scores, pl_module.curve.correct, pl_module.net.gmacs
        if self.budget is None or len(gmacs) == 1:
            thresholds = thresholds_for_drop(scores, correct, gmacs, self.max_drop)
        else:
            thresholds = thresholds_for_budget(scores, correct, gmacs, self.budget)
        self._found = thresholds, frontier(scores, correct, gmacs).thresholds
        self._apply(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the thresholds again: a callback that averages the weights has averaged the buffers with them."""
        assert isinstance(pl_module, DynamicInferenceModule)
        self._apply(pl_module)

    def _apply(self, module: DynamicInferenceModule) -> None:
        if self._found is not None:
            with torch.no_grad():
                module.policy.thresholds.copy_(self._found[0])
                module.curve_thresholds.copy_(self._found[1])
