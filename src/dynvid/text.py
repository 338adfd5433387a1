"""Names from strangers, made fit for a terminal and for a line."""

from unicodedata import category

# Control and format characters (bidi overrides among them), halves of surrogate pairs, line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # Persian names and emoji need these


def printable(name: object) -> str:
    r"""A name in one line that steers no terminal: what would is escaped, a byte that is no UTF-8 as itself.

    Args:
        name: A path or another name; its `str()` is taken.

    >>> print(printable("swim\n\x1b[2J \u202e4pm.\udcff"))
    swim\x0a\x1b[2J \u202e4pm.\xff
    """
    text = str(name)
    if text.isprintable():
        return text
    return "".join(_escape(c) if category(c) in _UNSEEN and c not in _JOINERS else c for c in text)


def printable_label(label: str) -> str:
    """A label in one line for people: `printable`, and in words where it is the empty set of a multi-label net.

    >>> printable_label("run;jump"), printable_label("")
    ('run;jump', 'none of them')
    """
    return printable(label) or "none of them"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
