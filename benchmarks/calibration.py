"""CPU time and memory of calibration on recorded scores, one thread, each in a process of its own.

    python benchmarks/calibration.py

Writes benchmarks/results/calibration.md.
"""

import resource
import subprocess
import sys
import time

import torch
from runs import RESULTS, write

from dynvid.calibration import frontier, operate, thresholds_for_risk

SIZES = ((20_000, 4), (20_000, 16), (200_000, 4), (200_000, 16))


def main() -> None:
    """Measure, print and write."""
    lines = [
        "CPU seconds on one thread, least of three, and memory added to that of the scores. `frontier` applies every",
        "candidate; `operate` here applies as many sets again.",
        "",
        "| videos | exits | sets of thresholds | frontier | operate | thresholds_for_risk | memory added |",
        "|---|---|---|---|---|---|---|",
    ]
    for videos, exits in SIZES:
        command = [sys.executable, __file__, str(videos), str(exits)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        sets, megabytes, *seconds = found
        cells = [f"{float(s):.2f} s" for s in seconds]
        lines.append(f"| {videos:,} | {exits} | {sets} | {' | '.join(cells)} | {float(megabytes):.0f} MB |")
    write(RESULTS / "calibration.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def measure(videos: int, exits: int) -> None:
    """Print sets of thresholds, MB and seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scores, gmacs = torch.rand(exits, videos), [float(k + 1) for k in range(exits)]
    correct = torch.rand(exits, videos) < 0.7
    lost = torch.rand(exits, videos) < 0.02 * (1 - scores)
    lost[-1] = False
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = [float("inf")] * 3
    for _ in range(3):
        started = time.process_time()
        thresholds = frontier(scores, correct, gmacs).thresholds
        middle = time.process_time()
        operate(scores, correct, gmacs, thresholds)
        late = time.process_time()
        thresholds_for_risk(scores, lost, gmacs, 0.01)
        ends = time.process_time()
        best = [min(pair) for pair in zip(best, (middle - started, late - middle, ends - late), strict=True)]
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(len(thresholds), added, *best)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
