"""The report's figures as SVG, drawn by hand: no script, no font, no picture of fixed colours.

Colours are those of the page (CSS classes), so that they follow light and dark; each thing has a shape of its own too.
Sizes are in units of a view box that a phone shows at nearly full size.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from dynvid.metrics import axis_start
from dynvid.published import published as published_rows
from dynvid.text import printable

WIDTH = 440
LEFT, RIGHT = 38, 428  # of the plot
ROW = 17  # height of a line of the legend

Point = tuple[float, float]
Cost = Literal["gmacs", "milliseconds"]


class Axis(NamedTuple):
    """Where values lie on the paper.

    Attributes:
        low, high: Its ends, as values.
        start, end: Its ends, on the paper.
        ticks: Values to name.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        scale: Callable[[float], float] = math.log if self.log else float
        part = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + part * (self.end - self.start)


def curve_figure(summary: dict[str, Any], published: str | None = None, cost: Cost = "gmacs") -> str:
    """Accuracy against mean cost: the curve with its band, static exits, bounds, and the operating point.

    Args:
        summary: What `summarise` gave.
        published: A data set of `dynvid.published` whose rows are drawn as numbers, where the cost is GMACs.
        cost: Its unit; milliseconds take a summary of outputs with a profile.
    """
    measure, dynamic, full = summary["measure"], summary["dynamic"], summary["full"]
    unit, name, of_cost = ("GMACs", "cost", summary) if cost == "gmacs" else ("ms", "time", summary["time"])
    bounds = {name: _points(bound["corners"], measure, cost) for name, bound in of_cost["bounds"].items()}
    along = sorted(summary["curve"], key=lambda p: float(p[cost]))
    exits, curve = _points(summary["exits"], measure, cost), _points(along, measure, cost)
    band = [(p[cost], 100 * end) for p in along for end in p["interval"]]
    point, last = (dynamic[cost], 100 * dynamic[measure]), (full[cost], 100 * full[measure])
    rows = published_rows(published) if published and measure == "accuracy" and cost == "gmacs" else []
    others = sorted((row.gmacs, row.top1, row.dynamic, row.name) for row in rows if row.gmacs and not row.test)

    drawn = [*exits, *curve, *band, *bounds["oracle_exit"], point, last, *((x, y) for x, y, _, _ in others)]
    legend = [("point", "operating point"), ("full", "full inference"), ("static", "every video at one exit")]
    if curve:
        legend.insert(1, ("curve", "curve, 95 % band"))
    if len(exits) > 1:
        legend += [("random", "exits drawn at random"), ("oracle", "oracle exit")]
    names = [(str(n), name) for n, (_, _, _, name) in enumerate(others, 1)]
    top, height = 62, 230
    lines = -(-len(legend) // 2) + len(names)
    svg = _svg(
        top + height + 44 + ROW * lines,
        f"{summary['measure_name'].capitalize()} against mean {name} per video",
        f"{_videos(summary)}; the operating point is at {point[0]:.4g} {unit} and {point[1]:.1f} %, "
        f"full inference at {last[0]:.4g} {unit} and {last[1]:.1f} %.",
    )
    x, y = _costs([x for x, _ in drawn], bool(others)), _shares([y for _, y in drawn], top + height, top)
    _frame(svg, x, y, f"{_measure(summary)} (%)", f"mean {unit} per video" + (", logarithmic" if x.log else ""))

    if curve:
        low, high = band[0::2], band[1::2]
        _line(svg, x, y, [*low, *reversed(high)], "band", closed=True)
    if len(exits) > 1:
        _line(svg, x, y, bounds["oracle_exit"], "oracle")
        _line(svg, x, y, bounds["random_exit"], "random")
    if curve:
        _line(svg, x, y, curve, "curve")
    for place in exits:
        _mark(svg, "static", x(place[0]), y(place[1]))
    for n, (spent, accuracy, ours, _) in enumerate(others, 1):
        _text(svg, x(spent), y(accuracy) + 3, str(n), "published ours" if ours else "published", "middle")
    _mark(svg, "full", x(last[0]), y(last[1]))
    _mark(svg, "point", x(point[0]), y(point[1]))
    _legend(svg, legend, names, top + height + 52)
    return _source(svg)


def risk_figure(summary: dict[str, Any]) -> str:
    """How often answers are wrong, against the share of the videos that is answered.

    Args:
        summary: What `summarise` gave, with labels.
    """
    said = summary["answers"]
    curves = {name: [(100 * x, 100 * y) for x, y in risk["curve"]] for name, risk in said["risk"].items()}
    point = said["point"]
    legend = [("dynamic", "dynamic inference"), ("random", "full inference")]
    high = max(y for curve in curves.values() for _, y in curve)
    if point is not None:
        legend.append(("limit", f"permitted: {100 * point['max_error']:g} %"))
        high = max(high, 100 * point["max_error"])
        if point["threshold"] is not None and said["error"] is not None:
            legend.insert(0, ("point", "what is answered"))
    areas = ", ".join(f"{name} {100 * said['risk'][name]['area']:.1f} %" for name in ("dynamic", "full"))
    top, height = 62, 170
    title = "Wrong among the answered, the surest first"
    svg = _svg(
        top + height + 44 + ROW * -(-len(legend) // 2), title, f"{_videos(summary)}; mean over all shares: {areas}."
    )
    x = Axis(0.0, 100.0, LEFT, RIGHT, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0])
    ticks = _ticks(0, max(high, 1))
    y = Axis(0.0, ticks[-1], top + height, top, ticks)
    _frame(svg, x, y, "wrong among the answered (%)", "share of the videos that is answered (%)")
    if point is not None:
        _line(svg, x, y, [(0.0, 100 * point["max_error"]), (100.0, 100 * point["max_error"])], "limit")
    _line(svg, x, y, curves["dynamic"], "curve")
    _line(svg, x, y, curves["full"], "random")  # above, since it may be the same, and has gaps
    if legend[0][0] == "point":
        _mark(svg, "point", x(100 * said["answered"]), y(100 * said["error"]))
    _legend(svg, legend, [], top + height + 52)
    return _source(svg)


def shares_figure(summary: dict[str, Any]) -> str:
    """Which share of the videos left at which exit, as one bar."""
    exits = summary["exits"]
    said = ", ".join(f"exit {k}: {100 * e['share']:.1f} %" for k, e in enumerate(exits, 1))
    title = "Where videos left: exits, frames × depth"
    svg = _svg(94 + ROW * -(-len(exits) // 2), title, f"{_videos(summary)}; {said}.")
    start, whole = 8.0, float(WIDTH - 20)
    for k, e in enumerate(exits):
        width = whole * e["share"]
        if width > 0:
            bar = SubElement(svg, "rect", {"class": "exit", "x": _n(start), "y": "56", "height": "26"})
            bar.set("width", _n(max(width - 1.5, 0.75)))  # a gap between neighbours
            bar.set("opacity", f"{_shade(k, len(exits)):.2f}")
        if width > 34:
            _text(svg, start + width / 2, 51, f"{100 * e['share']:.0f} %", "small", "middle")
        start += width
    for k, e in enumerate(exits):
        left, base = 8 + (k % 2) * WIDTH / 2, 104 + ROW * (k // 2)
        box = SubElement(
            svg, "rect", {"class": "exit", "x": _n(left), "y": _n(base - 9), "width": "10", "height": "10"}
        )
        box.set("opacity", f"{_shade(k, len(exits)):.2f}")
        _text(svg, left + 16, base, f"{_exit(e, k)}: {100 * e['share']:.1f} %", "small")
    return _source(svg)


def exits_figure(summary: dict[str, Any]) -> str:
    """How often each exit is right, of all videos and of those that leave there."""
    exits, measure = summary["exits"], summary["measure"]
    said = ", ".join(f"exit {k}: {100 * e[measure]:.1f} %" for k, e in enumerate(exits, 1))
    title = f"{summary['measure_name'].capitalize()} of each exit"
    svg = _svg(62 + 170 + 44 + ROW, title, f"{_videos(summary)}; if every video left there: {said}.")
    y = _shares([0.0, 100.0], 232, 62)
    slot = (RIGHT - LEFT) / len(exits)
    _frame(svg, None, y, f"{_measure(summary)} (%)", "")
    for k, e in enumerate(exits):
        centre, width = LEFT + slot * (k + 0.5), min(slot * 0.3, 34)
        for side, (name, share) in enumerate([("all", e[measure]), ("leaving", e["of_those_leaving"])]):
            if share is None:
                continue
            left, height = centre + (side - 1) * width, y(0) - y(100 * share)
            bar = {"x": _n(left), "y": _n(y(100 * share)), "width": _n(width - 2), "height": _n(height)}
            SubElement(svg, "rect", {"class": name} | bar)
        low, high = (y(100 * end) for end in e["interval"])
        middle = _n(centre - width / 2 - 1)
        SubElement(svg, "line", {"class": "whisker", "x1": middle, "x2": middle, "y1": _n(low), "y2": _n(high)})
        label = f"{e['frames']}×{e['depth']}" if slot > 34 else str(k + 1)
        _text(svg, centre, y(0) + 14, label, "small", "middle")
    _text(svg, (LEFT + RIGHT) / 2, y(0) + 28, "exit: frames × depth", "small", "middle")
    _legend(svg, [("all", "if every video left there, 95 %"), ("leaving", "of those that leave there")], [], 284)
    return _source(svg)


def _points(entries: Iterable[dict[str, Any]], measure: str, cost: Cost) -> list[Point]:
    return [(entry[cost], 100 * entry[measure]) for entry in entries]


def _measure(summary: dict[str, Any]) -> str:
    return str(summary["measure_name"]) if summary["labelled"] else "agreement with full inference"


def _videos(summary: dict[str, Any]) -> str:
    count, recordings = summary["videos"], summary["recordings"]
    of = f" of {recordings:,} recordings" if recordings < count else ""
    return f"{count:,} video{'s' * (count != 1)}{of}, {printable(summary['split'])}"


def _exit(e: dict[str, Any], position: int) -> str:
    return f"exit {position + 1}, {e['frames']}×{e['depth']}"


def _shade(position: int, count: int) -> float:
    return 1 - 0.75 * position / max(count - 1, 1)


def _costs(values: Sequence[float], may_be_log: bool) -> Axis:
    low, high = min(values), max(values)
    if may_be_log and high > 10 * low > 0:
        low, high = low / 1.3, high * 1.3
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**p for p in powers for m in (1, 3) if low <= m * 10.0**p <= high]
        return Axis(low, high, LEFT, RIGHT, ticks, log=True)
    ticks = _ticks(0, high)
    return Axis(0, max(high * 1.03, ticks[-1]), LEFT, RIGHT, ticks)


def _shares(values: Sequence[float], start: float, end: float) -> Axis:
    """From 0, unless the values lie so close together that nothing would be seen."""
    high = max(values)
    low = axis_start(min(values), high)
    ticks = _ticks(low, max(high, low + 1))
    if low:
        ticks.insert(0, ticks[0] - (ticks[1] - ticks[0]))
        ticks = [tick for n, tick in enumerate(ticks) if n == len(ticks) - 1 or ticks[n + 1] > low]
    ticks = [tick for tick in ticks if tick <= 100 + 1e-9]
    return Axis(ticks[0], max(high, ticks[-1]), start, end, ticks)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    raw = max(high - low, 1e-9) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.ceil(high / step - 1e-9) + 1)]


def _svg(height: float, title: str, said: str) -> Element:
    """An empty figure with its title, and what is to be read aloud."""
    svg = Element("svg", {"viewBox": f"0 0 {WIDTH} {_n(height)}", "role": "img"})
    SubElement(svg, "title").text = f"{title}. {said}"
    _text(svg, 8, 17, title, "title")
    _text(svg, 8, 33, said.partition(";")[0], "small")
    return svg


def _frame(svg: Element, x: Axis | None, y: Axis, name_y: str, name_x: str) -> None:
    """Axes with grid and names; where values do not start at 0, the axis says so."""
    for tick in y.ticks:
        place = _n(y(tick))
        SubElement(svg, "line", {"class": "grid", "x1": _n(LEFT), "x2": _n(RIGHT), "y1": place, "y2": place})
        _text(svg, LEFT - 5, y(tick) + 4, f"{tick:g}", "small", "end")
    cut = ", axis does not start at 0" if y.low > 0 else ""
    _text(svg, 8, y.end - 10, name_y + cut, "small")
    if y.low > 0:  # a break in the axis
        corner = f"M{LEFT - 4} {_n(y.start - 7)}l8 -3m-8 7l8 -3"
        SubElement(svg, "path", {"class": "axis", "d": corner})
    SubElement(svg, "path", {"class": "axis", "d": f"M{LEFT} {_n(y.end)}V{_n(y.start)}H{RIGHT}"})
    if x is not None:
        for tick in x.ticks:
            _text(svg, x(tick), y.start + 15, f"{tick:g}", "small", "middle")
        _text(svg, (LEFT + RIGHT) / 2, y.start + 31, name_x, "small", "middle")


def _line(svg: Element, x: Axis, y: Axis, points: Sequence[Point], name: str, closed: bool = False) -> None:
    path = "L".join(f"{_n(x(cost))} {_n(y(share))}" for cost, share in points)
    SubElement(svg, "path", {"class": name, "d": f"M{path}{'Z' if closed else ''}"})


def _mark(svg: Element, name: str, x: float, y: float) -> None:
    if name == "static":
        SubElement(svg, "circle", {"class": name, "cx": _n(x), "cy": _n(y), "r": "4"})
    elif name == "full":
        SubElement(svg, "rect", {"class": name, "x": _n(x - 4), "y": _n(y - 4), "width": "8", "height": "8"})
    else:
        SubElement(svg, "path", {"class": name, "d": f"M{_n(x)} {_n(y - 7)}l7 7l-7 7l-7 -7Z"})


def _legend(svg: Element, entries: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]], top: float) -> None:
    """Two columns below the plot, so that it covers nothing; long names one below the other."""
    for n, (name, label) in enumerate(entries):
        left, base = 8 + (n % 2) * WIDTH / 2, top + ROW * (n // 2)
        if name in ("all", "leaving"):
            SubElement(
                svg, "rect", {"class": name, "x": _n(left + 4), "y": _n(base - 5), "width": "12", "height": "10"}
            )
        elif name in ("static", "full", "point"):
            _mark(svg, name, left + 10, base)
        else:
            kind = "curve" if name == "dynamic" else name  # which has no band
            if name == "curve":
                box = {"x": _n(left), "y": _n(base - 5), "width": "20", "height": "10"}
                SubElement(svg, "rect", {"class": "band"} | box)
            SubElement(svg, "path", {"class": kind, "d": f"M{_n(left)} {_n(base)}h20"})
        _text(svg, left + 27, base + 4, label, "small")
    top += ROW * -(-len(entries) // 2)
    for n, (number, label) in enumerate(names):
        _text(svg, 28, top + ROW * n + 4, number, "published", "end")
        _text(svg, 35, top + ROW * n + 4, label, "small")


def _text(svg: Element, x: float, y: float, text: str, name: str, anchor: str = "start") -> None:
    about = {"class": name, "x": _n(x), "y": _n(y)} | ({} if anchor == "start" else {"text-anchor": anchor})
    SubElement(svg, "text", about).text = text


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _source(svg: Element) -> str:
    return tostring(svg, encoding="unicode")
