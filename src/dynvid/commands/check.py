"""`dynvid check`: decode every video of a data set once."""

import argparse
import json
from typing import Any

from dynvid.commands.parser import Parser, find_config, read_yaml
from dynvid.data import VideoDataModule
from dynvid.data.check import check_data
from dynvid.errors import InputError


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video decodes, else 1."""
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
        section = read_yaml(find_config(name)).get("data") or {}
        if not isinstance(section, dict):
            raise InputError(f"config {name}: `data` is no section with a class_path")
        section["init_args"] = settings.get("init_args", {}) | (section.get("init_args") or {})
        settings |= section
    if "class_path" not in settings:
        raise InputError(f"{', '.join(options.config)}: no `data` section with a class_path")
    config = parser.parse_args(["--data", json.dumps(settings), *overrides])
    summary = check_data(parser.instantiate_classes(config).data, options.folder, options.num_workers)
    return int(summary.unreadable > 0)
