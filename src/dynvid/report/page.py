"""The report as one page that needs no network, as Markdown, and as JSON."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import dynvid
from dynvid import strict_json
from dynvid.outputs import Outputs
from dynvid.published import Dataset
from dynvid.recall import FIGURES
from dynvid.report.curve import Thresholds
from dynvid.report.figures import curve_figure, exits_figure, risk_figure, shares_figure
from dynvid.report.gallery import make_gallery
from dynvid.report.summary import summarise
from dynvid.report.words import percent
from dynvid.text import printable
from dynvid.whole import write_whole

FOLDED = 20  # a table of more classes than these is folded away
FEW = 20  # points of the curve that Markdown lists
LONGEST = 300  # characters of one entry about the run


class Report(NamedTuple):
    """A report before it is written.

    Attributes:
        summary: What `summarise` gives.
        files: The content of `report.html`, `report.md` and `report.json` by name.
    """

    summary: dict[str, Any]
    files: dict[str, bytes]

    def write(self, folder: str | Path) -> None:
        """Write the files, each whole or not at all; the folder is made where it is missing.

        Raises:
            InputError: One cannot be written.
        """
        for name, content in self.files.items():
            write_whole(Path(folder, name), content)


def write_report(
    outputs: Outputs,
    folder: str | Path,
    curve_thresholds: Thresholds | None = None,
    published: Dataset | None = None,
    gallery: bool = True,
) -> dict[str, Any]:
    """Write `report.html`, `report.md` and `report.json`, each whole or not at all.

    Args:
        outputs: Recorded outputs.
        folder: Where the files go; made where it is missing.
        curve_thresholds: As for `summarise`.
        published: A data set of `dynvid.published` whose rows the figure shows beside the curve.
        gallery: Whether to show frames of a few videos, as far as these are still where they were.

    Returns:
        What `summarise` gives, which is what the JSON holds.

    Raises:
        ValueError: The outputs cannot be reported, or a file cannot be written.
    """
    report = render_report(outputs, curve_thresholds, published, gallery)
    report.write(folder)
    return report.summary


def render_report(
    outputs: Outputs,
    curve_thresholds: Thresholds | None = None,
    published: Dataset | None = None,
    gallery: bool = True,
) -> Report:
    """The report of recorded outputs; arguments as for `write_report`."""
    summary = summarise(outputs, curve_thresholds)
    shown = {
        "summary": summary,
        "about": _about(summary),
        "facts": facts(summary),
        "version": dynvid.__version__,
        "folded": len(summary["classes"]) > FOLDED,
        "few": _few(summary["curve"]),
        "others": {name: word for name, word in FIGURES.items() if name in summary["full"]},
        "sets": "map" in summary["full"],
        "tempered": any(e["temperature"] != 1 for e in summary["exits"]),
    }
    figures = {
        "curve": curve_figure(summary, published),
        "shares": shares_figure(summary),
        "exits": exits_figure(summary),
    }
    if summary["time"]:
        figures["time"] = curve_figure(summary, cost="milliseconds")
    if summary["answers"]["risk"]:
        figures["risk"] = risk_figure(summary)
    pictures = make_gallery(outputs) if gallery else None
    html = _environment(html=True).get_template("page.html.jinja").render(shown, figures=figures, gallery=pictures)
    markdown = _environment(html=False).get_template("page.md.jinja").render(shown)
    files = {"report.html": html, "report.md": markdown, "report.json": strict_json.dumps(summary, indent=2) + "\n"}
    return Report(summary, {name: text.encode() for name, text in files.items()})


def facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What was run, as names and texts."""
    listed: dict[str, Any] = {
        "weights": summary["weights"] or "not named",
        "split": summary["split"],
        "videos": summary["videos"],
        "recordings": summary["recordings"],
        "classes": summary["num_classes"],
        "score": summary["score"],
    }
    return [(name.replace("_", " "), _fact(value)) for name, value in (listed | summary["run"]).items()]


def _few(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points of a curve, evenly spaced in cost, with both ends."""
    if len(curve) <= FEW:
        return curve
    costs = np.asarray([point["gmacs"] for point in curve])
    steps = np.linspace(costs[0], costs[-1], FEW)
    return [curve[n] for n in sorted({int(np.abs(costs - step).argmin()) for step in steps})]


def _about(summary: dict[str, Any]) -> str:
    """What was looked at, in one line."""
    kinds = {"videos": "video", "recordings": "recording", "num_classes": "class"}
    counts = {word: summary[key] for key, word in kinds.items()} | {"exit": len(summary["exits"])}
    video, recording, classes, exits = (
        f"{count:,} {word}{('es' if word == 'class' else 's') * (count != 1)}" for word, count in counts.items()
    )
    without = "" if summary["labelled"] else "; without labels"
    counted = f"{video} of {recording}, {exits}, {classes}{without}"
    return f"{counted}. Intervals hold with 95 % confidence, counted by recording."


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_fact(inside)}" for key, inside in value.items())
    elif isinstance(value, list):
        text = ", ".join(map(_fact, value))
    else:
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def _environment(html: bool) -> Environment:
    """Where templates are filled in: whatever is no template is escaped, and made to steer no terminal."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain if html else _markdown,
    )
    environment.filters |= {"percent": percent, "number": _number, "interval": _interval, "threshold": _threshold}
    environment.filters["tied"] = _tied
    return environment


def _plain(value: Any) -> Any:
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)


def _markdown(value: Any) -> Any:
    """A text in which no character is Markdown or HTML."""
    if not isinstance(value, str):
        return value
    text = printable(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)


def _tied(text: str) -> str:
    """No line ends between a number and its sign."""
    return text.replace(" %", "\u00a0%")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(interval: list[float]) -> str:
    low, high = interval
    return f"{100 * low:z.1f} to {100 * high:z.1f}"


def _threshold(value: float | str | None) -> str:
    """A threshold in words: infinity switches an exit off, and the last accepts everything."""
    number = float("-inf" if value is None else value)
    return "off" if number == float("inf") else "none" if number == float("-inf") else f"{number:.4f}"
