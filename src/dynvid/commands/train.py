"""`dynvid fit`, `validate`, `test` and `predict`: LightningCLI, with what the data knows handed to the net."""

import os
import re
import signal
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dynvid.callbacks import Calibration, FlopsAccuracyReport, PredictionWriter
from dynvid.commands.hub import hub_asked_once
from dynvid.commands.parser import ConfigFile, Parser, given
from dynvid.data import VideoDataModule
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule, read_checkpoint
from dynvid.text import printable


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


class DynvidCLI(LightningCLI):
    """LightningCLI with packaged configs, and with what the data knows handed to the net."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Let `--config` take the name of a packaged config."""
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="A YAML file, or the name of a packaged config.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that are always on, and the links from data to net."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
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
        for source, target in (
            ("num_classes", "num_classes"),
            ("num_frames", "num_frames"),
            ("size", "input_size"),
        ):
            unless_given = partial(self._unless_given, f"data.{source}", f"model.net.{target}")
            link = f"data.{source}", f"model.net.init_args.{target}"
            parser.link_arguments(*link, compute_fn=unless_given, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep what was given too: the config does not tell it from defaults."""
        super().parse_arguments(parser, args)
        self.given = list(given(sys.argv[1:] if args is None else args))

    def _unless_given(self, source: str, target: str, value: Any) -> Any:
        """The value of a link, which would take the place of any other."""
        for place in [place for place in self.given if place.key == target][-1:]:  # the last one counts
            if place.value != value:
                raise InputError(f"{place}={place.value}: it is taken from {source}, which is {value}; leave it out")
        return value

    def instantiate_classes(self) -> None:
        """Build everything, with the weights of the model hub where the config asks for them."""
        arguments = self.config[self.subcommand].model.net.get("init_args") or {}
        from_hub = arguments.get("pretrained") is True
        with hub_asked_once(arguments.get("backbone")) if from_hub else nullcontext():
            super().instantiate_classes()

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
            config.ckpt_path = _newest_checkpoint(wanted, config)
            print(f"checkpoint: {printable(config.ckpt_path)}")
        elif wanted is None and self.subcommand != "fit":
            raise InputError(f"{self.subcommand} needs --ckpt_path: best, last, or the path of a checkpoint")
        elif wanted is not None and not Path(wanted).is_file():
            raise InputError(f"--ckpt_path {wanted}: no such file")
        if wanted is not None:
            read_checkpoint(config.ckpt_path)  # says which file is damaged before anything else is built
            if "pretrained" in config.model.net.init_args:
                config.model.net.init_args.pretrained = False  # the checkpoint's weights replace them: no download
        if self.subcommand != "fit":
            warnings.filterwarnings("ignore", message="The dirpath has changed")  # each run has a folder of its own
        else:  # ModelCheckpoint compares folders as text when it resumes, so they must be spelled in one way
            config.trainer.default_root_dir = os.path.realpath(config.trainer.default_root_dir or ".")
        if self.subcommand == "fit" and wanted is not None and config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(Path(config.ckpt_path).parent)  # go on where the best one so far is
        if config.trainer.fast_dev_run:  # Lightning would write last.ckpt all the same
            config.checkpoint.save_last = False
        if self.subcommand in ("test", "validate"):
            config.verbose = False  # the report prints its own table
        if self.subcommand == "predict":
            config.return_predictions = False  # they are written as they come


def _check_writable(folder: str) -> None:
    """Say before anything is built that the logs cannot be written; what is not there yet is made later.

    Raises:
        InputError: They cannot.
    """
    path = Path(folder).absolute()
    there = next(part for part in (path, *path.parents) if os.path.exists(part))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"trainer.default_root_dir {folder}: {there} is no folder that can be written to")


def _newest_checkpoint(wanted: Literal["last", "best"], config: Any) -> str:
    """The last or best checkpoint of the newest run of this config.

    Raises:
        InputError: There is none, or it cannot be told by its name.
    """
    name = "last" if wanted == "last" else config.checkpoint.filename or "{epoch}-{step}"  # Lightning's default
    if "{" in name or (wanted == "best" and config.checkpoint.save_top_k != 1):
        raise InputError(f"--ckpt_path {wanted}: the checkpoint arguments make several files; give the path of one")
    logger = config.trainer.logger
    settings = getattr(logger, "init_args", None) or {}
    root = Path(settings.get("save_dir") or config.trainer.default_root_dir or ".")
    if config.checkpoint.dirpath:
        folders = [Path(config.checkpoint.dirpath)]
    elif logger is False:
        folders = [root / "checkpoints"]
    elif logger is None or logger is True:
        folders = [*root.glob("lightning_logs/*/checkpoints")]
    else:  # under the name and the version that the logger has, or one of them
        folders = [*root.glob("*/checkpoints"), *root.glob("*/*/checkpoints")]
    pattern = re.compile(rf"{re.escape(name)}(-v\d+)?\.ckpt")  # -v1: Lightning keeps a file of that name
    found = [path for folder in folders for path in folder.glob("*.ckpt") if pattern.fullmatch(path.name)]
    if not found:
        where = config.checkpoint.dirpath or root
        raise InputError(f"--ckpt_path {wanted}: no {name}.ckpt under {where}; run `dynvid fit` with this config first")
    return str(max(found, key=lambda path: path.stat().st_mtime))
