"""What happened to one video, drawn as HTML and SVG: no script, no font, colours that follow light and dark."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from dynvid.routes import Exit
from dynvid.showcase.walk import Walk, as_share
from dynvid.text import printable, printable_label

LEFT, RIGHT, TOP, BOTTOM = 40.0, 352.0, 34.0, 190.0  # of the bars' ground, in units of a view box 360 wide
SURE = {
    "max_probability": "How sure it is",
    "margin": "How far ahead its first choice is",
    "negative_entropy": "How sure it is",
    "patience": "How many stops agree",
}


class Moment(NamedTuple):
    """A moment of the walk.

    Attributes:
        stops: Exits whose answer is there.
        frames: Frames that have been looked at.
        done: Whether full inference is there too.
    """

    stops: int
    frames: int
    done: bool = False


def moments(walk: Walk) -> Iterator[tuple[Moment, float]]:
    """The moments of a walk, with the seconds that each is shown: frame by frame, exit by exit, slowed down."""
    frames = 0
    yield Moment(0, 0), 0.3
    for k, step in enumerate(walk.steps):
        pause = 0.8 / max(len(step.frames), 1)
        for _ in step.frames:
            frames += 1
            yield Moment(k, frames), pause
        yield Moment(k + 1, frames), 1.1
    yield Moment(len(walk.steps), frames, True), 0.0


def draw(walk: Walk, moment: Moment | None = None) -> str:
    """The page's picture of a walk, at one moment of it; by default at its end."""
    moment = moment or Moment(len(walk.steps), len(_asked(walk)), True)
    result = _result(walk) if moment.done else ""
    beside = f'<div class="beside">{_bars(walk, moment)}{result}</div>'
    return f'<div class="dv">{_frames(walk, moment)}{_says(walk, moment)}{beside}</div>'


def told(text: str) -> str:
    """A sentence in place of the picture."""
    return f'<div class="dv"><p class="told">{escape(text)}</p></div>'


def _asked(walk: Walk) -> list[int]:
    return [place for step in walk.steps for place in step.frames]


def _frames(walk: Walk, moment: Moment) -> str:
    seen = _asked(walk)[: moment.frames]
    cells = []
    for place in range(walk.num_frames):
        if place in seen:
            number = seen.index(place) + 1
            new = " new" if number == len(seen) and not moment.done else ""
            cells.append(
                f'<div class="frame{new}"><img alt="frame {place + 1}, looked at as number {number}" '
                f'src="{walk.pictures[place]}"><b>{number}</b></div>'
            )
        else:
            cells.append('<div class="frame unread"><span>not looked at</span></div>')
    looked = f"{len(seen)} of {walk.num_frames} frames"
    columns = min(walk.num_frames, 8)
    return (
        f'<section><h3>It looks at frames <span class="count">{looked}</span></h3>'
        f'<div class="strip" style="--columns: {columns}">{"".join(cells)}</div>'
        '<p class="small axis"><span>start of the video</span><span>end</span></p></section>'
    )


