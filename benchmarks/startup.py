"""What the command line takes before it does anything, and until one clip has its label.

    OMP_NUM_THREADS=1 python benchmarks/startup.py CHECKPOINT CLIP

Whole processes in turns: time of the processor and most memory, medians with lowest and highest.
"""

import argparse
import os
import statistics
import subprocess
import sys


def run(code: str) -> tuple[float, float]:
    """Seconds of the processor and MB of a Python process."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(child.pid, 0)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("clip")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    command = "from dynvid.cli import main; main({})"
    programs = {
        "import torch, timm, av": "import torch, timm, av",
        "--help": command.format(["--help"]),
        "an unknown command": command.format(["clasify"]),
        "classify with a wrong option": command.format(["classify", "--jsn"]),
        "classify one clip": command.format(["classify", options.checkpoint, options.clip, "--json"]),
    }
    found = {name: [] for name in programs}
    for turn in range(-1, options.repeats):  # the first turn fills the caches of the disk
        for name, code in programs.items():
            one = run(code)
            found[name] += [one] if turn >= 0 else []
    imports = [seconds for seconds, _ in found["import torch, timm, av"]]
    for name, runs in found.items():
        seconds, memory = zip(*runs, strict=True)
        ratios = [a / b for a, b in zip(seconds, imports, strict=True)]
        print(
            f"{name:30s} {spread(seconds)} s, {statistics.median(memory):.0f} MB, of the imports {spread(ratios)}",
            flush=True,
        )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
