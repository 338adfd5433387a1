"""`dynvid check`: decode every video of a data set once."""

import signal
import sys

from dynvid.commands.parser import DataOfConfig, Parser
from dynvid.data import VideoDataModule
from dynvid.data.check import check_data
from dynvid.errors import InputError


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video decodes without an error, else 1."""
    parser = Parser(
        prog="dynvid check",
        description="Decode every video of a data set; a run that was stopped goes on where it was.",
    )
    parser.add_argument(
        "-c", "--config", action=DataOfConfig, help="A YAML file or packaged config; its `data` is used."
    )
    parser.add_argument("--folder", default="check", help="Where the results go (default: check).")
    parser.add_argument("--num_workers", type=int | None, help="Processes, one per CPU by default.")
    parser.add_argument("--time_limit", type=float, default=600.0, help="Seconds that a video may take (default: 600).")
    parser.add_subclass_arguments(VideoDataModule, "data")
    options = parser.parse_args(arguments)
    if not options.config:
        parser.error("check needs --config: a file, or the name of a packaged config")
    if not options.data:
        raise InputError(f"{', '.join(map(str, options.config))}: no `data` section with a class_path")
    data = parser.instantiate(options).data
    try:
        summary = check_data(data, options.folder, options.num_workers, time_limit=options.time_limit)
    except KeyboardInterrupt:
        print("dynvid: stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + signal.SIGINT
    return int(summary.unreadable + summary.damaged > 0)
