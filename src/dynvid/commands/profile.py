"""`dynvid profile`: parameters, GMACs and measured milliseconds of each exit, kept in the checkpoint."""

import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynvid import strict_json
from dynvid.commands.arguments import Arguments, add_speed
from dynvid.errors import DynvidError, InputError
from dynvid.text import printable

if TYPE_CHECKING:
    from dynvid.inference.preparation import Preparation
    from dynvid.nets import ExitNet
    from dynvid.profile import Profile, Timing

DESCRIPTION = """\
Measure what each exit costs in milliseconds per video, from opening the file to the answer, and keep it in a checkpoint
beside its weights, where `dynvid calibrate --budget-ms` finds it. Writes a new checkpoint.
"""


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video could be read, else 1."""
    options = _parser().parse_intermixed_args(arguments)
    output = _output(options)
    return _profile(options, output)


def _profile(options: Namespace, output: Path) -> int:
    """Measure, write the checkpoint, and say what was found; what is heavy is imported after the arguments are read."""
    from dynvid.checkpoint import described, net_from_checkpoint, read_checkpoint
    from dynvid.inference.measuring import measure
    from dynvid.inference.preparation import Preparation
    from dynvid.inference.recipe import prepare
    from dynvid.profile import read_profiles, with_profile

    checkpoint = read_checkpoint(options.checkpoint)
    net = net_from_checkpoint(checkpoint, options.checkpoint).eval()
    profiles = read_profiles(described(checkpoint, options.checkpoint).get("profiles"), net.route)
    sampling = checkpoint["dynvid"].get("sampling", "center")
    clips, unreadable = _clips(options, Preparation(net.num_frames, net.input_size, sampling))
    fast, _ = prepare(net, options.optimize, options.precision, options.device)
    made = [measure(fast, clips, size, options.repeats, options.optimize, sampling) for size in options.batch_size]
    for profile in made:
        for before in profiles:
            if before.key == profile.key:
                print(f"dynvid: in the place of the profile of {before.date}: {printable(before)}", file=sys.stderr)
        profiles = with_profile(profiles, profile)
    checkpoint["dynvid"]["profiles"] = [profile.plain() for profile in profiles]
    _save(checkpoint, output)
    if options.json:
        print(strict_json.dumps(_plain(net, made) | {"checkpoint": str(output)}))
    else:
        print(f"parameters: {_parameters(net):,}")
        for profile in made:
            _print_table(net, profile)
        print(f"checkpoint: {printable(output)}")
    return int(unreadable > 0)


def _save(checkpoint: dict[str, Any], output: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    import io

    import torch

    from dynvid.whole import write_whole

    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_whole(output, content.getbuffer())


def _parser() -> Arguments:
    """What the command takes."""
    parser = Arguments("profile", DESCRIPTION)
    parser.add_argument("checkpoint", help="A checkpoint of `dynvid fit`.")
    parser.add_argument(
        "videos",
        nargs="*",
        default=[],
        help="Video files or folders of them; without any, random frames and no decoding.",
    )
    parser.add_argument(
        "--batch-size", "--batch_size", type=_sizes, default=[1], help="Videos in a batch, or several as 1,8,64."
    )
    parser.add_argument("--repeats", type=int, default=5, help="Rounds over the videos (default: 5).")
    parser.add_argument(
        "--clips", type=int, default=16, help="At most so many videos, evenly spaced in the list (default: 16)."
    )
    add_speed(parser)
    parser.add_argument("--output", help="The new checkpoint (default: beside the old one, NAME-profiled.ckpt).")
    parser.add_argument(
        "--in-place", "--in_place", action="store_true", help="Put the profile into the checkpoint itself, in one step."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables.")
    return parser


def _sizes(text: str) -> list[int]:
    """Batch sizes.

    >>> _sizes("1,8")
    [1, 8]
    """
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise ArgumentTypeError(f"{text}: numbers such as 1 or 1,8")
    return [int(word) for word in text.split(",")]


def _output(options: Namespace) -> Path:
    """Where the checkpoint goes, which is known before anything is measured.

    Raises:
        InputError: It exists; or options are out of range, or do not go together.
    """
    least = min(*options.batch_size, options.repeats, options.clips)
    if least < 1:
        raise InputError("--batch-size, --repeats and --clips must be 1 or more")
    if options.in_place and options.output:
        raise InputError("--in-place beside --output: give one of them")
    old = Path(options.checkpoint)
    if options.in_place:
        return old
    output = Path(options.output or old.with_name(f"{old.stem}-profiled.ckpt"))
    if output.exists():
        raise InputError(f"{printable(output)}: exists already; name another file with --output, or take --in-place")
    return output


def _clips(options: Namespace, preparation: "Preparation") -> tuple[list[Path], int]:
    """The videos to time, and how many could not be read; each is read whole, so that none fails on the way.

    Raises:
        InputError: Videos were given, and none can be read.
    """
    from dynvid.commands.search import search

    if not options.videos:
        print("dynvid: no videos: timed on random frames, without decoding", file=sys.stderr)
        return [], 0
    found, _ = search(options.videos)
    chosen = [found[n] for n in _spread(len(found), options.clips)]
    if len(chosen) < len(found):
        print(f"dynvid: {len(chosen)} of {len(found)} videos are timed (--clips)", file=sys.stderr)
    clips, unreadable = [], 0
    for path, not_found in chosen:
        error = not_found or _unreadable(path, preparation)
        if error:
            unreadable += 1
            print(f"dynvid: {printable(error)}", file=sys.stderr)
        else:
            clips.append(path)
    if not clips:
        raise InputError(f"{printable(options.videos[0])}: no video to time")
    return clips, unreadable


def _spread(count: int, most: int) -> list[int]:
    """At most so many positions, evenly spaced.

    >>> _spread(10, 3), _spread(2, 3)
    ([1, 5, 8], [0, 1])
    """
    return list(range(count)) if count <= most else [(2 * n + 1) * count // (2 * most) for n in range(most)]


def _unreadable(path: Path, preparation: "Preparation") -> str | None:
    """What is wrong with a video, if anything is."""
    try:
        preparation.open(path).read(range(preparation.num_frames))
    except (DynvidError, OSError) as error:
        return str(error)
    return None


def _print_table(net: "ExitNet", profile: "Profile") -> None:
    from rich.console import Console
    from rich.table import Table

    of = f" of {profile.clips} clip{'s' * (profile.clips != 1)}" if profile.clips else ""
    print(f"{printable(profile)}; median of {profile.repeats} repeats{of}, per video, every exit before passed")
    table = Table(box=None)
    for heading in ("exit", "GMACs", "ms", "lowest to highest", "decoding", "ms per GMAC"):
        table.add_column(heading, justify="right")
    names = [f"{frames}x{depth}" for frames, depth in profile.route]
    for name, gmacs, timing in _rows(net, profile, names):
        spread = f"{timing.lowest:.4g} to {timing.highest:.4g}"
        decoding = f"{100 * timing.decoding / timing.median:.1f} %" if profile.clips else "none"
        table.add_row(name, f"{gmacs:.4g}", f"{timing.median:.4g}", spread, decoding, f"{timing.median / gmacs:.4g}")
    Console(width=None if sys.stdout.isatty() else 4096).print(table)


def _rows(net: "ExitNet", profile: "Profile", names: Sequence[str]) -> "list[tuple[str, float, Timing]]":
    """Name, GMACs and timing of each exit, and of full inference."""
    return list(zip([*names, "full"], [*net.gmacs, net.full_gmacs], [*profile.exits, profile.full], strict=True))


def _plain(net: "ExitNet", profiles: "Sequence[Profile]") -> dict[str, Any]:
    """What `--json` prints, without the name of the checkpoint."""
    return {
        "parameters": _parameters(net),
        "gmacs": list(net.gmacs),
        "full_gmacs": net.full_gmacs,
        "profiles": [profile.plain() for profile in profiles],
    }


def _parameters(net: "ExitNet") -> int:
    return sum(parameter.numel() for parameter in net.parameters())
