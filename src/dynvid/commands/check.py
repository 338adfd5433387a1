"""`dynvid check`: decode every video of a data set once."""

import argparse
import json
import signal
import sys
from typing import Any, NoReturn

from dynvid.commands.parser import Parser, find_config, read_yaml
from dynvid.data import VideoDataModule
from dynvid.data.check import check_data
from dynvid.errors import InputError


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video decodes without an error, else 1."""
    first = _Options(
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
    first.add_argument("--time_limit", type=float, default=600.0, help="Seconds that a video may take (default: 600).")
    options, overrides = first.parse_known_args(arguments)
    if not options.config:
        Parser(prog="dynvid check").error("check needs --config: a file, or the name of a packaged config")
    parser = Parser(prog="dynvid check")
    parser.add_subclass_arguments(VideoDataModule, "data")
    settings: dict[str, Any] = {}
    for name in options.config:
        section = read_yaml(find_config(name)).get("data") or {}
        if not isinstance(section, dict):
            raise InputError(f"config {name}: `data` is no section with a class_path")
        own = section.get("init_args") or {}
        if not isinstance(own, dict):
            raise InputError(f"config {name}: `data.init_args` is no mapping")
        section["init_args"] = settings.get("init_args", {}) | own
        settings |= section
    if "class_path" not in settings:
        raise InputError(f"{', '.join(options.config)}: no `data` section with a class_path")
    config = parser.parse_args(["--data", json.dumps(settings), *overrides])
    data = parser.instantiate_classes(config).data
    try:
        summary = check_data(data, options.folder, options.num_workers, time_limit=options.time_limit)
    except KeyboardInterrupt:
        print("dynvid: stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + signal.SIGINT
    return int(summary.unreadable + summary.damaged > 0)


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, as the other commands do."""
        Parser(prog=self.prog).error(message)
