"""Is there a better route than Figure 2(d)'s? Found in the answers of all cells of a net that was trained on that one.

    python benchmarks/routes.py train FOLDER --jobs 4
    python benchmarks/routes.py report FOLDER

The first trains and records: per seed the quickstart, on clips of that seed; then a net on the route that was found.
What is finished in FOLDER is not run again. The second compares on the test clips and writes
benchmarks/results/routes.json and routes.md.

A third of the validation clips chooses the route, the other two thirds carry the promise. The weights are those after
the last epoch, which no validation clip has chosen. The search permits the share of losses that the promise will (none
of 400 clips at 1 %); that it should, rather than the share that is promised, was seen on validation clips of seed 0.
"""

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

import torch
from runs import DYNVID, RESULTS, call, stop_children_on_sigterm, write
from torch import Tensor

from dynvid.calibration import FoundRoute, best_route, kept_apart, thresholds_for_risk
from dynvid.calibration.binomial import binomial_cdf
from dynvid.calibration.promise import shared_threshold
from dynvid.costs import CellCosts
from dynvid.data import SyntheticDataModule
from dynvid.module import DynamicInferenceModule
from dynvid.policy import choose_exits, max_probability
from dynvid.routes import Exit, Route, check_route

RISK, CONFIDENCE = 0.01, 0.95
MAX_EXITS = 4  # as many as Figure 2(d) has here
ARMS = ("Figure 2(d)", "found at 1 % lost, same weights", "found, same weights", "found, trained anew")
KNOWN = ("Figure 2(d), knowing the test clips", "best of all routes, knowing the test clips")


class Answers(NamedTuple):
    """What all cells, or the K exits of a route, answered to N clips.

    Attributes:
        scores: How sure each is, (T, D, N) or (K, N).
        correct: Whether it is right.
        lost: Whether full inference is right and this is wrong.
    """

    scores: Tensor
    correct: Tensor
    lost: Tensor

    def of(self, chosen: Tensor) -> Self:
        """Some of the clips: bool (N,)."""
        return type(self)(*(part[..., chosen] for part in self))


class Net(NamedTuple):
    """One trained net: the route it was trained on, what cells cost, and the answers of the parts."""

    route: Route
    costs: CellCosts
    choosing: Answers
    promising: Answers
    test: Answers


def main() -> None:
    """Train, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds trained side by side; they share the CPUs")
    options = parser.parse_args()
    seeds = range(options.seeds)
    if options.step == "train":
        stop_children_on_sigterm()
        share = max(len(os.sched_getaffinity(0)) // options.jobs, 1)
        torch.set_num_threads(share)
        with ThreadPoolExecutor(options.jobs) as pool:
            for line in pool.map(lambda seed: train(options.folder, seed, share), seeds):
                print(line, flush=True)
    else:
        report([compare(options.folder / f"seed-{seed}") | {"seed": seed} for seed in seeds])


def train(folder: Path, seed: int, threads: int) -> str:
    """Both nets of a seed, and what their cells answer."""
    here = folder / f"seed-{seed}"
    fit_and_record(here, "figure", seed, threads)
    net = read(here / "figure.pt")
    found = search(net)
    if found.route != net.route:
        fit_and_record(here, "found", seed, threads, found.route)
    return f"seed {seed}: found {shown(found.route)}"


def fit_and_record(here: Path, name: str, seed: int, threads: int, route: Route | None = None) -> None:
    """`dynvid fit`, then the cells of its last checkpoint; what is there already is kept."""
    logs, unfinished, recorded = here / name, here / f"{name}.unfinished", here / f"{name}.pt"
    if not logs.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        along = [] if route is None else ["--model.net.route", json.dumps(route)]
        command = [DYNVID, "fit", "--config", "quickstart.yaml", *along, "--seed_everything", str(seed)]
        command += ["--data.root", str(here / "clips"), "--data.seed", str(seed), "--data.num_workers", str(threads)]
        command += ["--trainer.default_root_dir", str(unfinished), "--trainer.enable_progress_bar", "false"]
        call(command, os.environ | {"OMP_NUM_THREADS": str(threads)})
        unfinished.rename(logs)
    if not recorded.exists():
        answers = record(next(logs.rglob("last.ckpt")), here / "clips", seed, threads)
        torch.save(answers, recorded.with_suffix(".unfinished"))
        recorded.with_suffix(".unfinished").rename(recorded)


@torch.inference_mode()
def record(checkpoint: Path, clips: Path, seed: int, workers: int) -> dict[str, Any]:
    """Logits (T, D, N, classes), labels and names of the validation and test clips, and what is known of the net."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = DynamicInferenceModule.load_from_checkpoint(checkpoint).net.to(device)
    data = SyntheticDataModule(clips, seed=seed, num_workers=workers)
    found: dict[str, Any] = {"route": [list(e) for e in net.route], "costs": net.cell_costs._asdict()}
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        logits, labels, names = [], [], []
        for batch in loader:
            logits.append(net.cells(batch["video"].to(device)).cpu())
            labels.append(batch["label"])
            names += [str(Path(path).relative_to(clips)) for path in batch["path"]]
        found[split] = {"logits": torch.cat(logits, dim=2), "labels": torch.cat(labels), "names": names}
    return found


def read(recorded: Path) -> Net:
    """What `record` gave, in parts."""
    found = torch.load(recorded, weights_only=True)
    costs = CellCosts(**found["costs"])
    val, test = (answers(found[split]["logits"], found[split]["labels"]) for split in ("val", "test"))
    apart = kept_apart(found["val"]["names"])
    route = check_route(found["route"], len(val.scores), costs.depths[-1])
    return Net(route, costs, val.of(~apart), val.of(apart), test)


