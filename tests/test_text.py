"""Names from strangers in a terminal."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvid.text import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b [x] (HQ)! ü 日本.mp4", "a b [x] (HQ)! ü 日本.mp4"),
        ("\u06a9\u200c\u06af \U0001f468\u200d\U0001f469", "\u06a9\u200c\u06af \U0001f468\u200d\U0001f469"),
        ("two\nlines\r\n\ttab", r"two\x0alines\x0d\x0a\x09tab"),
        ("\x1b[31mred\x1b]0;title\x07\x9b2J\x7f", r"\x1b[31mred\x1b]0;title\x07\x9b2J\x7f"),
        ("a\u202e4pm.exe\u2066\u200f", r"a\u202e4pm.exe\u2066\u200f"),
        ("a\u2028b\u2029\x85c", r"a\u2028b\u2029\x85c"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_is_escaped(name, shown):
    assert printable(name) == shown


def test_a_path_whose_bytes_are_no_utf8():
    assert printable(Path(os.fsdecode(b"caf\xe9/\x80.mp4"))) == r"caf\xe9/\x80.mp4"


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_always_one_line_that_can_be_written(name):
    shown = printable(name)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert printable(shown) == shown
