"""The ablation of Wu et al., CVPRW 2020: every scheme with and without online shift, beside TSN and TSM.

    python benchmarks/ablation.py --name generated --config quickstart.yaml
    python benchmarks/ablation.py --name NAME --config ucf101.yaml --data.root PATH --rows unified depth --seeds 3

Arguments after the known ones go to `dynvid fit` and `dynvid test`. Each run is added to results/ablation_NAME.csv as
it ends, and one that is there is not run again; the table (.md) and the figure (.png) are drawn from that file.
"""

import argparse
import csv
import io
import os
import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from runs import RESULTS, Run, fit_and_test, require_same, shown, stop_children_on_sigterm, write

SCHEMES = {  # overlays
    "depth": ["depth.yaml"],
    "input": ["input.yaml"],
    "permuted": ["permuted.yaml"],
    "unified": ["unified.yaml"],
}
ROWS = {
    ("TSN", "none"): ["tsn.yaml"],
    ("TSM", "bidirectional"): ["tsm.yaml"],
    **{(scheme, "none"): [*overlays, "noshift.yaml"] for scheme, overlays in SCHEMES.items()},
    **{(scheme, "online"): [*overlays, "online.yaml"] for scheme, overlays in SCHEMES.items()},
}
COLORS = {"depth": "tab:orange", "input": "tab:green", "permuted": "tab:purple", "unified": "tab:blue"}
COLUMNS = ("scheme", "shift", "seed", "kind", "gmacs", "accuracy")

Key = tuple[str, str, int]
Point = tuple[float, float]  # GMACs, top-1 in [0, 1]
Points = dict[str, list[Point]]  # by kind: full, dynamic, exit, curve


