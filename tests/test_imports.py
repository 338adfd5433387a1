"""Imports point one way, and importing the library stays cheap on what it does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import dynvid

PACKAGE = Path(dynvid.__file__).parent
# What each part may import of dynvid; costs sits below nets because prediction reports its cost.
ALLOWED = {
    "errors": set(),
    "text": set(),
    "strict_json": set(),
    "packaged": set(),
    "routes": {"errors"},
    "policy": {"errors"},
    "costs": set(),
    "published": {"errors"},
    "losses": {"errors"},
    "calibration": {"errors", "calibration"},
    "metrics": {"errors", "policy", "calibration", "published"},
    "nets": {"errors", "routes", "policy", "costs", "nets"},
    "data": {"errors", "text", "data"},
    "module": {"errors", "calibration", "losses", "metrics", "nets", "policy", "data"},
    "callbacks": {"errors", "text", "strict_json", "calibration", "metrics", "module", "published", "callbacks"},
    "commands": {"errors", "text", "strict_json", "packaged", "callbacks", "commands", "data", "module"},
    "cli": {"errors", "text", "packaged", "commands"},
}


def imported(file):
    """Parts of dynvid that a file imports when it runs; what is only for type checkers does not count."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("dynvid."))


def test_imports_point_one_way():
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    assert len(files) > 20
    for file in files:
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        beyond = set(imported(file)) - ALLOWED[part] - {"__version__"}
        assert not beyond, f"{file} imports {beyond}"


def test_nets_need_neither_lightning_nor_a_decoder():
    code = "import sys, dynvid; print({'pytorch_lightning', 'av', 'matplotlib', 'jsonargparse'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
