"""What the project file, the Makefile and the workflows promise."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dynvid.extras import EXTRA_OF

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
in_clone = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@in_clone
@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_run_what_was_reviewed_and_hold_no_secret(file):
    text = file.read_text()
    workflow = yaml.safe_load(text)
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert len(re.findall(r"uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", text, re.MULTILINE)) == len(used)
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "secrets" not in text


@in_clone
def test_a_scheduled_job_takes_the_newest_of_everything():
    scheduled = {}
    for file in WORKFLOWS:
        workflow = yaml.safe_load(file.read_text())
        events = workflow[True]  # `on`, as YAML 1.1 reads it
        if "schedule" in events:
            assert all(len(entry["cron"].split()) == 5 for entry in events["schedule"])
            assert "workflow_dispatch" in events
            scheduled |= workflow["jobs"]
    assert "make test-newest" in {step.get("run") for job in scheduled.values() for step in job["steps"]}
    recipe = (REPOSITORY / "Makefile").read_text().split("\ntest-newest:")[1].split("\n\n")[0]
    assert "--upgrade --prerelease allow" in recipe


@in_clone
def test_each_extra_is_installed_alone():
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"]
    extras = {"base", *PROJECT["optional-dependencies"]}
    assert set(jobs["extras"]["strategy"]["matrix"]["extra"]) == extras
    makefile = (REPOSITORY / "Makefile").read_text()
    assert set(re.search(r"^EXTRAS \?= (.*)$", makefile, re.MULTILINE)[1].split()) == extras
    assert {name for name in extras if f"\nuse-{name} := " in makefile} == extras


def test_packages_of_extras_are_imported_by_one_function_and_come_with_the_extra_that_it_names():
    for module, extra in EXTRA_OF.items():
        listed = [Requirement(line).name for line in PROJECT["optional-dependencies"][extra]]
        assert canonicalize_name(module) in map(canonicalize_name, listed)
    asked = {
        node.args[0].value.partition(".")[0]
        for file in (REPOSITORY / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require" and isinstance(node.args[0], ast.Constant)
    }
    assert asked <= EXTRA_OF.keys()


def test_the_package_imports_nothing_that_the_base_install_lacks():
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    imported = set()
    for file in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    providers = packages_distributions()
    foreign = imported - sys.stdlib_module_names - {"dynvid"}
    assert "torch" in foreign
    assert not {name for name in foreign if declared.isdisjoint(map(canonicalize_name, providers[name]))}


@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [("pytorch-lightning", ("2.6.4", "2.6.5", "3.0"), "2.6.6"), ("jsonargparse", ("4.50", "5.0.0"), "4.53")],
)
def test_bounds(name, refused, taken):
    (bound,) = (Requirement(line).specifier for line in PROJECT["dependencies"] if Requirement(line).name == name)
    assert not [version for version in refused if version in bound]
    assert taken in bound


def test_the_metadata_names_no_address_that_does_not_exist():
    assert "urls" not in PROJECT


def links(text):
    """What Markdown links and images lead to, and those of HTML; not what stands in code."""
    prose = re.sub(r"^(`{3,}).*?^\1|(`+)[^`].*?\2", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(
        r"""\]\(<?([^)\s>]+)[^)]*\)|^\[[^\]]+\]:\s*<?([^\s>]+)|(?:src|href)=["']([^"']+)""", prose, re.MULTILINE
    )
    return ["".join(groups) for groups in found]


def anchors(file):
    headings = re.findall(r"^#+ (.+?)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@in_clone
def test_every_relative_link_in_the_documents_leads_somewhere():
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    documents = [REPOSITORY / name for name in tracked.stdout.splitlines()]
    local = [(file, link) for file in documents for link in links(file.read_text(encoding="utf-8"))]
    local = [(file, link) for file, link in local if not re.match("[a-z]+:", link)]
    assert {"README.md", "benchmarks/README.md"} <= {str(file.relative_to(REPOSITORY)) for file, _ in local}
    dead = []
    for file, link in local:
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(f"{file.relative_to(REPOSITORY)}: {link}")
    assert dead == []


def test_links_are_found():
    text = "[a](b/c.md#d) ![e](<f.png>) `[no](code.md)`\n```sh\n[no](block.md)\n```\n[g]: h.md\n<img src='i'> [j](k)"
    assert links(text) == ["b/c.md#d", "f.png", "h.md", "i", "k"]