def _bars(walk: Walk, moment: Moment) -> str:
    """Bars of confidence, one for each exit, with the line that each must reach."""
    exits = len(walk.route)
    step, parts = (RIGHT - LEFT) / exits, []
    for share in (0, 0.5, 1):
        y = _height(share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="small" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for k, exit in enumerate(walk.route):
        middle, width = LEFT + (k + 0.5) * step, min(step * 0.56, 60)
        if k < moment.stops:
            parts.append(_bar(walk, k, middle, width))
        else:
            place = f'x="{middle - width / 2:.1f}" y="{TOP:.1f}" width="{width:.1f}" height="{BOTTOM - TOP:.1f}"'
            parts.append(f'<rect class="skipped" {place}/>')
            if moment.stops == len(walk.steps):
                parts.append(_text("small", middle, BOTTOM - 8, "not run"))
        parts.append(_threshold(walk, k, middle, step * 0.84))
        frames, depth = _stop(exit, walk.route)
        parts += [_text("name", middle, BOTTOM + 17, frames), _text("small", middle, BOTTOM + 31, depth)]
    said = _described(walk, moment)
    return (
        f"<section><h3>{SURE[walk.score]}, stop by stop</h3>"
        f'<svg viewBox="0 0 360 226" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'
        '<p class="small key"><span><i class="line"></i>sure enough to stop</span>'
        '<span><i class="box go"></i>not yet: go on</span><span><i class="box stop"></i>sure: stop</span></p></section>'
    )


def _bar(walk: Walk, k: int, middle: float, width: float) -> str:
    taken = walk.steps[k]
    share = as_share(taken.score, walk.score, len(walk.route), walk.classes)
    top, line = _height(share), _line(walk, k)
    # The figure stands above the bar, and above the line that it must reach where that is just there.
    figure = line if line is not None and 0 <= top - line < 20 else top
    return (
        f'<rect class="{"stop" if taken.sure else "go"}" x="{middle - width / 2:.1f}" y="{top:.1f}" '
        f'width="{width:.1f}" height="{max(BOTTOM - top, 1):.1f}"/>'
        + _text("value", middle, figure - 6, f"{'✓ ' if taken.sure else ''}{percent(share)}")
    )


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text}</text>'


def _threshold(walk: Walk, k: int, middle: float, width: float) -> str:
    y = _line(walk, k)
    if y is not None:
        ends = f'x1="{middle - width / 2:.1f}" x2="{middle + width / 2:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        return f'<line class="threshold" {ends}/>'
    if k < len(walk.route) - 1 and k >= len(walk.steps):
        return _text("small", middle, TOP - 6, "never stops")
    return ""


def _line(walk: Walk, k: int) -> float | None:
    """Where the line of an exit is; None where it has none: the last accepts everything, and others may be off."""
    if k == len(walk.route) - 1 or walk.thresholds[k] == float("inf"):
        return None
    return _height(as_share(walk.thresholds[k], walk.score, len(walk.route), walk.classes))


