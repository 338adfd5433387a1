"""Draws the pictures of the documentation from the routes and frame orders of the code, as SVG.

python docs/figures.py [FOLDER]

They are kept in `docs/_static`, so that they are seen where nothing is built; `make docs` draws them anew.
"""

import sys
from pathlib import Path
from typing import get_args

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dynvid import UnifiedExitNet, depth_route, frame_groups, input_route, unified_route
from dynvid.routes import FrameOrder, Route

# Colours of Okabe and Ito, which all eyes tell apart, lightened so that dark text stands on them.
STEPS = ("#8cc7f0", "#f5cf7a", "#8fd8bf", "#eda982", "#d9aecb", "#c9c9c9")
PAPER, INK, GREY, FAINT = "#fbfbf9", "#1d1d1b", "#6b6b66", "#d5d5d0"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "dynvid", "font.family": "sans-serif", "text.color": INK}


def draw(folder: Path) -> list[Path]:
    """Draw all pictures into a folder; their paths."""
    with matplotlib.rc_context(STYLE):
        return [save(make(), folder / f"{make.__name__}.svg") for make in (grid, routes, orders)]


def grid() -> Figure:
    """The walk of one video over the grid, which stops at the second of four exits."""
    net, taken = UnifiedExitNet("resnet50", num_classes=400, num_frames=16), 2
    figure = Figure(figsize=(6.8, 3.6), facecolor=PAPER)
    axes = plain(figure.add_axes((0.085, 0.385, 0.9, 0.52)))
    cells(axes, net.route, computed=taken)
    for column, frame in enumerate(net.order):
        axes.text(column + 0.5, -0.3, str(frame), ha="center", va="center", fontsize=9)
    axes.text(8, -0.9, "frames of the video, in the order in which they are asked for", ha="center", fontsize=9.5)
    for depth in range(1, len(net.segments) + 1):
        axes.text(-0.15, depth - 0.5, f"stage {depth}", ha="right", va="center", fontsize=9)
    said = [
        " of the cost: not sure, goes on",
        " of the cost: sure, stops",
        ": not reached",
        ": full inference, not reached",
    ]
    for number, (e, gmacs, word) in enumerate(zip(net.route, net.gmacs, said, strict=True), 1):
        mark(axes, e, number, number <= taken)
        x, y = 0.4 + 8.4 * ((number - 1) // 2), -1.65 - 0.65 * ((number - 1) % 2)
        mark(axes, (x + 0.5, y + 0.5), number, number <= taken)
        text = f"{100 * gmacs / net.full_gmacs:.0f} %{word}"
        axes.text(x + 0.45, y, text, va="center", fontsize=9.5, color=INK if number <= taken else GREY)
    axes.text(0, 4.15, "ResNet-50, 16 frames: one video, which has its label after 8 of them", fontsize=10.5)
    return figure


def routes() -> Figure:
    """The three routes of the paper's Figure 2 side by side, for 8 frames and 5 depths."""
    kinds = (
        ("depth-wise", depth_route(8, depths=5)),
        ("input-wise", input_route(8, depths=5)),
        ("unified", unified_route(8, depths=5)),
    )
    figure = Figure(figsize=(6.8, 2.5), facecolor=PAPER)
    for place, (name, route) in enumerate(kinds):
        axes = plain(figure.add_axes((0.035 + 0.325 * place, 0.11, 0.295, 0.74)))
        cells(axes, route, computed=len(route))
        for number, e in enumerate(route, 1):
            mark(axes, e, number, passed=True)
        axes.text(0, 5.25, name, fontsize=10.5)
        axes.text(4, -0.5, "frames", ha="center", fontsize=9)
        axes.text(-0.3, 2.5, "depth", rotation=90, ha="center", va="center", fontsize=9)
    return figure


def orders() -> Figure:
    """When each of 8 frames is asked for, by each of the orders; colours are groups."""
    figure = Figure(figsize=(6.8, 1.9), facecolor=PAPER)
    axes = plain(figure.add_axes((0.2, 0.2, 0.78, 0.78)))
    names = get_args(FrameOrder)
    for row, name in enumerate(reversed(names)):
        groups = frame_groups(8, name)
        turn = [frame for group in groups for frame in group].index
        for number, group in enumerate(groups):
            for frame in group:
                box(axes, frame, row * 1.15, STEPS[number])
                axes.text(frame + 0.5, row * 1.15 + 0.5, str(turn(frame) + 1), ha="center", va="center", fontsize=9.5)
        axes.text(-0.15, row * 1.15 + 0.5, name, ha="right", va="center", fontsize=9.5)
    axes.text(4, -0.55, "time; the number says when a frame is asked for", ha="center", fontsize=9.5)
    axes.set(xlim=(0, 8), ylim=(0, 1.15 * len(names)))
    return figure


def cells(axes: Axes, route: Route, computed: int) -> None:
    """The grid; a cell has the colour of the exit that it is first computed for, up to the exit `computed`."""
    frames, depths = route[-1]
    for n in range(frames):
        for d in range(depths):
            step = next(k for k, e in enumerate(route) if n < e.frames and d < e.depth)
            box(axes, n, d, STEPS[step] if step < computed else PAPER)
    axes.set(xlim=(0, frames), ylim=(0, depths))


def box(axes: Axes, x: float, y: float, colour: str) -> None:
    """One cell."""
    axes.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, facecolor=colour, edgecolor=FAINT, clip_on=False))


def mark(axes: Axes, e: tuple[float, float], number: int, passed: bool) -> None:
    """The number of an exit on the last cell that it sees."""
    x, y = e[0] - 0.5, e[1] - 0.5
    face, edge, text = (INK, INK, PAPER) if passed else (PAPER, GREY, GREY)
    axes.plot([x], [y], "o", markersize=13, color=face, markeredgecolor=edge, clip_on=False)
    axes.text(x, y, str(number), ha="center", va="center_baseline", fontsize=9, color=text)


def plain(axes: Axes) -> Axes:
    """Without frame and ticks."""
    axes.axis("off")
    return axes


def save(figure: Figure, path: Path) -> Path:
    """Write a picture, the same whenever it is drawn."""
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor=figure.get_facecolor())
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    for drawn in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("_static")):
        print(drawn)
