"""Ways to find a reject threshold, compared: is the permitted error kept, and what share of the videos is answered?

    python benchmarks/reject.py --name reject [--outputs outputs_val.parquet outputs_test.parquet]

Videos are drawn from distributions whose error among the surest is known, and with `--outputs`, with replacement, from
what a net answered. Each way decides by the errors among the surest m of n drawn videos, for m that are fixed before.
The first way is that of `find_reject`, which is checked here. Of recorded outputs a second table tells what it changes
that the thresholds of the exits are found on the same videos. Writes benchmarks/results/NAME.md.
"""

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from runs import RESULTS, write

from dynvid.calibration import Target, find_point, find_reject
from dynvid.calibration.binomial import at_most
from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy

MAX_ERROR, ERROR = 0.05, 0.05  # permitted among the answered; of the promise
COUNTS = (100, 300, 1000, 3000)
Counts = NDArray[np.int64]
Way = Callable[[Counts], Counts]


class Source(NamedTuple):
    """Where videos come from.

    Attributes:
        draw: Count, generator -> places (count,), 0 for the surest of all videos and 1 for the least sure, and whether
            each is wrong.
        risk: Share of wrong ones among all videos up to a place.
    """

    draw: Callable[[int, np.random.Generator], tuple[NDArray[np.float64], NDArray[np.bool_]]]
    risk: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def main() -> None:
    """Simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--outputs", type=Path, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--whole-draws", type=int, default=500, help="Of the second table, whose draws take longer.")
    options = parser.parse_args()
    sources = {
        "right 90 %": smooth(0.1),
        "right 75 %": smooth(0.25),
        "right 97 %": smooth(0.03),
        "right 94 %, of the surest 2 % half": bent(0.02, 0.5, 0.05),
        "scores say nothing, just above": flat(MAX_ERROR * 1.0001),
    }
    whole = together([Outputs.read(path) for path in options.outputs]) if options.outputs else None
    if whole is not None:
        sources[f"answers to {len(whole.paths)} clips"] = recorded(whole)
    rows = []
    for name, source in sources.items():
        for count in COUNTS:
            rng = np.random.default_rng(count)
            places = np.empty((options.draws, count))
            wrong = np.empty((options.draws, count), dtype=bool)
            for draw in range(options.draws):
                places[draw], wrong[draw] = source.draw(count, rng)
            order = places.argsort(1)
            places, wrong = np.take_along_axis(places, order, 1), np.take_along_axis(wrong, order, 1)
            errors = wrong.cumsum(1)
            check(wrong[:20], fallback(errors[:20]))
            for way, decide in WAYS.items():
                kept = decide(errors)
                at = np.take_along_axis(places, np.maximum(kept - 1, 0)[:, None], 1)[:, 0]
                broken = (kept > 0) & (source.risk(at) > MAX_ERROR)
                rows.append((name, count, way, broken.mean(), (at * (kept > 0)).mean(), (kept > 0).mean()))
                print("{}, {}, {}: broken {:.4f}, answered {:.3f}, found {:.3f}".format(*rows[-1]), flush=True)
    text = table(rows, options.draws)
    if whole is not None:
        text += "\n" + whole_table(whole, options.whole_draws)
    write(RESULTS / f"{options.name}.md", text)


def check(wrong: NDArray[np.bool_], kept: Counts) -> None:
    """The library finds the same."""
    falling = torch.linspace(1, 0, wrong.shape[1])
    names = [str(n) for n in range(wrong.shape[1])]
    for row, m in zip(torch.from_numpy(wrong), kept.tolist(), strict=True):
        threshold = find_reject(falling, row, MAX_ERROR, names, 1 - ERROR).threshold
        assert m == (0 if threshold is None else int((falling >= threshold).sum()))


def smooth(error: float) -> Source:
    """The less sure, the more often wrong: at place u, 3 `error` u² of the videos."""

    def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        places = rng.random(count)
        return places, rng.random(count) < 3 * error * places**2

    return Source(draw, lambda u: error * u**2)


def bent(share: float, theirs: float, error: float) -> Source:
    """The surest are sure and wrong; else as `smooth`."""
    rest = smooth(error)

    def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        places, wrong = rest.draw(count, rng)
        return places, np.where(places < share, rng.random(count) < theirs, wrong)

    def risk(u: NDArray[np.float64]) -> NDArray[np.float64]:
        low = np.minimum(u, share)
        return (theirs * low + error * (u**3 - low**3)) / np.maximum(u, 1e-12)

    return Source(draw, risk)


def flat(error: float) -> Source:
    """As often wrong wherever: the hardest case, for then any number of videos is one too many."""
    return Source(lambda count, rng: (rng.random(count), rng.random(count) < error), lambda u: np.full(u.shape, error))


def recorded(outputs: Outputs) -> Source:
    """What a net answered; videos of one score are told apart by chance, once."""
    probability = outputs.policy.probabilities(outputs.logits).amax(-1).gather(0, outputs.taken[None])[0].numpy()
    wrong = ~outputs.correct.gather(0, outputs.taken[None])[0].numpy()
    order = np.lexsort((np.random.default_rng(0).random(len(wrong)), -probability))
    wrong = wrong[order]
    risks = wrong.cumsum() / np.arange(1, len(wrong) + 1)

    def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        drawn = rng.integers(len(wrong), size=count)
        return (drawn + 1) / len(wrong), wrong[drawn]

    return Source(draw, lambda u: risks[np.maximum((u * len(wrong)).round().astype(int) - 1, 0)])


def together(parts: list[Outputs]) -> Outputs:
    """Outputs of one net, all of them one population."""
    first = parts[0]
    assert {part.weights for part in parts} == {first.weights}
    return replace(
        first,
        logits=torch.cat([part.logits for part in parts], 1),
        labels=torch.cat([part.labels for part in parts]),
        paths=[path for part in parts for path in part.paths],
        recordings=[path for part in parts for path in part.paths],
    )


def whole_table(outputs: Outputs, draws: int) -> str:
    """Thresholds, and then what is withheld, from the same drawn videos; compared with the population."""
    half = outputs.full_gmacs / 2
    rules = {
        "given beforehand": None,
        "at most 1 % lost, promised": Target(max_drop=0.01),
        "at most 5 % lost, promised": Target(max_drop=0.05),
        "at most 5 % lost, observed": Target(max_drop=0.05, confidence=None),
        "a budget of half the cost": Target(budget=half),
    }
    full = 1 - float(outputs.correct[-1].double().mean())
    lines = [
        f"Thresholds and what is withheld found on the same videos, {draws} draws each from the answers to",
        f"{len(outputs.paths)} clips, of which full inference gets {full:.1%} wrong.",
        "",
        "| thresholds | calibration | at most wrong | broken | answered | found |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, target in rules.items():
        for count, max_error in itertools.product((300, 1000), (0.05, 0.1)):
            broken, answered, found = 0, 0.0, 0
            for draw in range(draws):
                rows = torch.from_numpy(np.random.default_rng((count, draw)).integers(len(outputs.paths), size=count))
                drawn = replace(
                    outputs,
                    logits=outputs.logits[:, rows],
                    labels=outputs.labels[rows],
                    paths=[str(n) for n in range(count)],
                    recordings=[str(n) for n in range(count)],
                )
                policy = outputs.policy
                if target is not None:
                    lost, names = drawn.lost(with_labels=True), drawn.recordings
                    thresholds, _ = find_point(drawn.scores, lost, drawn.gmacs, target, names)
                    policy = ThresholdPolicy(thresholds=thresholds)
                reject = drawn.under(policy, None).rejected(max_error, 0.95)
                if reject.threshold is not None:
                    new = outputs.under(policy, None, reject)
                    given, wrong = new.answered, ~new.correct.gather(0, new.taken[None])[0]
                    broken += float(wrong[given].double().mean()) > max_error
                    answered, found = answered + float(given.double().mean()), found + 1
            shares = " | ".join(f"{100 * x / draws:.1f} %" for x in (broken, answered, found))
            lines.append(f"| {name} | {count} | {max_error:.0%} | {shares} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


@cache
def permitted(count: int, error: float) -> Counts:
    """The most errors among the m surest with which the test clears, for m from 0 to count; -1 where none do."""
    most = np.full(count + 1, -1)
    for m in range(1, count + 1):
        most[m] = most[m - 1]
        while most[m] + 1 <= m * MAX_ERROR and at_most(int(most[m]) + 1, m, MAX_ERROR) <= error:
            most[m] += 1
    return most


def starts(count: int) -> list[int]:
    """As many numbers as there is room for, each twice the one before; the first is cleared without an error."""
    found: list[int] = []
    while True:
        first = math.ceil(math.log(ERROR / (len(found) + 1)) / math.log1p(-MAX_ERROR))
        if first * 2 ** len(found) > count:
            return found
        found = [first * 2**j for j in range(len(found) + 1)]


def carried(errors: Counts, begins: list[int]) -> Counts:
    """From the fewest to the most videos; the error of the promise is shared among the starts, and handed on."""
    draws, count = errors.shape
    levels = np.stack(
        [np.full(count + 1, -1)] + [permitted(count, ERROR * j / len(begins)) for j in range(1, len(begins) + 1)]
    )
    held, best = np.zeros(draws, dtype=int), np.zeros(draws, dtype=int)
    for m in range(min(begins), count + 1):
        held += m in begins
        clears = errors[:, m - 1] <= levels[held, m]
        best[clears] = m
        held[~clears] = 0
    return best


def fallback(errors: Counts) -> Counts:
    """Several starts, doubling."""
    begins = starts(errors.shape[1])
    return carried(errors, begins) if begins else np.zeros(len(errors), dtype=int)


def one_start(errors: Counts) -> Counts:
    """One start, at the fewest videos that can be cleared."""
    return carried(errors, starts(errors.shape[1])[:1] and [starts(59)[0]])


def from_half(errors: Counts) -> Counts:
    """One start, at half of the videos, or the fewest that can be cleared."""
    return carried(errors, [max(errors.shape[1] // 2, starts(59)[0])])


def from_top(errors: Counts) -> Counts:
    """One start, at the surest video."""
    return carried(errors, [1])


def grid(errors: Counts) -> Counts:
    """Bonferroni over the numbers of videos that `fallback` starts at, and all of them."""
    count = errors.shape[1]
    begins = sorted({*starts(count), count})
    most = permitted(count, ERROR / len(begins))
    best = np.zeros(len(errors), dtype=int)
    for m in begins:
        best[errors[:, m - 1] <= most[m]] = m
    return best


def sgr(errors: Counts) -> Counts:
    """Geifman and El-Yaniv's binary search, with the error of the promise shared among its log2 n steps."""
    draws, count = errors.shape
    steps = math.ceil(math.log2(count))
    most = permitted(count, ERROR / steps)
    low, high = np.ones(draws, dtype=int), np.full(draws, count)
    best = np.zeros(draws, dtype=int)
    for _ in range(steps):
        middle = -(-(low + high) // 2)
        clears = errors[np.arange(draws), middle - 1] <= most[middle]
        best = np.where(clears, np.maximum(best, middle), best)
        low, high = np.where(clears, middle, low), np.where(clears, high, middle)
    return best


WAYS: dict[str, Way] = {
    "several starts": fallback,
    "one start": one_start,
    "from half": from_half,
    "from the surest": from_top,
    "few numbers (Bonferroni)": grid,
    "binary search (SGR)": sgr,
}


def table(rows: list[Any], draws: int) -> str:
    """As Markdown."""
    lines = [
        f"At most {MAX_ERROR:.0%} wrong among the answered, with {1 - ERROR:.0%} confidence; {draws} calibrations.",
        "Broken: the share of calibrations whose threshold has a larger error. Answered: the mean share of all videos.",
        "Found: the share of calibrations that find a threshold.",
        "",
        "| videos from | calibration | way | broken | answered | found |",
        "|---|--:|---|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {count} | {way} | {100 * broken:.1f} % | {100 * answered:.1f} % | {100 * found:.1f} % |"
        for name, count, way, broken, answered, found in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
