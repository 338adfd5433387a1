"""`dynvid fit`: one net; or with `--folds` a net without each fold of the recordings, and one of all.

What the nets of the folds answer to the recordings that they have not seen is pooled into one table, and the net of
all is calibrated by it. Nothing chooses: each net is what its last epoch leaves. What that is worth: docs/promise.md.

    ROOT/folds/version_0/recipe.json                        what all nets have in common, for whoever goes on
                         fold-1/outputs.parquet             there once the fold is finished
                         fold-1/checkpoints/last.ckpt
                         final/checkpoints/best.ckpt        the net of all; last.ckpt is the same
                                           outputs_out-of-fold.parquet
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table

from dynvid.calibration import OperatingPoint, Target, find_point, listing_of, whole_curve
from dynvid.callbacks import Calibration, FlopsAccuracyReport
from dynvid.checkpoint import fingerprint, read_checkpoint
from dynvid.commands import train
from dynvid.commands.parser import given
from dynvid.commands.source import Source, record
from dynvid.commands.train import DynvidCLI
from dynvid.data.datamodule import folds_of
from dynvid.data.dataset import Split
from dynvid.data.files import read_json
from dynvid.data.overview import few_recordings
from dynvid.errors import DynvidError, InputError
from dynvid.module import DynamicInferenceModule
from dynvid.multilabel import accuracy_word
from dynvid.outputs import OUT_OF_FOLD, Outputs, pooled
from dynvid.recall import exit_figures, main_figures
from dynvid.saving import WholeFiles
from dynvid.text import printable
from dynvid.whole import write_whole

SPLITS: tuple[Split, ...] = ("train", "val")
FREE = {  # arguments of the trainer that nets of one run may differ in
    *("accelerator", "default_root_dir", "devices", "enable_model_summary", "enable_progress_bar", "limit_val_batches"),
    *("log_every_n_steps", "logger", "num_sanity_val_steps"),
}


def run(args: list[str] | None) -> None:
    """Run the command; see `dynvid.commands.train.run`."""
    folds = None
    with suppress(InputError):  # a config that is not there: the command's own parser says so
        asked = [place.value for place in given(sys.argv[1:] if args is None else args) if place.key == "folds"]
        folds = asked[-1] if asked else None
    if isinstance(folds, str) and re.fullmatch(r"\d{1,9}", folds):  # in quotes, as the parser takes it too
        folds = int(folds)
    if type(folds) is not int:  # none, or what the parser refuses
        train.run(args)
        return
    if folds < 2:
        raise InputError(f"--folds {folds}: 2 or more")
    whole = Folds(folds)
    for fold in (*range(1, folds + 1), 0):
        train.run(args, partial(FoldCLI, whole, fold))


class Folds:
    """What the nets of a run have in common.

    Args:
        count: How many folds.

    Attributes:
        folder: Where all of it lies, once it is known.
        outputs: What the nets of the folds answered, so far.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.folder: Path | None = None
        self.outputs: list[Outputs] = []

    def find_folder(self, root: str, going_on: bool) -> Path:
        """A new folder under `root`, or that of the newest run.

        Raises:
            InputError: There is none to go on with.
        """
        if self.folder is None:
            parent = Path(os.path.realpath(root), "folds")
            versions = [int(name[8:]) for name in _names(parent) if re.fullmatch(r"version_\d{1,9}", name)]
            if going_on and not versions:
                raise InputError(
                    f"--ckpt_path last: no run of folds under {printable(parent)}; leave it out to begin one"
                )
            self.folder = parent / f"version_{max(versions, default=-1) + (not going_on)}"
        return self.folder

    def begin(self, recipe: dict[str, Any]) -> None:
        """Write down what the nets are made of, or compare it with what was written.

        Raises:
            InputError: The run that is to go on has other arguments or other videos.
        """
        assert self.folder is not None
        file, mine = self.folder / "recipe.json", json.loads(json.dumps(recipe, default=str))
        if not file.exists():
            write_whole(file, json.dumps(mine, indent=1).encode())
            return
        theirs = read_json(file, "remove its folder to begin anew")
        differing = sorted(_differing(mine, theirs))
        if differing:
            raise InputError(
                f"{printable(self.folder)} was begun with other {printable(', '.join(differing[:3]))}: go on with the "
                "same, or leave --ckpt_path out to begin anew"
            )

    def show(self) -> dict[str, float]:
        """Print what full inference got right, fold by fold; gives means and standard deviations over the folds."""
        found = []
        for outputs in self.outputs:
            of_exits, _ = exit_figures(outputs.policy, outputs.logits, outputs.labels)
            found.append({"accuracy": float(outputs.correct[-1].double().mean())} | of_exits[-1])
        names = {"accuracy": accuracy_word(self.outputs[0].multi_label)} | main_figures(found[0])
        table = Table(title="by nets that had not seen the recordings", box=None)
        for heading in ("fold", "videos", "recordings", *names.values()):
            table.add_column(heading, justify="right")
        for fold, (outputs, figures) in enumerate(zip(self.outputs, found, strict=True), 1):
            table.add_row(str(fold), *_sizes(outputs), *(f"{100 * figures[name]:.1f} %" for name in names))
        summary: dict[str, float] = {}
        spread = []
        for name in names:
            deviation, mean = torch.std_mean(torch.tensor([figures[name] for figures in found], dtype=torch.float64))
            summary |= {f"folds/{name}": float(mean), f"folds/{name}_sd": float(deviation)}
            spread.append(f"{100 * float(mean):.1f} ± {100 * float(deviation):.1f} %")
        table.add_row("mean", *_sizes(pooled(self.outputs)), *spread)
        Console().print(table)
        return summary


