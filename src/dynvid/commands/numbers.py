"""Numbers on the command line, which are refused in one line."""

import argparse
import math


def number(text: str) -> float:
    """A number from 0 on.

    >>> number("0.5")
    0.5
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: a number, 0 or more")
    return value


def above_zero(text: str, what: str = "a number above 0") -> float:
    """A number above 0, which is called `what` where it is not."""
    if not number(text):
        raise argparse.ArgumentTypeError(f"{text!r}: {what}")
    return float(text)


def seconds(text: str) -> float:
    """Seconds, above 0."""
    return above_zero(text, "seconds, above 0")


def probability(text: str) -> float:
    """A number from 0 to 1."""
    if number(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a probability, 0 to 1")
    return float(text)


def share(text: str) -> float:
    """A number above 0, up to 1."""
    if not 0 < number(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a share, above 0 and up to 1")
    return float(text)


def port(text: str) -> int:
    """A port of TCP."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r}: a port, 0 to 65535")
    return int(text)


def tries(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, 0 or more")
    return int(text)
