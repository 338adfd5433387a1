"""How Sphinx builds the documentation: `make docs`, without the network."""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
import figures

import dynvid

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "dynvid"
release = version = dynvid.__version__
copyright = "the dynvid contributors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"dynvid {release}"
html_static_path = ["_static"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

myst_heading_anchors = 3  # links to headings, as GitHub has them
myst_enable_extensions = ["colon_fence"]

default_role = "code"  # docstrings have single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes in a list of their own
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
nitpick_ignore_regex = [
    ("py:.*", r"(?!dynvid).*"),  # types of other packages, of which nothing is known without the network
    # Types of the code's own that are handed from one of its parts to the next.
    ("py:class", r"dynvid\..*\.(FrameReader|Grid|Limits|PreparedClip|ProgramStream|Walkable)"),
]

# Documents outside of this folder that are pages of the site: links to the files lead to the pages.
PAGES = {
    "benchmarks/README.md": "results.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}
TABLES = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
PAGES |= {f"benchmarks/results/{table.name}": f"results/{table.name}" for table in TABLES}


def linked_from_here(text: str, folder: Path) -> str:
    """A document with the links of a folder, as they are from this folder, pages of the site by their names."""

    def moved(match: re.Match[str]) -> str:
        path, anchor = match[2], match[3] or ""
        if re.match(r"\w+:", path):
            return match[0]
        target = os.path.relpath(folder / path, ROOT)
        return f"{match[1]}{PAGES.get(target) or os.path.relpath(ROOT / target, HERE)}{anchor})"

    return re.sub(r"(\]\()([^)#\s]+)(#[^)\s]*)?\)", moved, text)


def what_did_not_help(text: str) -> str:
    """The dated lines of the measured results, each below the name of its section."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        lines = re.findall(r"^- \d{4}-\d\d-\d\d, .*(?:\n  .*)*", section, re.MULTILINE)
        if lines:
            found += [f"## {section.splitlines()[0]}", *lines]
    return "\n\n".join(found)


def write_tables() -> None:
    """Make a page of each table of results."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    for table in TABLES:
        text = table.read_text(encoding="utf-8")
        page = text if text.startswith("# ") else f"# {table.stem}\n\n{text}"
        (folder / table.name).write_text(page, encoding="utf-8")


def on_read(app: object, docname: str, source: list[str]) -> None:
    """Prepare a page before it is parsed."""
    if "/" in docname:
        return
    source[0] = linked_from_here(source[0], HERE)
    if "<!-- dated lines -->" in source[0]:
        text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
        lines = re.sub(r"\]\(#", "](README.md#", what_did_not_help(text))
        source[0] = source[0].replace("<!-- dated lines -->", linked_from_here(lines, ROOT / "benchmarks"))


def on_include(app: object, path: Path, docname: str, source: list[str]) -> None:
    """Prepare a document that is included."""
    source[0] = linked_from_here(source[0], (HERE / path).resolve().parent)


def skips(app: object, what: str, name: str, item: object, skip: bool, options: object) -> bool | None:
    """Fields of named tuples: the class says what they are."""
    return True if (getattr(item, "__doc__", "") or "").startswith("Alias for field number") else None


def setup(app: object) -> None:
    """Draw the pictures, write the tables, and prepare what is read."""
    write_tables()
    figures.draw(HERE / "_static")
    app.connect("source-read", on_read)
    app.connect("include-read", on_include)
    app.connect("autodoc-skip-member", skips)
