"""The ablation of Wu et al., CVPRW 2020, in terms of promises: made from what record.py has kept, without any run.

    python benchmarks/record.py benchmarks/nets.yaml runs --only 'msdnet/*'
    python benchmarks/ablation_recorded.py --name msdnet runs/msdnet

The folder holds SCHEME_SHIFT/SEED. The last epoch is the result, so that all of validation calibrates. Writes
results/ablation_NAME.json, .md and .png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from ablation import ROWS, Key, Points, by_row, draw, spread
from real_nets import mean_gmacs, read, share
from runs import RESULTS, write

from dynvid.calibration import Target, candidate_thresholds, find_point, operate, whole_curve
from dynvid.outputs import Outputs
from dynvid.policy import choose_exits

TARGETS = {
    "1 %": Target(max_drop=0.01),
    "2 %": Target(max_drop=0.02),
    "0 %, no promise": Target(max_drop=0.0, confidence=None),
}
EQUAL = "equal on test"


def main() -> None:
    """Read, judge, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("runs", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[Key, dict[str, Any]] = {}
    for scheme, shift in ROWS:
        for seed, run in read(options.runs / f"{scheme}_{shift}").items():
            found[scheme, shift, seed] = judge(run.val, run.test)
    file = RESULTS / f"ablation_{options.name}.json"
    keyed = [{"scheme": scheme, "shift": shift, "seed": seed} | run for (scheme, shift, seed), run in found.items()]
    kept = [{name: value for name, value in run.items() if name != "curve"} for run in keyed]  # that is in the figure
    write(file, "[\n" + ",\n".join(map(json.dumps, kept)) + "\n]\n")
    write(file.with_suffix(".md"), table(found))
    print(table(found))
    draw({key: points(run) for key, run in found.items()}, file.with_suffix(".png"))


def judge(val: Outputs, test: Outputs) -> dict[str, Any]:
    """One run: points are [GMACs, top-1] on test."""
    gmacs = test.gmacs
    exits = [[cost, share(right)] for cost, right in zip(gmacs, test.correct, strict=True)]
    result: dict[str, Any] = {"full": [test.full_gmacs, exits[-1][1]], "exits": exits, "curve": [], "operated": {}}
    if len(gmacs) == 1:
        return result
    curve = operate(test.scores, test.correct, gmacs, whole_curve(val.scores, val.correct, gmacs))
    result["curve"] = sorted({*zip(curve.gmacs.tolist(), curve.accuracy.tolist(), strict=True)})
    for name, target in TARGETS.items():
        thresholds, _ = find_point(val.scores, val.lost(True), gmacs, target, val.recordings)
        taken = choose_exits(test.scores, thresholds)
        right, lost = (table.gather(0, taken[None])[0] for table in (test.correct, test.lost(True)))
        result["operated"][name] = {"gmacs": mean_gmacs(test, taken), "accuracy": share(right), "lost": share(lost)}
    result["operated"][EQUAL] = equal_on_test(test)
    return result


def equal_on_test(test: Outputs) -> dict[str, float]:
    """The cheapest thresholds that are as accurate as full inference on the test videos, which choose them."""
    every = operate(test.scores, test.correct, test.gmacs, candidate_thresholds(test.scores))
    cheapest = every.gmacs.where(every.accuracy >= every.accuracy[-1], torch.inf).argmin()  # the last is full inference
    return {"gmacs": float(every.gmacs[cheapest]), "accuracy": float(every.accuracy[cheapest])}


def points(run: dict[str, Any]) -> Points:
    """As the figure takes them; its stars are the first promise."""
    found: Points = {"full": [(*run["full"],)], "exit": [(*exit,) for exit in run["exits"]], "curve": run["curve"]}
    dynamic = run["operated"].get(next(iter(TARGETS)))
    return found | ({"dynamic": [(dynamic["gmacs"], dynamic["accuracy"])]} if dynamic else {})


def table(found: dict[Key, dict[str, Any]]) -> str:
    """Medians over seeds, lowest and highest in brackets."""
    columns = [f"{name}: {kind}" for name in (*TARGETS, EQUAL) for kind in ("change, points", "GMACs saved")]
    lines = [
        "Median over seeds, lowest and highest in brackets. 1 %, 2 %: no more of new videos are lost (full inference",
        "is right, the exit taken is wrong), promised with 95 % confidence. 0 %, no promise: none of the calibration",
        "videos is. Equal on test: the cheapest thresholds that are as accurate as full inference, chosen on test",
        "itself: for comparison with the paper's savings at equal accuracy only. Broken: seeds that lost more test",
        "videos than promised, at 1 % and at 2 %.",
        "",
        f"| scheme | shift | seeds | first exit, GMACs | full inference, top-1 | {' | '.join(columns)} | broken |",
        "|---|---|---|---|---|" + "---|" * (len(columns) + 1),
    ]
    for scheme, shift, runs in by_row(found):
        accuracy = [100 * run["full"][1] for run in runs]
        cells = [scheme, shift, str(len(runs)), "", spread(accuracy, " %")]
        if len(runs[0]["exits"]) == 1:
            lines.append(f"| {' | '.join(cells)} |" + " |" * (len(columns) + 1))
            continue
        cells[3] = f"{100 * runs[0]['exits'][0][0] / runs[0]['full'][0]:.0f} %"
        for name in (*TARGETS, EQUAL):
            operated = [run["operated"][name] for run in runs]
            change = [100 * (now["accuracy"] - run["full"][1]) for now, run in zip(operated, runs, strict=True)]
            saved = [100 * (1 - now["gmacs"] / run["full"][0]) for now, run in zip(operated, runs, strict=True)]
            cells += [spread(change, "", "+z.1f"), spread(saved, " %")]
        promised = [(name, target.value) for name, target in TARGETS.items() if target.promises]
        cells.append(", ".join(str(sum(run["operated"][n]["lost"] > risk for run in runs)) for n, risk in promised))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
