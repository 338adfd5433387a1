"""`dynvid timeline`: what happens when in a long video."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dynvid import strict_json
from dynvid.commands.arguments import Arguments, add_speed
from dynvid.commands.numbers import number, probability, seconds
from dynvid.errors import InputError
from dynvid.text import printable
from dynvid.whole import check_new_file, write_whole

if TYPE_CHECKING:
    from dynvid.inference import Timeline

FORMATS = (".json", ".csv", ".vtt")


def run(arguments: list[str]) -> int:
    """Run the command; 0 if the video could be read."""
    parser = Arguments("timeline", "Find what happens when in a video: start, end, class and probability.")
    parser.add_argument("model", help="A checkpoint of `dynvid fit` or `dynvid calibrate`, or what else dynvid loads.")
    parser.add_argument("video", help="A video file of any length.")
    parser.add_argument("--out", metavar="FILE", help=f"Write a new file instead: {', '.join(FORMATS)} (WebVTT).")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    parser.add_argument("--window", type=seconds, help="Seconds that the net looks at, at a time (default: 4).")
    parser.add_argument("--hop", type=seconds, help="Seconds from window to window (default: a quarter of one).")
    parser.add_argument(
        "--min-length",
        "--min_length",
        type=number,
        help="Shorter segments go to a neighbour (default: half a window).",
    )
    parser.add_argument(
        "--min-probability", "--min_probability", type=probability, default=0.3, help="Below it: none (default: 0.3)."
    )
    parser.add_argument("--max-gmacs", "--max_gmacs", type=number, help="The most that is spent on a window.")
    parser.add_count("--batch-size", 8, "Windows that are computed together.")
    add_speed(parser)
    options = parser.parse_args(arguments)
    suffix = Path(options.out).suffix.lower() if options.out else ""
    if options.out and suffix not in FORMATS:
        raise InputError(f"{options.out}: name it {', '.join(FORMATS)}, which says what is written")
    if options.out:
        check_new_file(options.out)

    from dynvid.inference import Recognizer
    from dynvid.inference.timeline import timeline

    recognizer = Recognizer.load(options.model, options.device, options.precision, options.optimize)
    if not recognizer.calibrated:
        print("dynvid: not calibrated: every window gets full inference", file=sys.stderr)
    found = timeline(
        recognizer,
        options.video,
        options.window,
        options.hop,
        options.min_length,
        options.min_probability,
        options.max_gmacs,
        options.batch_size,
    )
    if found.damaged:
        print(f"dynvid: {printable(options.video)}: {found.damaged} damaged frames left out", file=sys.stderr)
    plain = strict_json.dumps({"video": options.video, **found.plain()}, indent=2 if options.out else None) + "\n"
    if options.out:
        text = {".json": plain, ".csv": found.csv(), ".vtt": found.vtt()}[suffix]
        write_whole(options.out, text.encode("utf-8", "backslashreplace"))
    if options.json:
        print(plain, end="")
    elif not options.out:
        _print_table(found)
    saved = f"{100 * found.plain()['saved']:z.1f} %"
    print(
        f"dynvid: {len(found)} segments, {found.windows} windows of {found.window:.4g} s every {found.hop:.4g} s, "
        f"{found.gmacs:.4g} GMACs ({saved} less than full inference of each)",
        file=sys.stderr,
    )
    return 0


def _print_table(found: "Timeline") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in ("start", "end", "label", "probability"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for s in found:
        table.add_row(f"{s.start:.2f}", f"{s.end:.2f}", Text(printable(s.label)), f"{s.probability:.3f}")
    Console(width=None if sys.stdout.isatty() else 4096).print(table)
