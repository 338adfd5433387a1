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
    "lazy": set(),
    "extras": {"errors"},
    "recall": {"multilabel", "policy"},
    "routes": {"errors"},
    "multilabel": set(),
    "policy": {"errors", "multilabel"},
    "costs": {"errors"},
    "published": {"errors"},
    "losses": {"errors"},
    "whole": {"errors"},
    "saving": {"whole"},
    "profile": {"errors", "routes"},
    "calibration": {"errors", "policy", "routes", "costs", "profile", "calibration"},
    "outputs": {"errors", "text", "strict_json", "whole", "routes", "policy", "profile", "calibration", "multilabel"},
    "report": {
        *("errors", "text", "strict_json", "whole", "routes", "policy", "calibration", "metrics", "published", "data"),
        *("outputs", "profile", "recall", "multilabel", "report"),
    },
    "metrics": {"errors", "policy", "calibration", "published", "multilabel"},
    "nets": {"errors", "routes", "policy", "costs", "nets"},
    "data": {"errors", "text", "whole", "lazy", "data", "multilabel"},
    "folder": {"errors", "text", "strict_json", "calibration", "nets", "data", "folder"},
    "checkpoint": {"errors", "calibration", "policy", "profile", "nets", "data", "folder"},
    "inference": {
        *("errors", "text", "lazy", "routes", "policy", "costs", "nets", "data", "checkpoint", "calibration"),
        "multilabel",
        *("profile", "extras", "folder", "strict_json", "whole", "outputs", "inference"),
    },
    "showcase": {
        *("errors", "text", "extras", "routes", "policy", "nets", "data", "calibration", "inference", "showcase"),
    },
    "frozen": {"errors", "text", "strict_json", "nets", "data", "checkpoint"},
    "module": {
        *("inference", "frozen"),
        *("errors", "calibration", "checkpoint", "losses", "metrics", "nets", "policy", "data", "saving"),
        *("outputs", "profile", "recall", "multilabel"),
    },
    "callbacks": {
        *("errors", "text", "strict_json", "calibration", "metrics", "module", "published", "whole", "callbacks"),
        *("outputs", "recall", "report", "checkpoint", "multilabel"),
    },
    "commands": {
        *(
            "errors",
            "text",
            "strict_json",
            "packaged",
            "callbacks",
            "checkpoint",
            "commands",
            "data",
            "folder",
            "module",
        ),
        *(
            "calibration",
            "extras",
            "inference",
            "multilabel",
            "outputs",
            "policy",
            "profile",
            "report",
            "routes",
            "saving",
            "showcase",
        ),
        *("nets", "recall", "saving", "showcase", "whole"),
    },
    "__main__": {"cli"},
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


@pytest.fixture
def comes_with():
    """What heavy packages lines of code bring along, in a process of their own."""

    def run(*lines):
        code = "\n".join(["import sys", *lines, f"print(*({HEAVY!r} & set(sys.modules)))"])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return set(done.stdout.splitlines()[-1].split())

    return run


TRAINING = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "jsonargparse", "tensorboard"}
HEAVY = TRAINING | {"torch", "timm", "av", "numpy", "matplotlib", "pyarrow", "rich", "yaml"}


def test_importing_the_package_brings_nothing_along(comes_with):
    assert comes_with("import dynvid, dynvid.data, dynvid.commands, dynvid.cli") == set()


def test_nets_need_neither_lightning_nor_a_decoder(comes_with):
    brought = comes_with("from dynvid import DepthExitNet", "import dynvid.nets.spec, dynvid.checkpoint")
    assert brought & (TRAINING | {"av", "matplotlib", "pyarrow"}) == set()


def test_reading_videos_needs_neither_lightning_nor_nets(comes_with):
    names = "VideoReader, collate, eval_transform, segment_indices"
    brought = comes_with("import dynvid.data.video, dynvid.data.dataset", f"from dynvid.data import {names}")
    assert brought & (TRAINING | {"timm", "matplotlib", "pyarrow"}) == set()


@pytest.mark.slow
def test_one_kind_of_data_set_brings_all_so_that_short_names_are_known():
    code = "from dynvid.data import VideoDataModule\nprint(len(VideoDataModule.__subclasses__()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    public = [name for name in dynvid.data.__all__ if name.endswith("DataModule")]
    assert int(done.stdout) >= len(public) - 3  # all but itself and two that are kinds of another kind


LAZY = ["dynvid", "dynvid.data", "dynvid.inference"]


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_those_that_type_checkers_see(package):
    module = importlib.import_module(package)
    (only_types,) = (node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {node.module: [alias.name for alias in node.names] for node in only_types.body}
    (call,) = (node for branch in only_types.orelse for node in ast.walk(branch) if isinstance(node, ast.Call))
    assert ast.literal_eval(call.args[1]) == seen
    names = [name for listed in seen.values() for name in listed]
    assert sorted(names) == sorted(module.__all__)
    for home_of, listed in seen.items():
        for name in listed:
            assert getattr(module, name) is getattr(importlib.import_module(home_of), name)
    files = {path.stem for path in Path(module.__file__).parent.iterdir()}
    assert not files & set(names), "a file of that name would be found instead"


@pytest.mark.parametrize("package", LAZY)
def test_lazy_packages_look_like_others(package):
    module = importlib.import_module(package)
    names = {}
    exec(f"from {package} import *", names)
    assert set(module.__all__) <= set(names)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {package} import nothing")


@pytest.mark.slow
def test_files_of_lazy_packages_are_attributes():
    code = "import dynvid\ndynvid.policy.SCORES, dynvid.nets.MSDNet, dynvid.data.video.VideoReader, dynvid.costs"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "usage: dynvid COMMAND"),
        (["--version"], dynvid.__version__),
        (["clasify", "a.ckpt"], "there is no command 'clasify'; did you mean classify? `dynvid --help` lists them"),
        (["rprt"], "there is no command 'rprt'; did you mean report?"),
        (["xyzzy"], "there is no command 'xyzzy'; `dynvid --help` lists them"),
        (["classify", "--help"], "usage: dynvid classify"),
        (["classify"], "required: checkpoint, paths"),
        (["classify", "a.ckpt", "b.mp4", "--jsn"], "--jsn: no such key; did you mean --json?"),
        (["benchmark", "--help"], "usage: dynvid benchmark"),
        (["benchmark", "--backbone", "resnet50"], "--backbone has random weights"),
        (["report", "--help"], "usage: dynvid report"),
        (["report"], "required: run"),
        (["report", "run", "--outptu", "x"], "--outptu: no such key; did you mean --output?"),
    ],
)
def test_help_and_mistakes_are_said_by_the_standard_library_alone(arguments, said, comes_with):
    lines = ["import contextlib, io", "from dynvid.cli import main", "out = io.StringIO()"]
    lines += ["with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):"]
    assert comes_with(*lines, f"    main({arguments})", f"assert {said!r} in out.getvalue(), out.getvalue()") == set()