class FoldCLI(DynvidCLI):
    """`dynvid fit` of one net of the run.

    Args:
        whole: The run.
        fold: Which fold it is trained without, from 1; 0 is the net of all.
    """

    def __init__(self, whole: Folds, fold: int, *args: Any, **kwargs: Any) -> None:
        self.whole, self.fold = whole, fold
        super().__init__(*args, **kwargs)

    def before_instantiate_classes(self) -> None:
        """Let the net be what its last epoch leaves, in a folder of its own, where it may have been begun already.

        Raises:
            InputError: Something is asked for that does not go with folds.
        """
        config = self.config[self.subcommand]
        wanted, schedule = config.get("ckpt_path"), config.model.get("lr_scheduler")
        if wanted not in (None, "last"):
            raise InputError(
                f"--ckpt_path {wanted} beside --folds: only last, which goes on with the newest run of folds"
            )
        if config.checkpoint.dirpath is not None:
            raise InputError("checkpoint.dirpath beside --folds: leave it out, each net has a folder of its own")
        if config.trainer.fast_dev_run:
            raise InputError("trainer.fast_dev_run beside --folds: it leaves no checkpoints, which the folds need")
        if schedule is not None and "ReduceLROnPlateau" in str(schedule.get("class_path")):
            raise InputError("ReduceLROnPlateau beside --folds: nothing may go by the videos of a fold; take another")
        self.recipe = _plain(config)
        folder = self.whole.find_folder(config.trainer.default_root_dir or ".", wanted == "last")
        self.folder = folder / (f"fold-{self.fold}" if self.fold else "final")
        config.trainer.default_root_dir = str(self.folder)
        config.trainer.limit_val_batches = config.trainer.num_sanity_val_steps = 0
        config.checkpoint.monitor, config.checkpoint.save_last = None, True
        config.checkpoint.save_top_k, config.checkpoint.dirpath = 0, str(self.folder / "checkpoints")
        config.ckpt_path = (
            "last" if any(name.endswith(".ckpt") for name in _names(self.folder / "checkpoints")) else None
        )
        super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        """Build everything, and hold the fold out.

        Raises:
            InputError: The run that is to go on is another one, or there are fewer recordings than folds.
        """
        super().instantiate_classes()
        self.model.features_folder = (
            self.folder.parents[2] / "features"
        )  # one for all nets, and for `fit` without folds
        data, count = self.datamodule, self.whole.count
        if self.fold == 1:
            data.prepare_data()
            if self._has_seen(self.model.net.pretrained_by):
                raise InputError(
                    "model.net.pretrained: that net was trained on these videos, so no fold would be new to it; begin "
                    "with weights of other data"
                )
            data.fold = (0, count)
            # As listed, since that is what is divided: what is missing now may be there when the run goes on.
            videos = [video for split in SPLITS for video in data.listed(split)]
            numbers = folds_of(videos, count, data.seed)
            members = [
                [video.path for video, k in zip(videos, numbers, strict=True) if k == fold]
                for fold in range(1, count + 1)
            ]
            self.whole.begin(self.recipe | {"videos": [listing_of(paths) for paths in members]})
            if few := few_recordings(videos, data.class_names, count):
                print(f"warning: {few}")
            print("folds: nothing is chosen by videos of a fold; each net is what its last epoch leaves")
        data.fold = (self.fold, count)

    def _has_seen(self, pretrained_by: Mapping[str, Any]) -> bool:
        """Whether weights are of a net that was trained on recordings of the folds, as far as it says."""
        if pretrained_by["chosen_by"] == "folds":
            return True
        with suppress(DynvidError):  # there may be no validation split, or its videos may be missing
            return pretrained_by["listing"] in {listing_of([video.path for video in self.datamodule.videos("val")])}
        return False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, without what works on a validation split.

        Raises:
            InputError: A callback chooses by a metric, or there are several processes.
        """
        trainer = super().instantiate_trainer(**kwargs)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's own annotation lacks it
        for callback in callbacks:
            if getattr(callback, "monitor", None):
                name = type(callback).__name__
                raise InputError(f"{name} beside --folds: nothing may go by the videos of a fold; leave it out")
        if trainer.num_devices * trainer.num_nodes > 1:
            raise InputError("--folds runs in one process: set trainer.devices to 1")
        self.calibration = next(callback for callback in callbacks if isinstance(callback, Calibration))
        if self.calibration.max_error is not None:
            raise InputError("calibration.max_error beside --folds: nets of folds make no promise; leave it out")
        kept = [callback for callback in callbacks if not isinstance(callback, Calibration | FlopsAccuracyReport)]
        trainer.callbacks = kept  # type: ignore[attr-defined]
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Train a net, unless it is there, and let it answer; the last is calibrated by what the others answered."""
        self.calibration.setup(self.trainer, self.model, "fit")  # says that a budget is impossible
        of_folds, last = self.whole.outputs, self.folder / "checkpoints" / "last.ckpt"
        if self.fold:
            table = self.folder / "outputs.parquet"
            print(f"fold {self.fold} of {self.whole.count}" + (": finished before" if table.exists() else ""))
            if not table.exists():
                super()._run_subcommand(subcommand)
                self._answers(last).save(table)
            of_folds.append(Outputs.read(table))
            return
        figures = self.whole.show()
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=0)
        print("final net: trained on all of them")
        self.model.chosen_by = "folds"
        self.model.listing = listing_of([path for outputs in of_folds for path in outputs.paths])
        super()._run_subcommand(subcommand)
        point = self._calibrate(last, self.calibration.target)
        best = last.with_name("best.ckpt")
        print(f"checkpoint: {printable(best)}")
        print(f"operating point: {printable(point)}")
        if offered := point.offered():
            print(offered)
        if target := point.target if point.chosen_by == "folds" and point.confidence is not None else None:
            print(
                f"a promise takes videos that it was not trained on: dynvid calibrate {printable(best)} "
                f"--videos FOLDER --max-disagreement {target:g}"
            )

    def _answers(self, checkpoint: Path) -> Outputs:
        """What the net of a checkpoint says of the videos of its fold."""
        loader = self.datamodule.val_dataloader()
        source = Source(loader, loader.dataset.videos, OUT_OF_FOLD)
        return record(DynamicInferenceModule.load_from_checkpoint(checkpoint), source)[0]

    def _calibrate(self, last: Path, target: Target) -> OperatingPoint:
        """Give the checkpoints of the final net thresholds that do what is asked for, by what the others answered."""
        outputs, weights = pooled(self.whole.outputs), fingerprint(read_checkpoint(last)["state_dict"])
        lost = outputs.lost(with_labels=True)
        thresholds, point = find_point(
            outputs.scores, lost, outputs.gmacs, target, outputs.recordings, OUT_OF_FOLD, "folds", outputs.full_gmacs
        )
        point = replace(point, listing=listing_of(outputs.paths), differing=outputs.differing(thresholds))
        curve = whole_curve(outputs.scores, outputs.correct, outputs.gmacs)
        outputs.policy.thresholds.copy_(thresholds)
        table = last.with_name(f"outputs_{OUT_OF_FOLD}.parquet")
        replace(outputs, point=point, weights=weights).save(table)
        print(f"outputs: {printable(table)} (calibrates again in seconds with `dynvid calibrate --outputs`)")
        checkpoint = read_checkpoint(last)
        checkpoint["state_dict"] |= {"policy.thresholds": thresholds, "curve_thresholds": curve}
        checkpoint["dynvid"] |= {"calibrated": True, "operating_point": point.plain()}
        for path in (last.with_name("best.ckpt"), last):  # none is better than what the last epoch leaves
            WholeFiles().save_checkpoint(checkpoint, path)
        return point


def _names(folder: Path) -> list[str]:
    """What lies in a folder that may not be there."""
    return os.listdir(folder) if folder.is_dir() else []


def _sizes(outputs: Outputs) -> tuple[str, str]:
    """How many videos, and of how many recordings."""
    return str(len(outputs.paths)), str(len(set(outputs.recordings)))


def _plain(config: Any) -> dict[str, Any]:
    """What of a config makes the nets what they are."""
    everything = config.as_dict()
    kept = {key: everything.get(key) for key in ("folds", "seed_everything", "data", "model")}
    for name in ("root", "num_workers", "max_missing"):  # videos that moved or are missing change no fold
        kept["data"].get("init_args", {}).pop(name, None)
    return kept | {"trainer": {key: value for key, value in everything["trainer"].items() if key not in FREE}}


def _differing(mine: Any, theirs: Any, name: str = "") -> set[str]:
    """The keys whose values differ, in full."""
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return set() if mine == theirs else {name}
    both = mine.keys() | theirs.keys()
    return {key for k in both for key in _differing(mine.get(k), theirs.get(k), f"{name}.{k}".lstrip("."))}
