"""The command line: fit, validate, test and predict on LightningCLI, and plain commands beside them."""

import argparse
import json
import os
import re
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # exported at run time
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

import dynvid
import dynvid.data  # so that `--data UCF101DataModule` is known by its short name
from dynvid import commands
from dynvid.callbacks import Calibration, FlopsAccuracyReport, PredictionWriter
from dynvid.data import VideoDataModule, VideoError
from dynvid.data.check import check_data
from dynvid.module import DynamicInferenceModule, read_checkpoint

USAGE = """\
usage: dynvid COMMAND ...

  fit       train and calibrate          dynvid fit --config quickstart.yaml
  validate  evaluate on the validation split
  test      accuracy and GMACs, full and dynamic
                                         dynvid test --config quickstart.yaml --ckpt_path best
  predict   write predictions.csv        dynvid predict --config quickstart.yaml --ckpt_path best
  check     decode every video, list the unreadable
                                         dynvid check --config ucf101.yaml --data.root PATH
  classify  label video files            dynvid classify CHECKPOINT VIDEO_OR_FOLDER ...

Ready configs: {configs}
`dynvid COMMAND --help` shows the arguments of a command."""


def main(args: list[str] | None = None) -> None:
    """Run one command; what is wrong with the input is said in one line, with a non-zero exit code.

    Args:
        args: Arguments, `sys.argv[1:]` by default.

    Raises:
        SystemExit: 1 where the input is at fault, 2 where the arguments are.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of a deprecated torch call
    warnings.filterwarnings("ignore", message="Found .* in eval mode")  # batch norm that was frozen on purpose
    try:
        code = _run(arguments, args)
        sys.stdout.flush()  # here, where it is no error that nobody reads any more
    except SIGTERMException:  # a SystemExit without a code: it would pass for success
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(1)
        if not _input_is_at_fault(error):
            if not isinstance(error.__cause__, Exception) or not _input_is_at_fault(error.__cause__):
                raise
            error = error.__cause__  # jsonargparse wraps what a data module says about its arguments
        message = " ".join(str(error).split()) or type(error).__name__
        if message.startswith("Caught "):  # a loader process hands on its traceback; the error is the last line
            message = str(error).strip().splitlines()[-1].removeprefix("dynvid.data.video.VideoError: ")
        print(f"dynvid: error: {message}", file=sys.stderr)
        sys.exit(1)
    if code is not None:
        sys.exit(code)


def _run(arguments: list[str], args: list[str] | None) -> int | None:
    """Run a command; its exit code, where it has one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(sorted(_configs()))))
        return None
    if arguments[0] == "--version":
        print(dynvid.__version__)
        return None
    if arguments[0] not in (*LightningCLI.subcommands(), "classify", "check"):
        raise ValueError(f"there is no command {arguments[0]!r}; `dynvid --help` lists them")
    if arguments[0] == "classify":
        options = _classify_parser().parse_args(arguments[1:])
        return commands.classify(options.checkpoint, options.paths, options.json)
    if arguments[0] == "check":
        return _check(arguments[1:])
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
    return None


def _nobody_reads() -> bool:
    """Whether standard output leads to a process that has ended, as in `| head`; then nothing more is written to it."""
    try:
        print(flush=True)  # something must be written to see it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


class Parser(LightningArgumentParser):
    """A parser whose errors are one line: the usage of `fit` alone fills a screen."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        self.exit(2, f"dynvid: error: {' '.join(message.split())}\n")


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
            parser.link_arguments(f"data.{source}", f"model.net.init_args.{target}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Leave the config alone: Lightning's own version imports the classes that a checkpoint names."""

    def before_instantiate_classes(self) -> None:
        """Find `--ckpt_path last` and `best` in the newest run of this config.

        Raises:
            ValueError: There is none, or a command that needs a checkpoint was given none.
        """
        config = self.config[self.subcommand]
        wanted = config.get("ckpt_path")
        if wanted in ("last", "best"):
            config.ckpt_path = _newest_checkpoint(wanted, config)
            print(f"checkpoint: {config.ckpt_path}")
        elif wanted is None and self.subcommand != "fit":
            raise ValueError(f"{self.subcommand} needs --ckpt_path: best, last, or the path of a checkpoint")
        elif wanted is not None and not Path(wanted).is_file():
            raise ValueError(f"--ckpt_path {wanted}: no such file")
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


