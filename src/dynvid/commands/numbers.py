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


def seconds(text: str) -> float:
    """A number above 0."""
    if not number(text):
        raise argparse.ArgumentTypeError(f"{text!r}: seconds, above 0")
    return float(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    if number(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a probability, 0 to 1")
    return float(text)


def tries(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, 0 or more")
    return int(text)
