"""Fit and test a config with several seeds through the command line, and summarise what the reports say.

    python benchmarks/seeds.py --name quickstart --config quickstart.yaml
    python benchmarks/seeds.py --name ucf101_5 --config ucf101.yaml --config benchmarks/ucf101_5.yaml \\
        --data.root PATH_TO_UCF101 --model.net.pretrained PATH_TO_WEIGHTS

Arguments after the known ones go to `dynvid fit` and `dynvid test`. Writes benchmarks/results/NAME.json; seeds already
in it are not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DYNVID = str(Path(sys.executable).with_name("dynvid"))
RESULTS = Path(__file__).parent / "results"

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
)
parser.add_argument("--name", required=True)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--config", action="append", required=True)
parser.add_argument("--carve", action="store_true", help="the seed draws the validation split too")
options, extra = parser.parse_known_args()

RESULTS.mkdir(exist_ok=True)
file = RESULTS / f"{options.name}.json"
runs = json.loads(file.read_text())["runs"] if file.exists() else []
configs = [word for config in options.config for word in ("--config", config)]
for seed in range(options.seeds):
    if any(run["seed"] == seed for run in runs):
        continue
    with tempfile.TemporaryDirectory() as folder:
        common = [*configs, "--seed_everything", str(seed), "--trainer.default_root_dir", folder, *extra]
        common += ["--data.seed", str(seed)] if options.carve else []
        common += ["--trainer.enable_progress_bar", "false"]
        started = time.perf_counter()
        subprocess.run([DYNVID, "fit", *common], check=True)
        fitted = time.perf_counter() - started
        checkpoints = sorted(Path(folder).glob("lightning_logs/*/checkpoints/*.ckpt"), key=os.path.getmtime)
        checkpoint = next((c for c in checkpoints if c.stem in ("best", "final")), checkpoints[-1])
        subprocess.run([DYNVID, "test", *common, "--ckpt_path", str(checkpoint)], check=True)
        report = json.loads(next(Path(folder).rglob("report.json")).read_text())
    runs.append({"seed": seed, "fit_minutes": round(fitted / 60, 2)} | report)
    medians = {
        "full_accuracy": statistics.median(run["full"]["accuracy"] for run in runs),
        "dynamic_accuracy": statistics.median(run["dynamic"]["accuracy"] for run in runs),
        "saved": statistics.median(run["saved"] for run in runs),
    }
    file.write_text(json.dumps({"median": medians, "runs": runs}, indent=2) + "\n")

print(f"{'seed':>6} {'full':>8} {'dynamic':>8} {'saved':>8}")
for run in runs:
    print(f"{run['seed']:>6} {run['full']['accuracy']:>8.3f} {run['dynamic']['accuracy']:>8.3f} {run['saved']:>8.3f}")
for label, pick in (("mean", statistics.mean), ("median", statistics.median)):
    cells = [
        pick(row)
        for row in zip(*((r["full"]["accuracy"], r["dynamic"]["accuracy"], r["saved"]) for r in runs), strict=True)
    ]
    print(f"{label:>6} {cells[0]:>8.3f} {cells[1]:>8.3f} {cells[2]:>8.3f}")
