"""What the figures draw, read back from the SVG."""

import re
from xml.etree import ElementTree

import pytest

from dynvid.report import summarise
from dynvid.report.figures import curve_figure, exits_figure, shares_figure


def parsed(source):
    return ElementTree.fromstring(source)


def texts(svg):
    return [text.text for text in svg.iter("text")]


def scale(svg, anchor, axis):
    """From a place on the paper to a value, by the names of two ticks."""
    ticks = [(float(t.get(axis)), t.text) for t in svg.iter("text") if t.get("text-anchor") == anchor]
    ticks = [(place, float(text)) for place, text in ticks if re.fullmatch(r"[\d.]+", text)]
    (a, low), (b, high) = ticks[0], ticks[-1]
    return lambda place: low + (place - a) / (b - a) * (high - low)


def test_the_curve_lies_where_its_figures_are(make_outputs):
    summary = summarise(make_outputs())
    svg = parsed(curve_figure(summary))
    x, y = scale(svg, "middle", "x"), scale(svg, "end", "y")
    (line,) = [path.get("d") for path in svg.iter("path") if path.get("class") == "curve" and "L" in path.get("d")]
    drawn = [tuple(map(float, point.split())) for point in line[1:].split("L")]
    for (left, top), p in zip(drawn, summary["curve"], strict=True):
        assert x(left) == pytest.approx(p["gmacs"], abs=0.03)
        assert y(top + 4) == pytest.approx(100 * p["accuracy"], abs=0.3)  # a tick's text stands 4 below its line
    marks = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")][: len(summary["exits"])]
    for (left, top), e in zip(marks, summary["exits"], strict=True):
        assert (x(left), y(top + 4)) == pytest.approx((e["gmacs"], 100 * e["accuracy"]), abs=0.3)


def test_the_figure_says_what_it_shows(make_outputs):
    said = texts(parsed(curve_figure(summarise(make_outputs(per_recording=2)))))
    assert "Top-1 against mean cost per video" in said
    assert "40 videos of 20 recordings, test" in said
    assert {"operating point", "curve, 95 % band", "full inference", "exits drawn at random", "oracle exit"} <= set(
        said
    )


@pytest.mark.parametrize(("labels", "zoomed"), [("as they are", False), ("full inference's", True)])
def test_an_axis_that_does_not_start_at_0_says_so(make_outputs, labels, zoomed):
    summary = summarise(make_outputs())
    if zoomed:
        for entry in (*summary["exits"], *summary["curve"], summary["dynamic"], summary["full"]):
            entry["accuracy"] = 0.93 + 0.05 * entry["accuracy"]
            entry["interval"] = [entry["accuracy"]] * 2
        for bound in summary["bounds"].values():
            for corner in bound["corners"]:
                corner["accuracy"] = 0.93 + 0.05 * corner["accuracy"]
    svg = parsed(curve_figure(summary))
    marked = any("axis does not start at 0" in text for text in texts(svg))
    y = scale(svg, "end", "y")
    bottom = max(float(line.get("y1")) for line in svg.iter("line") if line.get("class") == "grid")
    assert marked is zoomed
    assert (y(bottom + 4) > 0.5) is zoomed


def test_the_legend_covers_nothing(make_outputs):
    svg = parsed(curve_figure(summarise(make_outputs()), "kinetics400"))
    floor = max(float(line.get("y1")) for line in svg.iter("line") if line.get("class") == "grid")
    named = [float(text.get("y")) for text in svg.iter("text") if text.text in ("operating point", "oracle exit")]
    assert min(named) > floor + 30
    assert max(float(text.get("y")) for text in svg.iter("text")) < float(svg.get("viewBox").split()[3])


def test_shares_fill_the_bar(make_outputs):
    summary = summarise(make_outputs())
    svg = parsed(shares_figure(summary))
    bars = [float(bar.get("width")) for bar in svg.iter("rect") if bar.get("height") == "26"]
    expected = [e["share"] for e in summary["exits"] if e["share"]]
    assert [(bar + 1.5) / 420 for bar in bars] == pytest.approx(expected, abs=0.001)
    for k, e in enumerate(summary["exits"], 1):
        assert f"exit {k}, {e['frames']}×{e['depth']}: {100 * e['share']:.1f} %" in texts(svg)


def test_bars_are_as_high_as_exits_are_right(make_outputs):
    summary = summarise(make_outputs())
    svg = parsed(exits_figure(summary))
    bars = [float(bar.get("height")) for bar in svg.iter("rect") if bar.get("class") == "all"][:-1]  # the legend's
    full = 170  # from 0 to 100 %
    assert [bar / full for bar in bars] == pytest.approx([e["accuracy"] for e in summary["exits"]], abs=0.001)
