"""The documentation: its code runs, its commands parse, its pictures are drawn by the code, and no name is missing."""

import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dynvid import ThresholdPolicy, UnifiedExitNet
from dynvid.cli import main
from dynvid.commands.arguments import Arguments
from dynvid.data import SyntheticDataModule
from dynvid.data.synthetic import draw_scene, render, write_clip
from dynvid.inference import Recognizer, Row
from dynvid.inference.bulk.results import Results
from dynvid.outputs import Outputs

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted([REPOSITORY / "README.md", *DOCS.glob("*.md")])
PACKAGES = ["", ".calibration", ".callbacks", ".commands", ".data", ".folder", ".inference", ".nets", ".report"]
UNFINISHED = re.compile(r"arguments are required|expected (at least )?one argument")
WITH_CONFIG = {"fit", "validate", "test", "predict", "calibrate", "check", "pack"}


def blocks(page, language):
    """The code blocks of a page in a language, less those with a reason above them not to be run."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^(<!-- not run: .+ -->\n)?```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for not_run, code in found if not not_run]


def commands(page):
    """The command lines of dynvid in the blocks of a page, without comments, and those in its text."""
    lines = [line.strip() for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`(dynvid\s[a-z]+\s[^`]+)`", prose)
    words = ([line[1:] for line in map(split, part) if line[:1] == ["dynvid"]] for part in (lines, spans))
    return tuple(words)


def split(line):
    return shlex.split(line, comments=True)


class ParsedError(Exception):
    """A command was understood; nothing of it is done."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """Parse a command line by the command's own parser; the error, or nothing."""

    def understood(parser, words):
        super(Arguments, parser).parse_args(words)
        raise ParsedError

    def intermixed(parser, words):
        super(Arguments, parser).parse_intermixed_args(words)
        raise ParsedError

    def parsed(words):
        try:
            main([*words, "--print_config"] if words[0] in WITH_CONFIG else words)
        except ParsedError:
            return None
        except SystemExit as end:
            return capsys.readouterr().err if end.code else None
        return "was run"

    monkeypatch.setattr(Arguments, "parse_args", understood)
    monkeypatch.setattr(Arguments, "parse_intermixed_args", intermixed)
    return parsed


def write_configs(page):
    """Write the configs that a page shows, whose first line says what the file is called."""
    for block in blocks(page, "yaml"):
        if name := re.match(r"# (\w+\.yaml)", block):
            Path(name[1]).write_text(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page, parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_configs(page)
    lines, spans = commands(page)
    wrong = {shlex.join(words): error for words in lines + spans if (error := parse(words))}
    for words in spans:  # text may name an option without the rest of the command
        if UNFINISHED.search(wrong.get(shlex.join(words), "")):
            del wrong[shlex.join(words)]
    assert wrong == {}


def test_training_options_parse(parse):
    rows = re.findall(r"^\|.*`(--.+)`.*\|$", (DOCS / "training.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 8
    assert {row: error for row in rows if (error := parse(["fit", "--config", "ucf101.yaml", *shlex.split(row)]))} == {}


def test_a_wrong_option_does_not_parse(parse):
    assert "--worker" in parse(["classify", "best.ckpt", "clip.mp4", "--worker", "2"])
    assert "trainer.epochs" in parse(["fit", "--config", "quickstart.yaml", "--trainer.epochs", "2"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What the pages take for granted: a model, clips, a long video, recorded outputs, results of many files."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("docs")
    data = SyntheticDataModule(folder / "clips", clips_per_class=4, clip_frames=8, size=32)
    data.prepare_data()
    net = UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32)
    Recognizer(net, ThresholdPolicy(thresholds=[0.12, 0.12, 0.12, 0.0]), data.class_names).save(folder / "best.ckpt")
    shutil.copytree(folder / "best.ckpt", folder / "model")
    rng = np.random.default_rng(0)
    write_clip(folder / "clip.mp4", render(draw_scene("left", rng), 12, 32))
    shots = [render(draw_scene(name, rng), 24, 32) for name in ("ring", "up")]
    write_clip(folder / "long.mp4", np.concatenate(shots))
    names = [f"{n}.mp4" for n in range(40)]
    Outputs(
        logits=torch.randn(4, 40, 10),
        labels=torch.arange(40) % 10,
        paths=names,
        recordings=names,
        route=net.route,
        gmacs=net.gmacs,
        full_gmacs=net.full_gmacs,
        policy=ThresholdPolicy(4),
        point=None,
        split="val",
    ).save(folder / "outputs_val.parquet")
    with Results(folder / "results", {}) as results:
        results.take("clip.mp4")
        results.add(Row("clip.mp4", label="left", probability=0.9))
        results.finish()
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_code_runs(page, prepared, tmp_path, monkeypatch):
    folder = shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(folder)
    names = {"__name__": "page"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


def test_what_is_not_run_says_why():
    marks = [line for page in PAGES for line in re.findall(r"^<!-- not run:.*$", page.read_text("utf-8"), re.MULTILINE)]
    assert marks
    assert all(re.fullmatch(r"<!-- not run: \w.* -->", line) for line in marks)


def test_every_public_name_is_in_the_api():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = []
    for module, name in re.findall(r"^\.\. auto\w+:: ([\w.]+)\.(\w+)$", pages, re.MULTILINE):
        documented.append(getattr(importlib.import_module(module), name))
    missing = []
    for package in PACKAGES:
        module = importlib.import_module(f"dynvid{package}")
        names = [name for name in module.__all__ if not any(getattr(module, name) is found for found in documented)]
        missing += [f"{module.__name__}.{name}" for name in names]
    assert missing == []


def test_pictures_are_what_the_code_draws(tmp_path):
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    drawn = figures.draw(tmp_path)
    assert {path.name for path in drawn} == {path.name for path in (DOCS / "_static").glob("*.svg")}
    for path in drawn:  # what is said and which colours cells have; outlines may differ by versions of matplotlib
        now, kept = (said_and_coloured(file) for file in (path, DOCS / "_static" / path.name))
        assert len(now) > 20
        assert now == kept


def said_and_coloured(file):
    return re.findall(r"<text.*?>(.*?)</text>|fill: (#\w+)", file.read_text(encoding="utf-8"))


def test_the_dated_lines_are_found():
    text = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    source = (DOCS / "conf.py").read_text(encoding="utf-8")
    found = {"re": re}
    exec(source[source.index("def what_did_not_help") : source.index("def write_tables")], found)
    lines = found["what_did_not_help"](text)
    assert lines.count("\n- 20") == len(re.findall(r"^- \d{4}-\d\d-\d\d", text, re.MULTILINE)) > 5
    assert lines.startswith("## ")
