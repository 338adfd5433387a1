"""Fit and test a config with several seeds through the command line, and summarise what the reports say.

    python benchmarks/seeds.py --name quickstart --config quickstart.yaml
    python benchmarks/seeds.py --name ucf101_5 --carve --config ucf101.yaml --config benchmarks/ucf101_5.yaml \\
        --data.root PATH_TO_UCF101 --model.net.pretrained PATH_TO_WEIGHTS

Arguments after the known ones go to `dynvid fit` and `dynvid test`. Writes benchmarks/results/NAME.json; seeds already
in it are not run again.
"""

import argparse
import json
from statistics import mean, median

from runs import RESULTS, fit_and_test, require_same, shown, stop_children_on_sigterm, write

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
)
parser.add_argument("--name", required=True)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--config", action="append", required=True)
parser.add_argument("--carve", action="store_true", help="the seed draws the validation split too")
options, extra = parser.parse_known_args()
stop_children_on_sigterm()

file = RESULTS / f"{options.name}.json"
configs = [word for config in options.config for word in ("--config", config)]
arguments = shown([*(["--carve"] if options.carve else []), *configs, *extra])
results = json.loads(file.read_text()) if file.exists() else {"arguments": arguments, "runs": []}
require_same(file, results.get("arguments", "arguments that it does not tell"), arguments)
runs = results["runs"]
for seed in range(options.seeds):
    if any(run["seed"] == seed for run in runs):
        continue
    carve = ["--data.seed", str(seed)] if options.carve else []
    run = fit_and_test([*configs, *extra, "--seed_everything", str(seed), *carve])
    runs.append({"seed": seed, "fit_minutes": run.fit_minutes} | run.report)
    picks = {
        "full_accuracy": [run["full"]["accuracy"] for run in runs],
        "dynamic_accuracy": [run["dynamic"]["accuracy"] for run in runs],
        "saved": [run["saved"] for run in runs],
    }
    summary = {pick.__name__: {name: pick(values) for name, values in picks.items()} for pick in (mean, median)}
    write(file, json.dumps({"arguments": arguments} | summary | {"runs": runs}, indent=2) + "\n")

print(f"{'seed':>6} {'full':>8} {'dynamic':>8} {'saved':>8}")
rows = [(run["full"]["accuracy"], run["dynamic"]["accuracy"], run["saved"]) for run in runs]
for run, row in zip(runs, rows, strict=True):
    print(f"{run['seed']:>6} " + " ".join(f"{value:>8.3f}" for value in row))
for pick in (mean, median):
    print(f"{pick.__name__:>6} " + " ".join(f"{pick(column):>8.3f}" for column in zip(*rows, strict=True)))
