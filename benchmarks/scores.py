"""Which score saves most under the same promise, and does a temperature per exit help? On recorded outputs.

    python benchmarks/scores.py --name scores --pair net0/outputs_val.parquet net0/outputs_test.parquet --pair ...

One pair of files per net. A third of the recordings of the first file fits the temperatures, the others find the
thresholds, and the second file says what these save and lose. Writes benchmarks/results/NAME.md.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from runs import RESULTS, write

from dynvid.calibration import Target, calibration_error, find_point, fit_temperatures, kept_apart
from dynvid.outputs import Outputs
from dynvid.policy import SCORE_NAMES, ThresholdPolicy

DROPS = (0.01, 0.05)  # permitted shares lost, each with 95 % confidence
TEMPERATURES = ("1", "fitted")


class Setting(NamedTuple):
    """A row of the table."""

    score: Any
    temperature: str


class Result(NamedTuple):
    """What thresholds save (share of the GMACs of full inference) and lose (share of the videos) on test videos."""

    saved: float
    lost: float


class Net(NamedTuple):
    """What one net gave: results by setting and permitted drop, and the calibration error of its exits, their mean."""

    results: dict[tuple[Setting, float], Result]
    errors: dict[str, float]
    fitted: tuple[float, ...]


def main() -> None:
    """Read, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--pair", nargs=2, action="append", type=Path, required=True, metavar=("VAL", "TEST"))
    options = parser.parse_args()
    nets = []
    for val_file, test_file in options.pair:
        val, test = Outputs.read(val_file), Outputs.read(test_file)
        if (val.weights, val.route) != (test.weights, test.route):
            sys.exit(f"{val_file} and {test_file} are not of the same net: give the two files of one run")
        if not (val.labelled and test.labelled):
            sys.exit(f"{val_file} or {test_file} has videos without a label: the comparison needs all labels")
        nets.append(compare(val, test))
    text = table(nets)
    write(RESULTS / f"{options.name}.md", text)
    print(text)


def compare(val: Outputs, test: Outputs) -> Net:
    """Every setting on one net."""
    apart = kept_apart(val.recordings)
    if not apart.any() or apart.all():
        sys.exit(f"{len(set(val.recordings))} recordings cannot be divided into three parts")
    fitting, calibrating = val.of(~apart), val.of(apart)
    fitted = fit_temperatures(fitting.logits, fitting.labels)
    results, errors = {}, {}
    for temperature, values in zip(TEMPERATURES, (None, fitted), strict=True):
        plain = ThresholdPolicy(len(val.route), temperatures=values)
        of_exits = calibration_error(plain.score(test.logits), test.correct)
        errors[temperature] = sum(of_exits) / len(of_exits)
        for score in SCORE_NAMES:
            policy = ThresholdPolicy(len(val.route), score=score, temperatures=values)
            calibration, tested = calibrating.under(policy, None), test.under(policy, None)
            for drop in DROPS:
                thresholds, _ = find_point(
                    calibration.scores,
                    calibration.lost(with_labels=True),
                    calibration.gmacs,
                    Target(max_drop=drop),
                    calibration.recordings,
                )
                results[Setting(score, temperature), drop] = judge(tested, thresholds.tolist())
    return Net(results, errors, fitted)


def judge(test: Outputs, thresholds: list[float]) -> Result:
    """What thresholds lead to on test videos."""
    policy = ThresholdPolicy(thresholds=thresholds, score=test.policy.score_name, temperatures=test.policy.temperatures)
    taken = policy.choose(test.logits)
    gmacs = sum(test.gmacs[k] for k in taken.tolist()) / len(taken)
    lost = test.lost(with_labels=True).gather(0, taken[None]).double().mean()
    return Result(1 - gmacs / test.full_gmacs, float(lost))


def table(nets: list[Net]) -> str:
    """One line per setting, the permitted drops side by side."""
    ece = {temperature: ranged([net.errors[temperature] for net in nets]) for temperature in TEMPERATURES}
    fitted = [temperature for net in nets for temperature in net.fitted]
    heads = [f"{drop:.0%} permitted: saved | against the first line | lost" for drop in DROPS]
    lines = [
        f"{len(nets)} nets; the median, and from least to most. Temperatures were fitted on a third of the validation",
        "recordings, thresholds found on the others with 95 % confidence; all figures are of test videos. Saved: GMACs",
        "of full inference; against the first line: each net's own difference, in points. Lost: full inference is",
        "right and the exit taken wrong.",
        "",
        f"Fitted were {min(fitted):.2f} to {max(fitted):.2f}. Expected calibration error, mean of the exits:",
        f"{ece['1']} at temperature 1, {ece['fitted']} at those fitted.",
        "",
        f"| score | temperatures | {' | '.join(heads)} |",
        "|---|---|" + "---|---|---|" * len(DROPS),
    ]
    settings = [Setting(score, temperature) for score in SCORE_NAMES for temperature in TEMPERATURES]
    for setting in settings:
        cells = []
        for drop in DROPS:
            saved = [net.results[setting, drop].saved for net in nets]
            first = [net.results[settings[0], drop].saved for net in nets]
            change = [a - b for a, b in zip(saved, first, strict=True)]
            lost = [net.results[setting, drop].lost for net in nets]
            cells += [ranged(saved), ranged(change, "+", ""), ranged(lost)]
        lines.append(f"| {' | '.join([*setting, *cells])} |")
    return "\n".join(lines) + "\n"


def ranged(values: list[float], sign: str = "", unit: str = " %") -> str:
    """Median and range, in hundredths."""
    middle, low, high = (f"{100 * value + 0.0:{sign}.1f}" for value in (median(values), min(values), max(values)))
    return f"{middle}{unit} ({low} to {high})"


if __name__ == "__main__":
    main()
