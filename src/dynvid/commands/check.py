"""`dynvid check`: decode every video of a data set once."""

from dynvid.commands.parser import DataOfConfig, Parser
from dynvid.data import VideoDataModule
from dynvid.data.check import check_data
from dynvid.errors import InputError


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video decodes, else 1."""
    parser = Parser(
        prog="dynvid check",
        description="Decode every video of a data set; a run that was stopped goes on where it was.",
    )
    parser.add_argument(
        "-c", "--config", action=DataOfConfig, help="A YAML file or packaged config; its `data` is used."
    )
    parser.add_argument("--folder", default="check", help="Where the results go (default: check).")
    parser.add_argument("--num_workers", type=int | None, help="Processes, one per CPU by default.")
    parser.add_subclass_arguments(VideoDataModule, "data")
    options = parser.parse_args(arguments)
    if not options.config:
        parser.error("check needs --config: a file, or the name of a packaged config")
    if not options.data:
        raise InputError(f"{', '.join(map(str, options.config))}: no `data` section with a class_path")
    summary = check_data(parser.instantiate(options).data, options.folder, options.num_workers)
    return int(summary.unreadable > 0)