def main() -> None:
    """Run what is missing, then draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True)
    parser.add_argument("--config", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=sorted({scheme for scheme, _ in ROWS}), help="all by default")
    parser.add_argument("--carve", action="store_true", help="the seed draws the validation split too")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the cores")
    options, extra = parser.parse_known_args()

    stop_children_on_sigterm()
    file = RESULTS / f"ablation_{options.name}.csv"
    arguments = shown([*(["--carve"] if options.carve else []), *of(options.config), *extra])
    kept, found = read(file) if file.exists() else (arguments, {})
    require_same(file, kept, arguments)
    lock = threading.Lock()
    threads = max(1, (os.cpu_count() or 1) // options.jobs) if options.jobs > 1 else None

    def run(key: Key) -> None:
        scheme, shift, seed = key
        configs = of([*options.config, *ROWS[scheme, shift]])
        carve = ["--data.seed", str(seed)] if options.carve else []
        result = fit_and_test([*configs, *extra, "--seed_everything", str(seed), *carve], threads)
        with lock:
            found[key] = points(result)
            write(file, as_csv(arguments, found))
            write(file.with_suffix(".md"), table(found))

    wanted = [(*row, seed) for seed in range(options.seeds) for row in ROWS if row[0] in (options.rows or row[0])]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, [key for key in wanted if key not in found]))
    text = table(found)
    print(text)
    write(file.with_suffix(".md"), text)
    draw(found, file.with_suffix(".png"))


def of(configs: list[str]) -> list[str]:
    """The arguments that name config files."""
    return [word for name in configs for word in ("--config", name)]


def points(run: Run) -> Points:
    """The points of a run that are worth keeping."""
    found: Points = {kind: [(run.report[kind]["gmacs"], run.report[kind]["accuracy"])] for kind in ("full", "dynamic")}
    for row in run.curve:
        if row["kind"] in ("exit", "curve"):
            found.setdefault(row["kind"], []).append((float(row["gmacs"]), float(row["accuracy"])))
    return found


def read(file: Path) -> tuple[str, dict[Key, Points]]:
    """The arguments and the runs that a file holds."""
    found: dict[Key, Points] = {}
    with file.open(newline="") as lines:
        first = next(lines, "")
        if not first.startswith("# "):
            return "arguments that it does not tell", {}
        arguments = first.removeprefix("# ").rstrip("\n")
        for row in csv.DictReader(lines):
            of_run = found.setdefault((row["scheme"], row["shift"], int(row["seed"])), {})
            of_run.setdefault(row["kind"], []).append((float(row["gmacs"]), float(row["accuracy"])))
    return arguments, found


def as_csv(arguments: str, found: dict[Key, Points]) -> str:
    """The arguments as a comment, then one line per point."""
    text = io.StringIO(f"# {arguments}\n")
    text.seek(0, io.SEEK_END)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key in sorted(found):
        writer.writerows((*key, kind, *point) for kind, of_kind in found[key].items() for point in of_kind)
    return text.getvalue()


def by_row(found: dict[Key, Points]) -> Iterator[tuple[str, str, list[Points]]]:
    """Scheme, shift and the runs of all seeds, in the order of ROWS."""
    for scheme, shift in ROWS:
        if runs := [of_run for key, of_run in sorted(found.items()) if key[:2] == (scheme, shift)]:
            yield scheme, shift, runs


def table(found: dict[Key, Points]) -> str:
    """Medians over seeds, lowest and highest in brackets."""
    lines = [
        "| scheme | shift | seeds | full inference, top-1 | dynamic inference, top-1 | change, points | GMACs saved |",
        "|---|---|---|---|---|---|---|",
    ]
    for scheme, shift, runs in by_row(found):
        full, dynamic = ([100 * run[kind][0][1] for run in runs] for kind in ("full", "dynamic"))
        if len(runs[0]["exit"]) == 1:  # a static net: nothing is dynamic
            lines.append(f"| {scheme} | {shift} | {len(runs)} | {spread(full, ' %')} | | | |")
            continue
        change = [b - a for a, b in zip(full, dynamic, strict=True)]
        saved = [100 * (1 - run["dynamic"][0][0] / run["full"][0][0]) for run in runs]
        cells = spread(full, " %"), spread(dynamic, " %"), spread(change, "", "+.1f"), spread(saved, " %")
        lines.append(f"| {scheme} | {shift} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], unit: str, form: str = ".1f") -> str:
    """Median (lowest to highest)."""
    return f"{statistics.median(values):{form}}{unit} ({min(values):{form}} to {max(values):{form}})"


def draw(found: dict[Key, Points], file: Path) -> None:
    """Median curves without and with online shift; stars are calibrated thresholds, triangles static nets."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for scheme, shift, runs in by_row(found):
        ax = left if shift == "none" else right
        style: dict[str, Any] = {"color": COLORS.get(scheme, "black")}
        if len(runs[0]["exit"]) == 1:
            ax.plot(*middle(runs, "full"), "^", label=scheme, **style)
            continue
        ax.plot(*middle_curve(runs), "-", label=scheme, **style)
        ax.plot(*middle(runs, "dynamic"), "*", ms=11, **style)
        ax.plot(*middle(runs, "full"), "o", ms=4, **style)
    for ax, title in ((left, "without shift"), (right, "with shift")):
        ax.set_title(title)
        ax.set_xlabel("mean cost per video (GMACs)")
        ax.grid(alpha=0.3)
    schemes = {
        label: handle for ax in (left, right) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    title = "star: calibrated thresholds, dot: full inference"
    figure.legend(schemes.values(), schemes.keys(), loc="outside lower center", ncols=6, title=title)
    left.set_ylabel("top-1 (%), median over seeds; axis does not start at 0")
    left.set_xlim(left=0)
    figure.savefig(file, dpi=150)


def middle(runs: list[Points], kind: str) -> tuple[float, float]:
    """Median GMACs and median top-1 (%) over the runs."""
    gmacs, accuracy = zip(*(run[kind][0] for run in runs), strict=True)
    return statistics.median(gmacs), 100 * statistics.median(accuracy)


def middle_curve(runs: list[Points]) -> tuple[list[float], list[float]]:
    """GMACs from the cheapest point that all runs have to the dearest, and the median top-1 (%) there."""
    curves = [list(zip(*run["curve"], strict=True)) for run in runs]
    grid = np.linspace(max(gmacs[0] for gmacs, _ in curves), min(gmacs[-1] for gmacs, _ in curves), 100)
    accuracy = [np.interp(grid, *curve) for curve in curves]
    return grid.tolist(), (100 * np.median(accuracy, axis=0)).tolist()


if __name__ == "__main__":
    main()
