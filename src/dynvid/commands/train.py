"""`dynvid fit`, `validate`, `test` and `predict`: LightningCLI, with what the data knows handed to the net."""

import errno
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelSummary, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.trainer.connectors import checkpoint_connector
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dynvid.callbacks import (
    Calibration,
    EpochLine,
    FlopsAccuracyReport,
    NetLine,
    PredictionWriter,
    TrainingCheckpoint,
)
from dynvid.checkpoint import read_run
from dynvid.commands.hub import hub_asked_once
from dynvid.commands.parser import ConfigFile, Parser, given
from dynvid.commands.resume import newest_checkpoint
from dynvid.data import VideoDataModule
from dynvid.errors import DynvidError, InputError
from dynvid.module import DynamicInferenceModule
from dynvid.nets.description import said
from dynvid.text import printable


def run(args: list[str] | None, cli: "Callable[..., DynvidCLI] | None" = None) -> None:
    """Run the command.

    Args:
        args: The command and its arguments; None reads them from `sys.argv`, as LightningCLI likes it best.
        cli: What runs it; `DynvidCLI` by default.

    Raises:
        SystemExit: 143 where the run was terminated.
        InputError: What was asked for does not go together.
    """
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of a deprecated torch call
    warnings.filterwarnings("ignore", message="Found .* in eval mode")  # batch norm that was frozen on purpose
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)
    try:
        (cli or DynvidCLI)(
            DynamicInferenceModule,
            VideoDataModule,
            subclass_mode_data=True,
            args=args,  # None: LightningCLI reads sys.argv and does not warn that it was given both
            parser_class=Parser,
            parser_kwargs={"prog": "dynvid"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_kwargs={"overwrite": True},  # without a logger, runs share a folder
        )
    except SIGTERMException:  # a SystemExit without a code: it would pass for success
        sys.exit(128 + signal.SIGTERM)
    except MisconfigurationException as error:
        raise InputError(str(error)) from error


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


class DynvidCLI(LightningCLI):
    """LightningCLI with packaged configs, and with what the data knows handed to the net."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Let `--config` take the name of a packaged config."""
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="A YAML file, or the name of a packaged config.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that are always on, and the links from data to net."""
        parser.add_lightning_class_args(TrainingCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/mean_exit_accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
            }
        )
        parser.add_lightning_class_args(Calibration, "calibration")
        parser.add_lightning_class_args(FlopsAccuracyReport, "report")
        parser.add_lightning_class_args(PredictionWriter, "writer")
        parser.add_lightning_class_args(EpochLine, "epoch_line")
        parser.add_argument(
            "--folds",
            type=int | None,
            help="Of fit: calibrate by cross-validation over so many folds of train and val, by recording.",
        )
        for source, target in (
            ("num_classes", "num_classes"),
            ("num_frames", "num_frames"),
            ("size", "input_size"),
        ):
            unless_given = partial(self._unless_given, f"data.{source}", f"model.net.{target}")
            link = f"data.{source}", f"model.net.init_args.{target}"
            parser.link_arguments(*link, compute_fn=unless_given, apply_on="instantiate")
        parser.link_arguments("data.multi_label", "model.multi_label", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep what was given too: the config does not tell it from defaults."""
        super().parse_arguments(parser, args)
        self.words = sys.argv[1:] if args is None else args
        self.given = list(given(self.words))

    def _unless_given(self, source: str, target: str, value: Any) -> Any:
        """The value of a link, which would take the place of any other."""
        for place in [place for place in self.given if place.key == target][-1:]:  # the last one counts
            if place.value != value:
                raise InputError(f"{place}={place.value}: it is taken from {source}, which is {value}; leave it out")
        return value

    def instantiate_classes(self) -> None:
        """Build what the config names, with the weights of the model hub where it asks for them.

        Raises:
            InputError: A package that it needs is not installed, such as that of a logger, or the hub gives no weights.
        """
        arguments = self.config[self.subcommand].model.net.get("init_args") or {}
        from_hub = arguments.get("pretrained") is True
        try:
            with hub_asked_once(arguments.get("backbone")) if from_hub else nullcontext():
                super().instantiate_classes()
        except Exception as error:  # jsonargparse hands on the words of a ModuleNotFoundError, not always the error
            missing = re.search(r"(Requirement '|Module not found|No module named).*", str(error))
            if missing is None:
                raise
            raise InputError(f"a package is missing: {missing[0]}") from error

    def _parse_ckpt_path(self) -> None:
        """Leave the config alone: Lightning's own version imports the classes that a checkpoint names."""

    def before_instantiate_classes(self) -> None:
        """Find `--ckpt_path last` and `best` in the newest run of this config.

        Raises:
            InputError: There is none, or a command that needs a checkpoint was given none.
        """
        config = self.config[self.subcommand]
        if config.trainer.logger in (None, True, False):  # others have a folder of their own
            _check_writable(config.trainer.default_root_dir or ".")
        wanted = config.get("ckpt_path")
        if wanted in ("last", "best"):
            config.ckpt_path = newest_checkpoint(wanted, config)
            print(f"checkpoint: {printable(config.ckpt_path)}")
        elif wanted is None and self.subcommand != "fit":
            raise InputError(f"{self.subcommand} needs --ckpt_path: best, last, or the path of a checkpoint")
        elif wanted is not None and not Path(wanted).is_file():
            raise InputError(f"--ckpt_path {wanted}: no such file")
        if wanted is not None:
            checkpoint = read_run(config.ckpt_path)  # says which file is damaged before anything else is built
            if self.subcommand == "fit" and "optimizer_states" not in checkpoint:
                raise InputError(
                    f"{config.ckpt_path} holds weights only, and no training can go on from it: begin another with "
                    "--model.net.pretrained"
                )
            if "pretrained" in config.model.net.init_args:
                config.model.net.init_args.pretrained = False  # the checkpoint's weights replace them: no download
        if self.subcommand != "fit":
            warnings.filterwarnings("ignore", message="The dirpath has changed")  # each run has a folder of its own
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")  # those of training
        else:  # ModelCheckpoint compares folders as text when it resumes, so they must be spelled in one way
            config.trainer.default_root_dir = os.path.realpath(config.trainer.default_root_dir or ".")
        if self.subcommand == "fit" and wanted is not None and config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(Path(config.ckpt_path).parent)  # go on where the best one so far is
        if self.subcommand != "fit":
            self._refuse_what_cannot_act()
        if self.subcommand in ("test", "validate"):
            config.verbose = False  # the report prints its own table
        if self.subcommand == "predict":
            config.return_predictions = False  # they are written as they come

    def _refuse_what_cannot_act(self) -> None:
        """Refuse thresholds and scores on the command line: they come from the checkpoint. Configs may hold them.

        Raises:
            InputError: Others were asked for.
        """
        asked = [place.key for place in self.given if place.source == "--"]
        asked += [word.lstrip("-").partition("=")[0] for word in self.words if word.startswith("--")]
        for key in asked:
            if key == "model.score" or key.split(".")[0] == "calibration":
                raise InputError(
                    f"--{key}: `{self.subcommand}` takes thresholds and score from the checkpoint; find others with "
                    "`dynvid calibrate`"
                )
            if key == "folds":
                raise InputError(f"--folds: `{self.subcommand}` has none, only `fit`; leave it out")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with a progress bar on a terminal only, and the net told in a line of ours."""
        settings = self.config_init[self.subcommand].trainer
        callbacks = settings.callbacks or []
        own = [type(x) for x in (callbacks if isinstance(callbacks, list) else [callbacks])]
        if not sys.stdout.isatty() and not any(issubclass(x, ProgressBar) for x in own):
            kwargs["enable_progress_bar"] = False
        if settings.enable_model_summary is not False and not any(issubclass(x, ModelSummary) for x in own):
            kwargs["enable_model_summary"] = False
            self.trainer_defaults["callbacks"] = [NetLine()]
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; what cannot be restored is said with the file, and a full disk with the folder: loggers do not."""
        try:
            super()._run_subcommand(subcommand)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
                error.filename = getattr(self.trainer.logger, "log_dir", None) or self.trainer.default_root_dir
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if self.trainer.received_sigterm:  # a signal to the whole group has ended the loader processes too
                raise SIGTERMException from error
            if isinstance(error, DynvidError) or not _in_restoring(error):
                raise
            path = self.config[subcommand].ckpt_path
            raise InputError(
                f"{path}: cannot be restored, a part is missing or not of this run: {said(error)}"
            ) from error


def _in_restoring(error: Exception) -> bool:
    """Whether it comes from Lightning as it restores a checkpoint, of which it takes every part for what it expects."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == checkpoint_connector.__name__ for frame, _ in frames)


def _check_writable(folder: str) -> None:
    """Say before anything is built that the logs cannot be written; what is not there yet is made later.

    Raises:
        InputError: They cannot.
    """
    path = Path(folder).absolute()
    there = next(part for part in (path, *path.parents) if os.path.exists(part))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"trainer.default_root_dir {folder}: {there} is no folder that can be written to")