def answers(logits: Tensor, labels: Tensor) -> Answers:
    """Of all cells, (T, D, N, classes) and (N,)."""
    correct = logits.argmax(-1) == labels
    return Answers(max_probability(logits), correct, correct[-1, -1] & ~correct)


def search(net: Net, risk: float | None = None) -> FoundRoute:
    """The best route on the clips that choose it; by default at the share of losses that the promise will permit."""
    if risk is None:
        videos = net.promising.scores.shape[-1]
        risk = max(int((binomial_cdf(videos, RISK) <= 1 - CONFIDENCE).sum()) - 1, 0) / videos
    return best_route(net.choosing.scores, net.choosing.lost, net.costs, risk, MAX_EXITS)


def compare(here: Path) -> dict[str, Any]:
    """One seed: what each route saves and loses on the test clips."""
    net = read(here / "figure.pt")
    found = search(net)
    anew = net
    if found.route != net.route:
        anew = read(here / "found.pt")
        if anew.route != found.route:
            sys.exit(f"{here}: found and found.pt are of another route than {shown(found.route)}: remove them")
    known = best_route(net.test.scores, net.test.lost, net.costs, RISK, MAX_EXITS)
    return {
        "found": [list(e) for e in found.route],
        "saved_while_searching": 1 - found.gmacs / full_gmacs(net),
        "best_known": [list(e) for e in known.route],
        ARMS[0]: promised(net, net.route),
        ARMS[1]: promised(net, search(net, RISK).route),
        ARMS[2]: promised(net, found.route),
        ARMS[3]: promised(anew, found.route),
        KNOWN[0]: knowing(net, net.route),
        KNOWN[1]: knowing(net, known.route),
    }


def promised(net: Net, route: Route) -> dict[str, float]:
    """Thresholds that the promising clips promise, on the test clips."""
    promising, test = along(net, route, net.promising), along(net, route, net.test)
    thresholds = thresholds_for_risk(promising.scores, promising.lost, net.costs.of(route), RISK, CONFIDENCE)
    return operated(net, route, test, thresholds)


def knowing(net: Net, route: Route) -> dict[str, float]:
    """Thresholds that the test clips themselves allow: what the route could save at most, with one for all exits."""
    test = along(net, route, net.test)
    thresholds = torch.full((len(route),), -torch.inf)
    thresholds[:-1] = shared_threshold(test.scores, test.lost, int(RISK * test.scores.shape[1] + 1e-6))
    return operated(net, route, test, thresholds)


def along(net: Net, route: Route, cells: Answers) -> Answers:
    """The answers at the exits of a route, (K, N)."""
    at = [(n - 1, net.costs.depths.index(depth)) for n, depth in route]
    return Answers(*(torch.stack([part[cell] for cell in at]) for part in cells))


def operated(net: Net, route: Route, test: Answers, thresholds: Tensor) -> dict[str, float]:
    """What clips cost and lose; `test` is along the route."""
    taken = choose_exits(test.scores, thresholds)
    gmacs = torch.tensor(net.costs.of(route), dtype=torch.float64)[taken].mean()
    right, lost = (part.gather(0, taken[None]).double().mean() for part in (test.correct, test.lost))
    return {
        "saved": float(1 - gmacs / full_gmacs(net)),
        "lost": float(lost),
        "full_accuracy": float(test.correct[-1].double().mean()),
        "accuracy": float(right),
    }


def full_gmacs(net: Net) -> float:
    """GMACs of full inference, which evaluates the last head only."""
    return net.costs.of([net.route[-1]])[0]


def report(rows: list[dict[str, Any]]) -> None:
    """Write the figures of all seeds and the table."""
    write(RESULTS / "routes.json", json.dumps({"risk": RISK, "max_exits": MAX_EXITS, "seeds": rows}, indent=1) + "\n")
    write(RESULTS / "routes.md", table(rows))
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """A line per arm over all seeds, then a line per seed."""
    lines = [
        f"Generated clips, {len(rows)} seeds: median and range. With {100 * CONFIDENCE:g} % confidence at most "
        f"{100 * RISK:g} % of new clips are lost;",
        "saved, lost and top-1 are of the test clips. Where these are known, the threshold is the lowest that loses at",
        f"most {100 * RISK:g} % of them. More: points saved beyond Figure 2(d), seed by seed.",
        "",
        "| route | GMACs saved | more | lost | full inference, top-1 | dynamic inference, top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for arm in (*ARMS, *KNOWN):
        base = KNOWN[0] if arm in KNOWN else ARMS[0]
        more = spread([100 * (row[arm]["saved"] - row[base]["saved"]) for row in rows], "+z.1f")
        parts = [spread([100 * row[arm][key] for row in rows]) + " %" for key in ("saved", "lost")]
        top1 = [spread([100 * row[arm][key] for row in rows]) + " %" for key in ("full_accuracy", "accuracy")]
        lines.append(f"| {' | '.join((arm, parts[0], '' if arm == base else more, parts[1], *top1))} |")
    lines += [
        "",
        f"| seed | found | saved while searching | {' | '.join(ARMS)} |",
        "|---|---|---|" + "---|" * len(ARMS),
    ]
    for row in rows:
        saved = [row["saved_while_searching"], *(row[arm]["saved"] for arm in ARMS)]
        found = shown([Exit(*cell) for cell in row["found"]])
        lines.append(f"| {row['seed']} | {found} | {' | '.join(f'{100 * x:.1f} %' for x in saved)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], form: str = ".1f") -> str:
    """Median and range."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def shown(route: Route | list[Exit]) -> str:
    """A route as text."""
    return " ".join(f"({n},{depth})" for n, depth in route)


if __name__ == "__main__":
    main()
