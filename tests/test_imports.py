"""Imports point one way, and importing the library stays cheap on what it does not need."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dynvid

PACKAGE = Path(dynvid.__file__).parent
# What each part may import of dynvid; costs sits below nets because a net reports its own cost.
ALLOWED = {
    "errors": set(),
    "text": set(),
    "strict_json": set(),
    "packaged": set(),
    "routes": {"errors"},
    "policy": {"errors"},
    "costs": {"errors"},
    "published": {"errors"},
    "losses": {"errors"},
    "whole": {"errors"},
    "saving": {"whole"},
    "calibration": {"errors", "policy", "routes", "costs", "calibration"},
    "outputs": {"errors", "text", "strict_json", "whole", "routes", "policy", "calibration"},
    "report": {
        *("errors", "text", "strict_json", "whole", "routes", "policy", "calibration", "metrics", "published", "data"),
        *("outputs", "report"),
    },
    "metrics": {"errors", "policy", "calibration", "published"},
    "nets": {"errors", "routes", "policy", "costs", "nets"},
    "data": {"errors", "text", "whole", "data"},
    "checkpoint": {"errors", "calibration", "policy", "nets"},
    "module": {
        *("errors", "calibration", "checkpoint", "losses", "metrics", "nets", "policy", "data", "saving"),
        *("outputs",),
    },
    "callbacks": {
        *("errors", "text", "strict_json", "calibration", "metrics", "module", "published", "whole", "callbacks"),
        *("outputs", "report", "checkpoint"),
    },
    "commands": {
        *("errors", "text", "strict_json", "packaged", "callbacks", "checkpoint", "commands", "data", "module", "nets"),
        *("calibration", "outputs", "policy", "report", "saving"),
    },
    "cli": {"errors", "text", "packaged", "commands"},
}


FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file):
    """Dotted names of dynvid that a file imports, anywhere in it; what is only for type checkers counts too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "dynvid")


def home(name):
    """The file that a dotted name is imported from."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return home(name.rpartition(".")[0])


def test_imports_point_one_way():
    assert len(FILES) > 20
    for file in FILES:
        if file == PACKAGE / "__init__.py":
            continue
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        beyond = {name.split(".")[1] for name in imported(file) if "." in name} - ALLOWED[part] - {"__version__"}
        assert not beyond, f"{file} imports {beyond}"


def test_no_file_imports_itself_by_way_of_others():
    graph = {file: {home(name) for name in imported(file)} for file in FILES}
    assert PACKAGE / "nets" / "stream.py" in graph[PACKAGE / "nets" / "exit_net.py"]
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail("a circle: " + " <- ".join(str(file.relative_to(PACKAGE)) for file in error.args[1]))


@pytest.mark.parametrize(
    "name",
    [
        *("nets.net_from_spec", "nets.load_tsm_checkpoint", "nets.load_msdnet_checkpoint", "nets.tsm.from_tsm_keys"),
        *("nets.tsm.load_tsm_checkpoint", "nets.msdnet.from_original_keys", "nets.msdnet.load_msdnet_checkpoint"),
        *("nets.pretrained.read_weights", "nets.pretrained.load_weights", "module.read_checkpoint"),
        "saving.write_whole",
    ],
)
def test_names_stay_where_they_were_first(name):
    module, _, attribute = f"dynvid.{name}".rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_nets_need_neither_lightning_nor_a_decoder():
    code = "import sys, dynvid; print({'pytorch_lightning', 'av', 'matplotlib', 'jsonargparse'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
