"""`dynvid fit`, `validate`, `test` and `predict`: LightningCLI, with what the data knows handed to the net."""

import errno
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelSummary, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dynvid.callbacks import (
    Calibration,
    EpochLine,
    FlopsAccuracyReport,
    NetLine,
    PredictionWriter,
    TrainingCheckpoint,
)
from dynvid.commands.parser import ConfigFile, Parser
from dynvid.data import VideoDataModule
from dynvid.errors import DynvidError, InputError
from dynvid.module import DynamicInferenceModule, read_checkpoint


def run(args: list[str] | None) -> None:
    """Run the command.

    Args:
        args: The command and its arguments; None reads them from `sys.argv`, as LightningCLI likes it best.

    Raises:
        SystemExit: 143 where the run was terminated.
        InputError: What was asked for does not go together.
    """
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of a deprecated torch call
    warnings.filterwarnings("ignore", message="Found .* in eval mode")  # batch norm that was frozen on purpose
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)
    try:
        DynvidCLI(
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
        for source, target in (
            ("num_classes", "num_classes"),
            ("num_frames", "num_frames"),
            ("size", "input_size"),
        ):
            parser.link_arguments(f"data.{source}", f"model.net.init_args.{target}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Leave the config alone: Lightning's own version imports the classes that a checkpoint names."""

    def before_instantiate_classes(self) -> None:
        """Find `--ckpt_path last` and `best` in the newest run of this config.

        Raises:
            InputError: There is none, or a command that needs a checkpoint was given none.
        """
        config = self.config[self.subcommand]
        wanted = config.get("ckpt_path")
        if wanted in ("last", "best"):
            config.ckpt_path = _newest_checkpoint(wanted, config)
            print(f"checkpoint: {config.ckpt_path}")
        elif wanted is None and self.subcommand != "fit":
            raise InputError(f"{self.subcommand} needs --ckpt_path: best, last, or the path of a checkpoint")
        elif wanted is not None and not Path(wanted).is_file():
            raise InputError(f"--ckpt_path {wanted}: no such file")
        if wanted is not None:
            checkpoint = read_checkpoint(config.ckpt_path)  # says which file is damaged before anything else is built
            if self.subcommand == "fit" and "optimizer_states" not in checkpoint:
                raise InputError(
                    f"{config.ckpt_path} holds weights only, and no training can go on from it: begin another with "
                    "--model.net.pretrained"
                )
            if "pretrained" in config.model.net.init_args:
                config.model.net.init_args.pretrained = False  # the checkpoint's weights replace them: no download
        if self.subcommand != "fit":
            warnings.filterwarnings("ignore", message="The dirpath has changed")  # each run has a folder of its own
        else:  # ModelCheckpoint compares folders as text when it resumes, so they must be spelled in one way
            config.trainer.default_root_dir = os.path.realpath(config.trainer.default_root_dir or ".")
        if self.subcommand == "fit" and wanted is not None and config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(Path(config.ckpt_path).parent)  # go on where the best one so far is
        if self.subcommand in ("test", "validate"):
            config.verbose = False  # the report prints its own table
        if self.subcommand == "predict":
            config.return_predictions = False  # they are written as they come

    def instantiate_classes(self) -> None:
        """Build what the config names.

        Raises:
            InputError: A package that it needs is not installed, such as that of a logger.
        """
        try:
            super().instantiate_classes()
        except Exception as error:  # jsonargparse hands on the words of a ModuleNotFoundError, not always the error
            missing = re.search(r"(Requirement '|Module not found|No module named).*", str(error))
            if missing is None:
                raise
            raise InputError(f"a package is missing: {missing[0]}") from error

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
        """Run it; a full disk is said with the folder, for loggers do not say which file they could not write."""
        try:
            super()._run_subcommand(subcommand)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
                error.filename = getattr(self.trainer.logger, "log_dir", None) or self.trainer.default_root_dir
            raise


def _newest_checkpoint(wanted: Literal["last", "best"], config: Any) -> str:
    """The last or best checkpoint of the newest run of this config; in place of a damaged last one, the one before.

    Raises:
        InputError: There is none, or it cannot be told by its name.
    """
    name = "last" if wanted == "last" else config.checkpoint.filename or "{epoch}-{step}"  # Lightning's default
    if "{" in name or (wanted == "best" and config.checkpoint.save_top_k != 1):
        raise InputError(f"--ckpt_path {wanted}: the checkpoint arguments make several files; give the path of one")
    folders = _checkpoint_folders(config)
    pattern = re.compile(rf"{re.escape(name)}(-v\d+)?\.ckpt")  # -v1: Lightning keeps a file of that name
    found = _newest_first(p for folder in folders for p in folder.glob("*.ckpt") if pattern.fullmatch(p.name))
    if not found:
        where = config.checkpoint.dirpath or config.trainer.default_root_dir or "."
        raise InputError(f"--ckpt_path {wanted}: no {name}.ckpt under {where}; run `dynvid fit` with this config first")
    return str(found[0] if wanted == "best" else _last_state(found))


def _checkpoint_folders(config: Any) -> list[Path]:
    """The folders of checkpoints of all runs of a config."""
    logger = config.trainer.logger
    if isinstance(logger, list):
        logger = logger[0] if logger else False  # Lightning keeps checkpoints under the first
    settings = getattr(logger, "init_args", None) or {}
    root = Path(settings.get("save_dir") or config.trainer.default_root_dir or ".")
    if config.checkpoint.dirpath:
        return [Path(config.checkpoint.dirpath)]
    if logger is False:
        return [root / "checkpoints"]
    if logger is None or logger is True:
        return [*root.glob("lightning_logs/*/checkpoints")]
    # Under the name and the version that the logger has, or one of them.
    return [*root.glob("*/checkpoints"), *root.glob("*/*/checkpoints")]


def _last_state(found: list[Path]) -> Path:
    """The newest state that can be read, given the `last` files of all runs, newest first.

    A best file beside the newest `last` counts where it is ahead, since the run may have been killed between the two.

    Raises:
        InputError: None can be read.
    """
    newest = found[0]
    beside = _newest_first(path for path in newest.parent.glob("*.ckpt") if path not in found)
    steps = _steps(newest)
    if steps is not None:
        age = newest.stat().st_mtime
        ahead = [path for path in beside if path.stat().st_mtime > age and (_steps(path) or 0) > steps]
        if ahead:
            print(f"{newest} is behind: the run was stopped before it wrote it anew; taking {ahead[0].name}")
        return ahead[0] if ahead else newest
    for path in [*(p for p in found[1:] if p.parent == newest.parent), *beside, *found[1:]]:
        if _steps(path) is not None:
            print(f"{newest} cannot be read; taking {path}, the newest that can")
            return path
    raise InputError(f"--ckpt_path last: {newest} cannot be read, nor any other checkpoint")


def _steps(path: Path) -> int | None:
    """The optimizer steps that a checkpoint has behind it; None where it cannot be read."""
    try:
        return int(read_checkpoint(path).get("global_step", 0))
    except DynvidError:
        return None


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.lstat().st_mtime, reverse=True)  # of a link itself: it may dangle
