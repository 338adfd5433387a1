"""Find thresholds after each validation, so that every checkpoint holds those of its own weights."""

import math
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from dynvid.calibration import (
    CALIBRATING,
    ChosenBy,
    Target,
    check_max_error,
    counted,
    find_point,
    kept_apart,
    listing_of,
    videos_needed,
    whole_curve,
)
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule, listing, recordings_in


class Calibration(pl.Callback):
    """Set the module's thresholds on the validation split at the end of each validation of `fit`.

    A promise takes videos that had no part in choosing the checkpoint. Where something chooses by the validation split
    (a `monitor`), two thirds of its recordings calibrate and the others choose; where two thirds are too few to promise
    what is asked for, all choose, and checkpoints hold full inference.

    Args:
        max_drop: Share of the videos that early exit may lose: the last exit is right, and the exit taken is wrong; so
            top-1 falls by no more. 0.01, one in a hundred, by default.
        confidence: With what probability, over the draw of the calibration videos, this holds for new videos. None
            promises nothing: it takes the largest saving that loses no more on the calibration videos themselves.
        budget: Mean GMACs per video to spend on the validation split instead, which promises nothing. A net with one
            exit has no thresholds, and stays as it is.
        max_error: Share of wrong answers that is permitted among those given, with the same confidence: answers below
            the threshold that this takes are withheld (see `dynvid.calibration.Reject`). None withholds none.

    Raises:
        ValueError: A number is out of its range, `max_drop` and `budget` are both given, or the budget does not reach
            the first exit.

    Example:
        >>> Calibration(budget=20.0).target
        Target(max_drop=None, max_disagreement=None, budget=20.0, confidence=0.95, budget_ms=None)
    """

    def __init__(
        self,
        max_drop: float | None = None,
        confidence: float | None = 0.95,
        budget: float | None = None,
        max_error: float | None = None,
    ) -> None:
        if max_drop is not None and budget is not None:
            raise InputError(
                f"calibration: max_drop={max_drop:g} beside budget={budget:g}: give one of them; where a config sets "
                "max_drop, --calibration.max_drop null takes it back"
            )
        drop = 0.01 if max_drop is None and budget is None else max_drop
        self.target = Target(max_drop=drop, budget=budget, confidence=confidence)
        if max_error is not None:
            check_max_error(max_error, confidence)
        self.max_error = max_error
        self._found: dict[str, Any] | None = None  # the arguments of `set_thresholds`
        self._divided = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse an impossible budget before anything is trained."""
        assert isinstance(pl_module, DynamicInferenceModule)
        if stage == "fit":
            pl_module.kept_apart, self._divided = None, False
            if self._found and len(self._found["thresholds"]) != len(pl_module.net.route):
                self._found = None  # of another net
        cheapest, *more = pl_module.net.gmacs
        budget = self.target.budget
        if budget is not None and more and budget < cheapest:
            raise InputError(f"a budget of {budget:g} GMACs is below the first exit, which costs {cheapest:g}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Divide the split, and say how: at the sanity check, before anything is trained."""
        assert isinstance(pl_module, DynamicInferenceModule)
        if trainer.state.fn == "fit" and pl_module.chosen_by == "folds":
            raise InputError(
                f"{trainer.ckpt_path}: trained on the validation videos too, by `fit --folds`, so they can neither "
                "choose nor calibrate: give --folds again, or begin another run"
            )
        exits = len(pl_module.net.route)
        if trainer.state.fn != "fit" or self._divided or (exits == 1 and self.max_error is None):
            return
        self._divided = True
        recordings = recordings_in(trainer.val_dataloaders)
        listed = listing(trainer.val_dataloaders)
        # Who chose in the run that goes on, or in the one that left the weights that this one begins with.
        before = (pl_module.chosen_by or "these") if trainer.ckpt_path else _chose_pretrained(pl_module, listed)
        chosen_by, pl_module.kept_apart = self._divide(recordings, _something_chooses(trainer), before, exits)
        pl_module.chosen_by, pl_module.listing = chosen_by, listed
        if recordings:
            rank_zero_info(f"calibration: {self._told(recordings, pl_module.kept_apart, chosen_by == 'these', exits)}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calibrate; Lightning saves checkpoints after this."""
        assert isinstance(pl_module, DynamicInferenceModule)
        outputs = pl_module.outputs()
        if trainer.sanity_checking or trainer.state.fn != "fit" or outputs is None:
            return
        assert pl_module.curve is not None
        if pl_module.kept_apart is not None:
            outputs = outputs.of(pl_module.kept_apart[pl_module.curve.index])
        thresholds, point = find_point(
            outputs.scores,
            outputs.lost(with_labels=True),
            outputs.gmacs,
            self.target,
            outputs.recordings,
            outputs.split,
            pl_module.chosen_by or "these",
            outputs.full_gmacs,
        )
        self._found = {
            "thresholds": thresholds,
            "curve_thresholds": whole_curve(outputs.scores, outputs.correct, outputs.gmacs),
            "weights": pl_module.validated_weights,
            "point": replace(point, listing=listing_of(outputs.paths), differing=outputs.differing(thresholds)),
        }
        if self.max_error is not None:
            given = outputs.under(outputs.policy.at(thresholds), point)
            self._found["reject"] = given.rejected(self.max_error, self.target.confidence, point.chosen_by)
        pl_module.set_thresholds(**self._found)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the thresholds again, since a callback that averages the weights has averaged the buffers with them.

        Weights that were trained on after the last validation are left with full inference, as in their checkpoint.
        """
        assert isinstance(pl_module, DynamicInferenceModule)
        if self._found is not None:
            pl_module.set_thresholds(**self._found)
            if not pl_module.calibrated:
                none = torch.full_like(self._found["thresholds"], torch.inf)
                pl_module.set_thresholds(none, weights=self._found["weights"])

    def _asked(self, exits: int) -> list[tuple[str, float, str]]:
        """What is promised, at which share, and what follows where it cannot be."""
        asked: list[tuple[str, float, str]] = []
        if self.target.promises and exits > 1:
            ways = "ways on, none with a promise: --folds 5 (estimates), a budget, or calibration.confidence null"
            asked.append((self.target.rule, self.target.value, f"checkpoints will hold full inference; {ways}"))
        if self.max_error is not None and self.target.confidence is not None:
            asked.append(("max_error", self.max_error, "no answer will be withheld"))
        return asked

    def _divide(
        self, recordings: list[str], something_chooses: bool, before: ChosenBy | None, exits: int
    ) -> tuple[ChosenBy, Tensor | None]:
        """Who chooses the checkpoint, and which videos of the split have no part in it."""
        apart = kept_apart(recordings)
        calibrating = {name for name, is_apart in zip(recordings, apart.tolist(), strict=True) if is_apart}
        divided = any(self._possible(value, len(calibrating)) for _, value, _ in self._asked(exits))
        if before == "others" or (before != "these" and something_chooses and divided):
            return "others", apart
        return ("these" if before == "these" or something_chooses else "nothing"), None

    def _possible(self, share: float, recordings: int) -> bool:
        """Whether so many recordings can promise a share, if nothing is wrong with any."""
        return Target(max_drop=share, confidence=self.target.confidence).possible(recordings)

    def _told(self, recordings: list[str], apart: Tensor | None, they_chose: bool, exits: int) -> str:
        """How many videos and recordings calibrate, and what they are too few for."""
        calibrating = [name for n, name in enumerate(recordings) if apart is None or apart[n]]
        told = f"{counted(calibrating)} of val calibrate"
        if apart is not None:
            told += f", {len(recordings) - len(calibrating)} choose the checkpoint"
        confidence = self.target.confidence or 0.95
        unit = "recordings" if len(set(recordings)) < len(recordings) else "videos"
        for rule, value, otherwise in self._asked(exits):
            if not they_chose and self._possible(value, len(set(calibrating))):
                continue
            needed = videos_needed(value, confidence)
            takes = f"{needed} {unit}"
            if they_chose:
                takes = f"about {math.ceil(needed / CALIBRATING)} {unit}, two thirds of which do not choose"
            promise = f"to promise {rule} {100 * value:g} % with {100 * confidence:g} % confidence"
            told += f"; {promise} takes {takes}, so {otherwise}"
        return told


def _chose_pretrained(module: DynamicInferenceModule, listed: str) -> ChosenBy | None:
    """Who chose the weights of dynvid that a net begins with; None where these videos had no part in them.

    A net of all folds has trained on validation videos too. Which videos another net has trained on nobody has written
    down; but if it was validated on these, they are not among them.
    """
    by, of = (module.net.pretrained_by[name] for name in ("chosen_by", "listing"))
    if by == "folds":
        rank_zero_info("warning: model.net.pretrained has trained on its validation videos (fit --folds): no promise")
        return "these"
    if not of or of != listed:
        return None
    return by if by in ("nothing", "others") else "these"


def _something_chooses(trainer: pl.Trainer) -> bool:
    """Whether anything of a run depends on a metric: which checkpoint is the best, when it stops, the learning rate."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's own annotation lacks it
    return any(getattr(callback, "monitor", None) for callback in callbacks) or any(
        config.reduce_on_plateau for config in trainer.lr_scheduler_configs
    )