class ConfigFile(ActionConfigFile):
    """A config given by path or by the name of a packaged one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Resolve the name, then parse."""
        name = str(values)
        if Path(name).suffix in (".yaml", ".yml"):
            name = _find_config(name)
            _read_yaml(name)  # says what is wrong with it in one line
        super().__call__(parser, cfg, name, option_string)  # type: ignore[no-untyped-call]


def _classify_parser() -> Parser:
    parser = Parser(prog="dynvid classify", description="Label videos; each is decoded and computed as far as needed.")
    parser.add_argument("checkpoint", help="A checkpoint of `dynvid fit`.")
    parser.add_argument("paths", nargs="+", help="Video files, folders of JPEG frames, or folders of video files.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object per video.")
    return parser


def _check(arguments: list[str]) -> int:
    """`dynvid check`: 0 if every video decodes, else 1."""
    first = argparse.ArgumentParser(
        prog="dynvid check",
        description="Decode every video of a data set; a run that was stopped goes on where it was.",
        epilog="--data.root and the other arguments of the data module may follow.",
        allow_abbrev=False,
    )
    first.add_argument(
        "-c", "--config", action="append", default=[], help="A YAML file or packaged config; its `data` is used."
    )
    first.add_argument("--folder", default="check", help="Where the results go (default: check).")
    first.add_argument("--num_workers", type=int, help="Processes, one per CPU by default.")
    options, overrides = first.parse_known_args(arguments)
    if not options.config:
        Parser(prog="dynvid check").error("check needs --config: a file, or the name of a packaged config")
    parser = Parser(prog="dynvid check")
    parser.add_subclass_arguments(VideoDataModule, "data")
    settings: dict[str, Any] = {}
    for name in options.config:
        section = _read_yaml(_find_config(name)).get("data") or {}
        if not isinstance(section, dict):
            raise ValueError(f"config {name}: `data` is no section with a class_path")
        section["init_args"] = settings.get("init_args", {}) | (section.get("init_args") or {})
        settings |= section
    if "class_path" not in settings:
        raise ValueError(f"{', '.join(options.config)}: no `data` section with a class_path")
    config = parser.parse_args(["--data", json.dumps(settings), *overrides])
    summary = check_data(parser.instantiate_classes(config).data, options.folder, options.num_workers)
    return int(summary.unreadable > 0)


def _read_yaml(name: str) -> dict[str, Any]:
    try:
        with open(name, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config {name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"config {name}: not a YAML mapping")
    return content


def _newest_checkpoint(wanted: Literal["last", "best"], config: Any) -> str:
    """The last or best checkpoint of the newest run of this config.

    Raises:
        ValueError: There is none, or it cannot be told by its name.
    """
    name = "last" if wanted == "last" else config.checkpoint.filename or "{epoch}-{step}"  # Lightning's default
    if "{" in name or (wanted == "best" and config.checkpoint.save_top_k != 1):
        raise ValueError(f"--ckpt_path {wanted}: the checkpoint arguments make several files; give the path of one")
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
        raise ValueError(f"--ckpt_path {wanted}: no {name}.ckpt under {where}; run `dynvid fit` with this config first")
    return str(max(found, key=lambda path: path.stat().st_mtime))


def _find_config(name: str) -> str:
    """A path as it is, or where the packaged config of that name lies.

    Raises:
        ValueError: There is neither.
    """
    if Path(name).is_file():
        return name
    if name not in _configs():
        known = ", ".join(sorted(_configs()))
        raise ValueError(f"config {name}: no such file, and no packaged config; there are {known}")
    return str(_configs()[name])


def _configs() -> dict[str, Path]:
    package = Path(dynvid.__file__).parent
    folders = (
        package.parents[1] / "configs",
        package / "configs",
    )  # an editable install has them in the repository
    return {path.name: path for folder in folders for path in folder.glob("*.yaml")}


def _input_is_at_fault(error: Exception) -> bool:
    """Errors that dynvid raises on purpose, or that the operating system raises on paths; others are bugs."""
    if isinstance(error, VideoError | OSError | MisconfigurationException):
        return True
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError) and Path(innermost).is_relative_to(Path(dynvid.__file__).parent)
