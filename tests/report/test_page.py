"""The page: whole, safe with names that strangers chose, and the same as its Markdown."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from dynvid.errors import InputError
from dynvid.report import render_report, write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "{{7*7}}{% raw %}",
    '"><img src=x onerror=alert(1)>',
    "pipe | *star* `tick` [link](http://example.org)",
    "\x1b[2Jcleared\nline \u202egnp",
    "caf\udce9",
]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that close as they opened, what they load, and the cells of the tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def markdown_tables(text):
    tables = []
    for line, before in zip(text.splitlines(), ["", *text.splitlines()], strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            if not re.fullmatch(r"[\s|:-]+", line) or not line.strip("| "):
                tables[-1].append([html.unescape(re.sub(r"\\(.)", r"\1", cell)).strip() for cell in cells])
    return tables


@pytest.fixture(scope="module")
def hostile(make_outputs):
    outputs = make_outputs(videos=60)
    paths = [f"{HOSTILE[n % 6]}/{n}.mp4" for n in range(60)]
    run = outputs.run | {"data": HOSTILE[0], "versions": {HOSTILE[0]: HOSTILE[3]}, "frame_order": [*range(8)]}
    return replace(
        outputs, class_names=HOSTILE, paths=paths, recordings=paths, split=HOSTILE[0], weights=HOSTILE[1], run=run
    )


def test_names_of_strangers_are_text(hostile, tmp_path):
    write_report(hostile, tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "link", "a"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [1 for tag, _ in page.tags if tag == "img"]
    for shown in (*HOSTILE[:4], r"\x1b[2Jcleared\x0aline \u202egnp", r"caf\xe9"):
        assert shown in page.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\udc80-\udcff]", source)


def test_in_markdown_they_are_text_too(hostile, tmp_path):
    write_report(hostile, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<" not in text
    assert re.search(r"&lt;script&gt;alert\(1\)&lt;/script&gt;", text)
    assert r"pipe \| \*star\* \`tick\` \[link\](http" in text
    assert "\x1b" not in text
    for table in markdown_tables(text):
        assert len({len(row) for row in table}) == 1


def test_json_names_the_very_paths(hostile, tmp_path):
    write_report(hostile, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="ascii"), parse_constant=pytest.fail)
    assert {v["path"] for v in report["slowest"]} <= set(hostile.paths)


CASES = {
    "labelled": {},
    "unlabelled": {"labelled": False},
    "recordings": {"per_recording": 4},
    "few classes": {"classes": 3},
    "one exit": {"exits": 1},
    "tiny": {"videos": 3, "classes": 1, "exits": 1, "curve": 0},
    "many classes": {"classes": 30, "videos": 200},
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_needs_nothing_else(make_outputs, case):
    source = render_report(make_outputs(**CASES[case])).files["report.html"].decode()
    page = Page(source)
    assert not re.search(r"https?://|//[a-z]|url\(|@import|file:", source)
    assert not [(name, value) for _, a in page.tags for name, value in a.items() if name in ("src", "href")]
    assert len(source.encode()) < 2_000_000
    tags = [tag for tag, _ in page.tags]
    assert tags.count("title") == 1 + tags.count("svg") == (4 if case == "unlabelled" else 5)
    assert tags.count("h1") == 1
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags
    assert any(a.get("name") == "viewport" for tag, a in page.tags if tag == "meta")
    assert "prefers-color-scheme: dark" in source


@pytest.mark.parametrize("case", CASES)
def test_page_and_markdown_hold_the_same_tables(make_outputs, case):
    files = render_report(make_outputs(**CASES[case])).files
    shown = [[[cell.strip() for cell in row] for row in table] for table in Page(files["report.html"].decode()).tables]
    written = markdown_tables(files["report.md"].decode())
    assert written[-1][0] == ["", ""]  # a heading that Markdown needs
    written[-1] = written[-1][1:]
    assert shown == written
    assert len(shown) >= 5


def test_tables_show_the_figures_of_the_json(make_outputs):
    made = render_report(make_outputs())
    summary, tables = made.summary, Page(made.files["report.html"].decode()).tables
    exits = next(table for table in tables if table[0][0] == "exit")
    for row, e in zip(exits[1:], summary["exits"], strict=True):
        assert row[1:5] == [str(e["frames"]), str(e["depth"]), f"{e['gmacs']:.4g}", f"{100 * e['accuracy']:.1f} %"]
        assert f"{100 * e['share']:.1f} %" in row
    classes = next(table for table in tables if table[0][0] == "class")
    assert [(row[0], row[1]) for row in classes[1:]] == [(c["class"], str(c["videos"])) for c in summary["classes"]]
    text = Page(made.files["report.html"].decode()).text
    assert f"{100 * summary['saved']:.1f}\u00a0% of full inference's cost saved" in text


def test_many_classes_are_folded_away(make_outputs):
    few = render_report(make_outputs(curve=0)).files["report.html"].decode()
    many = render_report(make_outputs(classes=30, videos=300, curve=0)).files["report.html"].decode()
    assert ("details" in [tag for tag, _ in Page(few).tags], "30 classes</summary>" in many) == (False, True)


def test_the_first_lines_say_that_savings_mean_nothing(make_outputs):
    outputs = make_outputs()
    outputs = replace(outputs, labels=torch.zeros_like(outputs.labels))
    text = Page(render_report(outputs).files["report.html"].decode()).text
    assert text.index("savings mean nothing here") < text.index("Operating point") < text.index("What happened")
    assert text.index("What happened") < text.index("Saved") < text.index("Accuracy against cost")


def test_without_a_gallery_nothing_is_opened(make_outputs, monkeypatch):
    monkeypatch.setattr("dynvid.report.gallery.open_video", pytest.fail)
    assert "What the net looked at" not in render_report(make_outputs(), gallery=False).files["report.html"].decode()


def test_a_folder_that_cannot_be_written_says_so(make_outputs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"report.html: cannot be written"):
        write_report(make_outputs(), tmp_path / "file")


def test_published_rows_are_drawn_and_named(make_outputs):
    source = render_report(make_outputs(), published="ucf101").files["report.html"].decode()
    assert "TSM ResNet-50 16f" in Page(source).text
    assert "logarithmic" in source
    unlabelled = render_report(make_outputs(labelled=False), published="ucf101").files["report.html"].decode()
    assert "TSM" not in unlabelled  # agreement is no accuracy
