"""Everything raised on purpose is a DynvidError, and still the built-in error that people expect."""

import ast
from pathlib import Path

import pytest

import dynvid
from dynvid import errors

# Protocols of Python rather than faults of the input.
PROTOCOL = {"NotImplementedError", "StopIteration", "AttributeError", "IndexError"}
PROTOCOL |= {
    "RefusedError",
    "gr.Error",
}  # a request refused with a status, a word on a page
PROTOCOL |= {"ArgumentTypeError", "argparse.ArgumentTypeError"}  # which argparse makes a line of


def raised(tree):
    """Names of the exceptions that a file raises; those passed on have none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield node.lineno, ast.unparse(node.exc.func)


def test_what_is_raised_on_purpose_is_one_of_ours():
    own = {name for name in vars(errors) if name.endswith("Error")}
    found = [
        (file.name, line, name)
        for file in Path(dynvid.__file__).parent.rglob("*.py")
        for line, name in raised(ast.parse(file.read_text()))
    ]
    assert len(found) > 80
    assert not [where for where in found if where[2] not in own | PROTOCOL]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.MissingFileError, FileNotFoundError),
        (errors.VideoError, RuntimeError),
        (errors.FrameIndexError, IndexError),
        (errors.ModeError, RuntimeError),
    ],
)
def test_each_is_the_builtin_error_too(error, builtin):
    with pytest.raises(builtin, match=r"^what is wrong$"):
        raise error("what is wrong")
    assert issubclass(error, errors.DynvidError)