def _height(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def _stop(exit: Exit, route: Sequence[Exit]) -> tuple[str, str]:
    """What stands under an exit: its frames, and how much of the network."""
    deepest = max(e.depth for e in route)
    depth = f"{exit.depth} of {deepest} stages"
    if len(route) > 4:
        depth = f"{exit.depth}/{deepest}"
    return f"{exit.frames} frame{'s' if exit.frames > 1 else ''}", depth


def _described(walk: Walk, moment: Moment) -> str:
    said = [
        f"stop {k + 1}: {percent(step.passed.probability)} {printable_label(step.passed.label)}"
        for k, step in enumerate(walk.steps[: moment.stops])
    ]
    return "; ".join(said) or "nothing yet"


def _says(walk: Walk, moment: Moment) -> str:
    """The answer so far, in words."""
    if not moment.stops:
        return '<p class="says">Looking …</p>'
    step = walk.steps[moment.stops - 1]
    label = f"<b>{escape(printable_label(step.passed.label))}</b>"
    sure = percent(step.passed.probability)
    if not step.sure:
        return f'<p class="says">Perhaps {label} ({sure}). Not sure enough: it goes on.</p>'
    if not walk.answered:
        return f'<p class="says">Perhaps {label} ({sure}). Too unsure to be an answer: it would rather say nothing.</p>'
    if moment.stops == len(walk.route):
        return f'<p class="says stops">It is {label} ({sure}). This one took everything: a hard video.</p>'
    return f'<p class="says stops"><i>✓</i> It is {label} ({sure}). Sure enough: it stops here.</p>'


def _result(walk: Walk) -> str:
    full, last = walk.full, walk.last
    same = full.label == last.label
    said = f"<b>{escape(printable_label(full.label))}</b> ({percent(full.probability)})"
    agrees = f"The whole network, asked afterwards, says the same: {said}." if same else (
        f"The whole network, asked afterwards, says something else: {said}. Stopping early changed the answer."
    )  # fmt: skip
    faster = 1 - last.milliseconds / full.milliseconds
    return (
        '<section class="result"><h3>What stopping early saved</h3>'
        + _pair("Computation", "GMACs", last.gmacs, walk.full_gmacs, walk.saved)
        + _pair("Time", "ms", last.milliseconds, full.milliseconds, faster)
        + f'<p class="{"same" if same else "other"}">{agrees}</p>'
        '<p class="small">GMACs are billions of multiplications and additions. The times are from file to answer, '
        "measured just now; only the animation is slowed down.</p></section>"
    )


def _pair(name: str, unit: str, spent: float, full: float, saved: float) -> str:
    """Two bars: what was spent, and what full inference spends."""
    percents = round(100 * saved)
    words = f"{percents} % saved" if percents > 0 else f"{-percents} % more" if percents else "nothing saved"
    rows = "".join(
        f'<div class="row"><span>{label}</span><span class="track"><span class="fill {kind}" '
        f'style="width: {100 * value / max(spent, full):.1f}%"></span></span>'
        f'<span class="figure">{value:.3g} {unit}</span></div>'
        for label, kind, value in (("stopped early", "stop", spent), ("everything", "all", full))
    )
    return f'<div class="pair"><p><b>{name}</b> <span class="saved">{words}</span></p>{rows}</div>'


def segments(found: Sequence[tuple[float, float, str, float]], saved: float | None = None) -> str:
    """The parts of a long video as a ribbon and a table.

    Args:
        found: Seconds from and to, label and probability of each; the label `none` is that nothing was sure enough.
        saved: The share of full inference's GMACs that was saved on the way.
    """
    if not found:
        return told("Nothing was recognised in it.")
    end = max(to for _, to, _, _ in found)
    names = sorted({label for _, _, label, _ in found} - {"none"})
    kinds = {label: f"p{k % 6}" for k, label in enumerate(names)} | {"none": "none"}
    shown = {label: escape(printable(label)) for label in names} | {"none": "nothing it is sure of"}
    ribbon, rows = [], []
    for start, to, label, probability in found:
        place = f'x="{360 * start / end:.1f}" y="4" width="{max(360 * (to - start) / end, 0.8):.1f}" height="34"'
        title = f"{shown[label]}, {clock(start)} to {clock(to)}"
        ribbon.append(f'<rect class="part {kinds[label]}" {place}><title>{title}</title></rect>')
        sure = "" if label == "none" else percent(probability)
        rows.append(
            f'<tr class="{kinds[label]}"><td><i class="box {kinds[label]}"></i> {shown[label]}</td>'
            f"<td>{clock(start)} to {clock(to)}</td><td>{sure}</td></tr>"
        )
    cost = "" if saved is None else f'<p class="says stops">It saved <b>{percent(saved)}</b> of the computation.</p>'
    return (
        f'<div class="dv"><section><h3>What happens, and when</h3><svg class="ribbon" viewBox="0 0 360 42" role="img" '
        f'preserveAspectRatio="none" aria-label="{len(found)} parts">{"".join(ribbon)}</svg>'
        f'<p class="small axis"><span>0:00</span><span>{clock(end)}</span></p></section>{cost}'
        f"<table><tr><th>what</th><th>when</th><th>how sure</th></tr>{''.join(rows)}</table></div>"
    )


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(83.4), clock(3725)
    ('1:23.4', '1:02:05.0')
    """
    tenths = round(10 * seconds)
    minutes, hours = tenths // 600 % 60, tenths // 36000
    rest = f"{tenths % 600 / 10:04.1f}"
    return f"{hours}:{minutes:02}:{rest}" if hours else f"{minutes}:{rest}"


def percent(share: float) -> str:
    """A share in percent, rounded, but never up to certainty.

    >>> percent(0.584), percent(0.998), percent(1.0)
    ('58 %', '>99 %', '100 %')
    """
    rounded = round(100 * share)
    return ">99 %" if rounded == 100 and share < 1 else f"{rounded} %"
