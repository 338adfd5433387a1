"""Arguments of commands without a config: read by the standard library alone, so that mistakes are said at once."""

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

from dynvid.commands.numbers import above_zero, port, share
from dynvid.text import printable

_UNKNOWN = re.compile(r"unrecognized arguments: (?:.* )?(-[^\s=]+)")


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one line, and which names the option that was meant by a misspelt one."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"dynvid {command}", description=description, allow_abbrev=False)

    def add_count(self, option: str, default: int | None, help: str, several: bool = False) -> None:
        """Add an option that takes a whole number from 1 on, or several."""
        said = help if default is None else f"{help} (default: {default})"
        names = (option, *_with_underscores(option))
        if several:
            self.add_argument(*names, type=_count, nargs="+", default=[default], metavar="N", help=said)
        else:
            self.add_argument(*names, type=_count, default=default, metavar="N", help=said)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        if unknown := _UNKNOWN.match(message):
            options = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
            options = [word for word in options if "_" not in word]  # those have another spelling
            near = get_close_matches(unknown[1], options, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(options)}"
            message = f"{unknown[1]}: no such key; {hint}"
        self.exit(2, refusal(message))


def add_speed(parser: Arguments, graphs: bool = False) -> None:
    """Add the options that say how fast a net is made, and on what; with `graphs`, also who runs it."""
    if graphs:
        parser.add_argument(
            "--runtime",
            choices=("torch", "onnx", "openvino"),
            default="torch",
            help="onnx, openvino: the graphs that `dynvid export --runtime` wrote into the folder (default: torch)",
        )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", *(("int8",) if graphs else ())),
        default="auto",
        help="auto: bfloat16 where the processor computes in it; classify: if nothing is promised (default: auto)",
    )
    parser.add_argument(
        "--optimize",
        choices=("none", "default", "compile"),
        default="default",
        help="default: batch norm folded; compile: compiled too, for tens of seconds; none: as trained, in float32",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")


def add_listening(parser: Arguments, default_port: int) -> None:
    """Add the options that say where a server listens, and how much it takes."""
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: 127.0.0.1, this machine).")
    parser.add_argument(
        "--port", type=port, default=default_port, help=f"0 takes any that is free (default: {default_port})."
    )
    parser.add_argument(
        *("--max-upload-mb", "--max_upload_mb"),
        type=above_zero,
        default=200.0,
        metavar="MB",
        help="Largest upload (default: 200).",
    )


def add_audit(parser: Arguments) -> None:
    """Add the option that says how many videos are audited."""
    parser.add_argument(
        "--audit",
        type=share,
        metavar="SHARE",
        help="Share of videos taken on to the last exit, to see whether the promise is kept: 0.02 (default: none)",
    )


def refuse_audit(parser: Arguments, options: argparse.Namespace, *others: str) -> None:
    """Refuse `--audit` along with one of the other options, under each of which nothing would be audited."""
    for name in others:
        given = getattr(options, name)  # 0 is given, too
        if options.audit is not None and given is not None and given is not False:
            parser.error(f"--audit: nothing is audited with --{name.replace('_', '-')}; leave one of them out")


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, 1 or more")
    return int(text)


def _with_underscores(option: str) -> list[str]:
    """The same option as the keys of configs are spelled."""
    other = "--" + option.removeprefix("--").replace("-", "_")
    return [] if other == option else [other]


def refusal(message: str) -> str:
    """What is wrong with the arguments, in the line that is printed."""
    return f"dynvid: error: {printable(' '.join(message.split()))}\n"
