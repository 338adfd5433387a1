"""`dynvid benchmark`: full against dynamic inference, in time, measured in turns."""

import re
import sys
from argparse import ArgumentTypeError, Namespace
from math import isnan
from typing import Any

from dynvid import strict_json
from dynvid.commands.arguments import Arguments, add_speed
from dynvid.text import printable

DESCRIPTION = """\
Measure full and dynamic inference in turns: of a checkpoint on videos, from the file to the label; or, with neither, of
a net with random weights on random frames in memory, where --forced-exits says who leaves where and decoding is left
out.
"""
TIMED = ("decode ms", "model ms", "total ms")  # by the clock of ratios; the other columns by that of the wall
NET = {"route": "depth", "num_frames": 16, "size": 224, "num_classes": 400}  # of --backbone, by default


def run(arguments: list[str]) -> int:
    """Run the command; 0 if something was measured, else 1."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if wrong := _wrong(options):
        parser.error(wrong)
    vars(options).update({name: value for name, value in NET.items() if getattr(options, name) is None})
    from dynvid.commands.contest import contest  # which brings torch along

    found = contest(options)
    if options.json:
        print(strict_json.dumps(found))
    else:
        _print_tables(found)
    return int(not any("rows" in batch for batch in found["batches"]))


def _parser() -> Arguments:
    parser = Arguments("benchmark", DESCRIPTION)
    parser.add_argument("paths", nargs="*", help="A checkpoint, and video files or folders of them; see --backbone.")
    parser.add_argument("--against", metavar="CKPT|tsm", help="A second checkpoint; or tsm: stock TSM, eager, float32.")
    parser.add_argument("--backbone", help="A timm model with random weights in place of the checkpoint.")
    parser.add_argument("--route", choices=("depth", "input", "unified"), help="Of --backbone (default: depth).")
    parser.add_count("--num-frames", None, "Frames of a clip, with --backbone (default: 16).")
    parser.add_count("--size", None, "Their height and width in pixels, with --backbone (default: 224).")
    parser.add_count("--num-classes", None, "Classes, with --backbone (default: 400).")
    parser.add_argument(
        *("--forced-exits", "--forced_exits"),
        type=_shares,
        metavar="N,N,...",
        help="Shares of the videos that leave at each exit, whatever it answers, such as 60,20,15,5.",
    )
    parser.add_count("--batch-size", 8, "Videos of a step, or several such sizes", several=True)
    parser.add_count("--repeats", 5, "Rounds")
    parser.add_count("--seconds", 120, "No round begins later than this after the first, for each batch size")
    parser.add_count("--workers", 1, "Threads that decode, at batch sizes above 1")
    parser.add_count("--threads", None, "Threads that compute (default: 1; with a GPU, as torch has it).")
    add_speed(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables.")
    return parser


def _shares(text: str) -> list[int]:
    if not re.fullmatch("[0-9]{1,6}(,[0-9]{1,6})*", text) or not re.search("[1-9]", text):
        raise ArgumentTypeError(f"{text!r}: whole numbers with commas between, not all 0, such as 60,20,15,5")
    return [int(share) for share in text.split(",")]


def _wrong(options: Namespace) -> str:
    """What is wrong with the arguments together, empty if nothing is."""
    if options.backbone:
        return "" if options.forced_exits else "--backbone has random weights: give --forced-exits, such as 60,20,15,5"
    if not options.paths:
        return "give a checkpoint and videos, or --backbone NAME --forced-exits 60,20,15,5"
    if given := [name for name in NET if getattr(options, name) is not None]:
        return f"--{given[0].replace('_', '-')} is for --backbone: a checkpoint has its own"
    if len(options.paths) == 1 and not options.forced_exits:
        return "give videos, or --forced-exits, such as 60,20,15,5, for random frames"
    return ""


def _print_tables(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 4096)  # no line is broken on its way to a file
    processor = found["processor"]
    on = [found["device"], f"{processor['name']}, {processor['threads']} of {processor['cores']} threads"]
    on += [f"{name} {version}" for name, version in found["versions"].items() if version]
    said = [", ".join(on), *(f"{net['name']}: {net['recipe']}" for net in found["nets"]), *found["disagreement"]]
    said.append(f"decoding {found['decoding']}; ratios of {found['ratios_by']}, median (lowest to highest)")
    for line in said:
        console.print(Text(printable(line)))
    for batch in found["batches"]:
        console.print(Text(f"\nbatch size {batch['batch_size']}: " + _in_words(batch, found["ceiling_gflops"])))
        if "rows" not in batch:
            continue
        table = Table(box=None)
        table.add_column("net")
        headings = ("inference", "MACs", "time", "decode ms", "model ms", "total ms", "videos/s", "p50 ms", "p95 ms")
        by = found["ratios_by"].split()[0]
        for heading in (*(f"{h} ({by})" if h in TIMED else h for h in headings), "peak MB"):
            table.add_column(heading, justify="right")
        for row in batch["rows"]:
            table.add_row(Text(printable(row["net"])), *_cells(row, found["ratios_by"].split()[0]))
        console.print(table)


def _in_words(batch: dict[str, Any], ceiling: float) -> str:
    """What came of one batch size, in a line."""
    if "skipped" in batch:
        return f"skipped, {batch['skipped']}"
    words = [f"{batch['videos']} videos, {batch['repeats']} rounds"]
    if "time_saved" in batch:
        words.append(f"{100 * batch['macs_saved']:z.1f} % of the MACs saved")
        words.append(f"{_percent(batch['time_saved'], *batch['time_saved_low_high'])} of the time")
        if batch["macs_saved"] > 0:
            low, high = batch["time_saved_per_macs_saved_low_high"]
            words.append(f"time saved / MACs saved {batch['time_saved_per_macs_saved']:.2f} ({low:.2f} to {high:.2f})")
    share = 100 * batch["share_of_ceiling"]
    return ", ".join([*words, f"full inference at {share:.0f} % of {ceiling:.0f} GFLOP/s of matrix products"])


def _percent(median: float, low: float, high: float) -> str:
    return f"{100 * median:z.1f} % ({100 * low:z.1f} to {100 * high:z.1f})"


def _cells(row: dict[str, Any], by: str) -> list[str]:
    ratio = row["time_ratio"]
    times = [row[part] and row[part][by]["median"] for part in ("decode_ms", "model_ms", "total_ms")]
    return [
        row["inference"],
        f"{row['macs_ratio']:.3f}",
        f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        *("" if time is None else f"{time:.4g}" for time in times),
        f"{row['videos_per_second']['median']:.4g}",
        *(f"{row[key]:.4g}" for key in ("p50_ms", "p95_ms")),
        "" if isnan(row["peak_memory_mb"]) else f"{row['peak_memory_mb']:.0f}",
    ]
