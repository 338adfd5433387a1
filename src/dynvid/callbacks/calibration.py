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
        max_drop: Top-1 that early exit may lose against the last exit, in [0, 1]; 0.01, one point, by default.
        budget: Mean GMACs per video to spend on the validation split instead. A net with one exit has no thresholds,
            and stays as it is.

    Raises:
        ValueError: A number is out of its range, both are given, or the budget does not reach the first exit.

    Example:
        >>> Calibration(budget=20.0).budget
        20.0
    """

    def __init__(self, max_drop: float | None = None, budget: float | None = None) -> None:
        if max_drop is not None and not 0 <= max_drop <= 1:  # so written, it refuses NaN too
            raise InputError(f"max_drop={max_drop}: a share in [0, 1], 0.01 is one point")
        if budget is not None and not budget > 0:
            raise InputError(f"budget={budget}: GMACs above 0")
        if max_drop is not None and budget is not None:
            raise InputError(
                f"calibration: max_drop={max_drop:g} beside budget={budget:g}: give one of them; where a config sets "
                "max_drop, --calibration.max_drop null takes it back"
            )
        self.max_drop, self.budget = 0.01 if max_drop is None else max_drop, budget
        self._found: tuple[Tensor, Tensor, str | None] | None = None

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
        self._found = thresholds, frontier(scores, correct, gmacs).thresholds, pl_module.validated_weights
        pl_module.set_thresholds(*self._found)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the thresholds again, since a callback that averages the weights has averaged the buffers with them.

        Weights that were trained on after the last validation are left with full inference, as in their checkpoint.
        """
        assert isinstance(pl_module, DynamicInferenceModule)
        if self._found is not None:
            pl_module.set_thresholds(*self._found)
            if not pl_module.calibrated:
                pl_module.set_thresholds(torch.full_like(self._found[0], torch.inf), weights=self._found[2])
