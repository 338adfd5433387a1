"""`dynvid pack`: write the videos of a data set into shards, or a manifest of shards that others wrote."""

import re
import signal
import sys
from collections.abc import Iterable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dynvid.commands.parser import DataOfConfig, Parser
from dynvid.data import VideoDataModule
from dynvid.data.packing import Counts, Format, index_shards, pack
from dynvid.errors import InputError
from dynvid.text import printable

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def run(arguments: list[str]) -> int:
    """Run the command; 0 if all videos could be read, else 1."""
    parser = Parser(
        prog="dynvid pack",
        description="Write the videos of a data set into shards of whole files; a run that was stopped goes on where "
        "it was. Without --config: write the manifest of shards that others wrote.",
    )
    parser.add_argument(
        "-c", "--config", action=DataOfConfig, help="A YAML file or packaged config; its `data` is used."
    )
    parser.add_argument("out", help="A new folder for the shards, or an address such as s3://bucket/packed.")
    parser.add_argument("--format", type=Format, default="webdataset", help="Tar files, or LitData's chunks.")
    parser.add_argument("--shard_size", "--shard-size", default="256MB", help="Of a shard (default: 256MB).")
    parser.add_subclass_arguments(VideoDataModule, "data")
    options = parser.parse_args(arguments)
    if not options.config:
        _say(options.out, index_shards(options.out).items())
        return 0
    if not options.data:
        raise InputError(f"{', '.join(map(str, options.config))}: no `data` section with a class_path")
    data, size = parser.instantiate(options).data, bytes_of(options.shard_size)
    try:
        with Progress(TextColumn("shards"), BarColumn(), MofNCompleteColumn()) as progress:
            task = progress.add_task("", total=None)

            def done(shards: int, of: int) -> None:
                progress.update(task, completed=shards, total=of)

            counts = pack(data, options.out, options.format, size, done)
    except KeyboardInterrupt:
        print("dynvid: stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + signal.SIGINT
    _say(options.out, counts.items())
    return int(any(count.unreadable for count in counts.values()))


def bytes_of(text: str) -> int:
    """The bytes that a size such as `256MB` says.

    Raises:
        InputError: It is no size.

    >>> bytes_of("256MB"), bytes_of("1.5gb"), bytes_of("1000")
    (256000000, 1500000000, 1000)
    """
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) *(|KB|MB|GB)", str(text), re.IGNORECASE)
    if not found:
        raise InputError(f"--shard_size {printable(text)}: a size such as 256MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _say(out: str, counts: Iterable[tuple[str, Counts]]) -> None:
    for split, count in counts:
        left = [f"{n} {what}" for n, what in ((count.missing, "missing"), (count.unreadable, "unreadable")) if n]
        said = f" ({', '.join(left)}; see {printable(out)})" if left else ""
        print(f"{split}: {count.packed} clips in {count.shards} shards{said}")
