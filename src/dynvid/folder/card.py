"""The model card: what a person, and the hub, want to know of a model before they use it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dynvid
from dynvid.calibration import OperatingPoint, Reject
from dynvid.errors import InputError
from dynvid.folder.files import Int8
from dynvid.nets import ExitNet
from dynvid.text import printable

FRONT_MATTER = """\
---
library_name: dynvid
pipeline_tag: video-classification
tags:
- video-classification
- action-recognition
- early-exit
- dynamic-inference
---
"""
LISTED = 400  # classes; Kinetics has as many


class Card(NamedTuple):
    """What a card can say beyond the checkpoint.

    Attributes:
        report: What `report.json` holds, of these weights and thresholds.
        graphs: The graphs that the folder holds, such as `onnx`.
        int8: What is known of the int8 graphs.
    """

    report: Mapping[str, Any] | None = None
    graphs: Sequence[str] = ()
    int8: Int8 | None = None


def model_card(checkpoint: Mapping[str, Any], net: ExitNet, more: Card | None = None) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    Args:
        checkpoint: As `read_checkpoint` gives it, checked.
        net: The net in it.
        more: What else there is to say.

    Raises:
        ValueError: The report has other parts than one of dynvid.
    """
    more = more or Card()
    saved, given = checkpoint["dynvid"], net.spec()["init_args"]
    plain = saved.get("operating_point")
    promise = "no promise: thresholds were not calibrated" if plain is None else str(OperatingPoint.from_plain(plain))
    name, kind = text(given["backbone"]), type(net).__name__
    sets = ", each with a set of classes that may be empty," if saved.get("multi_label") else ""
    said = [
        FRONT_MATTER,
        f"# {name}, {kind}, {net.num_classes} classes",
        f"Labels videos{sets} by up to {net.num_frames} frames of {net.input_size} x {net.input_size} pixels, and "
        f"stops at the first of {len(net.route)} exits that is sure enough (shift {text(given['shift'])}).",
        f"**Operating point:** {text(promise)}.",
        *([f"**Answers:** {text(Reject.from_plain(saved['reject']))}."] if saved.get("reject") is not None else []),
        _usage(more.graphs),
        _exits(checkpoint, net),
        *([_figures(more.report)] if more.report is not None else []),
        *([_int8(more.int8)] if more.int8 is not None else []),
        _classes(saved["class_names"], net.num_classes, saved.get("background")),
        f"Written by dynvid {dynvid.__version__}.",
    ]
    return "\n\n".join(part.rstrip("\n") for part in said) + "\n"


def text(value: object) -> str:
    """A text in which no character is Markdown or HTML.

    >>> text("a_b <c>")
    'a\\\\_b &lt;c&gt;'
    """
    escaped = printable(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)


def _usage(graphs: Sequence[str]) -> str:
    read = {"onnx": ["onnx"], "openvino": ["openvino", "onnx"]}  # in float32; int8 has a part of its own
    runtimes = [f"`{name}`" for name, folders in read.items() if set(folders) & set(graphs)]
    lines = [
        "## Use",
        "",
        "```bash",
        "dynvid classify FOLDER clip.mp4",
        "```",
        "",
        "```python",
        "from dynvid.inference import Recognizer",
        "",
        'recognizer = Recognizer.load("FOLDER")  # or "user/name" on the hub',
        'found = recognizer("clip.mp4")  # found.label, .probability, .exit, .gmacs',
        "```",
    ]
    if runtimes:
        lines += ["", f'`Recognizer.load("FOLDER", runtime=...)` takes {" and ".join(runtimes)} too.']
    return "\n".join(lines)


def _exits(checkpoint: Mapping[str, Any], net: ExitNet) -> str:
    *costs, full = checkpoint["dynvid"].get("gmacs") or [*net.gmacs, net.full_gmacs]
    thresholds = checkpoint["state_dict"]["policy.thresholds"].tolist()
    rows = [
        "## Exits",
        "",
        "| exit | frames | depth | GMACs | of full inference | threshold |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for number, (cell, cost, level) in enumerate(zip(net.route, costs, thresholds, strict=True), 1):
        last = number == len(net.route)
        said = "none" if last or level == -math.inf else "off" if level == math.inf else f"{level:.4f}"
        rows.append(f"| {number} | {cell.frames} | {cell.depth} | {cost:.4g} | {100 * cost / full:.1f} % | {said} |")
    score = text(checkpoint["dynvid"]["score"])
    rows += ["", f"Full inference, with the last head only, takes {full:.4g} GMACs per video. The score is {score}."]
    return "\n".join(rows)


def _figures(report: Mapping[str, Any]) -> str:
    """The report's figures.

    Raises:
        ValueError: It has other parts than a report of dynvid.
    """
    try:
        measure, full, dynamic = report["measure"], report["full"], report["dynamic"]
        word = text(report.get("measure_name", "top-1" if measure == "accuracy" else "agreement"))
        videos = f"{int(report['videos']):,} videos of {text(report['split'])}"
        data = report["run"].get("data")
        of = f"{videos}, {text(data)}" if data is not None else videos
        rows = [
            "## Figures",
            "",
            f"On {of}; intervals hold with 95 % confidence.",
            "",
            f"| | {word} | GMACs |",
            "|---|--:|--:|",
            f"| full inference | {_share(full[measure], report['intervals']['full'])} | {full['gmacs']:.4g} |",
            f"| dynamic inference | {_share(dynamic[measure], report['intervals']['dynamic'])} "
            f"| {dynamic['gmacs']:.4g} |",
        ]
        rows += [
            f"| all at exit {number} | {_share(e[measure], e['interval'])} | {e['gmacs']:.4g} |"
            for number, e in enumerate(report["exits"], 1)
        ]
        happened, saved = report["headline"]["happened"], report["headline"]["saved"]
        return "\n".join([*rows, "", text(saved), "", text(happened)])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"the report has other parts than one of dynvid ({type(error).__name__}: {error})") from error


def _int8(int8: Int8) -> str:
    rows = [
        "## int8",
        "",
        '`Recognizer.load("FOLDER", runtime="openvino", precision="int8")` has thresholds of its own, found on the '
        f"outputs of the int8 graphs. **Its operating point:** {text(int8.point)}.",
        "",
        f"Against float32, on the same {int8.videos} videos:",
        "",
        "| exit | same label | largest difference of logits |",
        "|--:|--:|--:|",
    ]
    pairs = zip(int8.same_label, int8.largest_difference, strict=True)
    rows += [f"| {number} | {100 * same:.1f} % | {most:.3g} |" for number, (same, most) in enumerate(pairs, 1)]
    return "\n".join(rows)


def _classes(names: Sequence[str] | None, count: int, background: str | None) -> str:
    if names is None:
        return f"## Classes\n\n{count}, without names."
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    none = "" if background is None else f"\n\nVideos that show none of the others are {text(background)}."
    return f"## Classes\n\n{', '.join(map(text, names[:LISTED]))}{more}{none}"


def _share(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
