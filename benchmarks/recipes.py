"""What each recipe makes of one clip's time, against timm's model as it is.

    OMP_NUM_THREADS=1 python benchmarks/recipes.py resnet50 mobilenetv2_100

One clip of 16 frames, 224 pixels, uint8, all of it computed (one exit), in one thread; random weights. `stock` is
timm's model run on the frames, its logits averaged (plain TSN, no shift); its frames are normalised by the same code.
Process CPU time, rounds interleaved; each figure is the median over rounds of how many times faster than `stock` a net
was in the same round, with lowest and highest, and the ratio of the best times, which others on the machine disturb
least. `kernel` is the share of time spent in the system, most of it for memory handed back and taken again; a second
table is of a C library that was told to keep it. Compiling starts with an empty cache, in one process.
Writes benchmarks/results/recipes.md and recipes.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
FRAMES, SIZE, CLASSES = 16, 224, 400
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1099511627776", "MALLOC_TOP_PAD_": "268435456"}
ROWS = ("stock", "none", "default, float32", "default", "compile", "compile, no shift", "stock compiled, bfloat16")


def measure(backbone: str, rounds: int) -> dict[str, Any]:
    """Ratios, kernel shares and seconds of compiling, by row."""
    import timm
    import torch
    import torch._inductor.config

    from dynvid import ExitNet
    from dynvid.inference.compiled import warm_up
    from dynvid.inference.recipe import prepare

    torch.set_num_threads(1)
    torch.manual_seed(0)
    video = torch.randint(0, 256, (1, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
    net = ExitNet(backbone, CLASSES, FRAMES).eval()
    still = ExitNet(backbone, CLASSES, FRAMES, shift="none").eval()
    stock = timm.create_model(backbone, num_classes=CLASSES).eval()
    small = (
        timm.create_model(backbone, num_classes=CLASSES).eval().to(torch.bfloat16, memory_format=torch.channels_last)
    )
    compiled = torch.compile(small)
    torch.compile(torch.square)(torch.zeros(9))  # what starting the compiler takes is nobody's
    jobs: dict[str, Callable[[], object]] = {}
    lines, compiling = {}, {}
    for row, source, optimize, precision in (
        ("none", net, "none", "float32"),
        ("default, float32", net, "default", "float32"),
        ("default", net, "default", "auto"),
        ("compile", net, "compile", "auto"),
        ("compile, no shift", still, "compile", "auto"),
    ):
        fast, recipe = prepare(source, optimize, precision, "cpu")
        jobs[row] = lambda fast=fast: fast(video)
        lines[row] = str(recipe)
        if optimize == "compile":
            compiling[row] = spent(lambda fast=fast: warm_up(fast, [1]))

    def frozen() -> torch.Tensor:
        with torch._inductor.config.patch(freezing=True):
            return compiled(fast.to_frames(video)).mean(0)

    plain, _ = prepare(still, "none", "float32", "cpu")
    jobs["stock"] = lambda: stock(plain.to_frames(video)).mean(0)
    jobs["stock compiled, bfloat16"] = frozen
    with torch.no_grad():
        compiling["stock compiled, bfloat16"] = spent(frozen)
        for job in jobs.values():
            job()
        times: dict[str, list[tuple[float, float]]] = {row: [] for row in ROWS}
        for _ in range(rounds):
            for row in ROWS:
                times[row].append(cpu(jobs[row]))
    found = {}
    for row in ROWS:
        ratios = [base[0] / mine[0] for base, mine in zip(times["stock"], times[row], strict=True)]
        best = min(t for t, _ in times["stock"]) / min(t for t, _ in times[row])
        found[row] = {
            "ratio": [median(ratios), min(ratios), max(ratios)],
            "of_best_times": best,
            "kernel": median(kernel / total for total, kernel in times[row]),
            "compiling": compiling.get(row),
            "recipe": lines.get(row),
        }
    return found


def cpu(job: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process, and those of them spent in the kernel."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    job()
    total, after = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF)
    return total, after.ru_stime - before.ru_stime


def spent(job: Callable[[], object]) -> float:
    """CPU seconds of this process and those that it started and that have ended."""
    begun = sum(os.times()[:4])
    job()
    return sum(os.times()[:4]) - begun


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "| net | times faster than stock | of the best times | kernel | compiling, CPU s |",
        "|---|---|---|---|---|",
    ]
    for row, x in found.items():
        middle, low, high = x["ratio"]
        compiling = "" if x["compiling"] is None else f"{x['compiling']:.0f}"
        lines.append(
            f"| {row} | {middle:.2f} ({low:.2f} to {high:.2f}) | {x['of_best_times']:.2f} "
            f"| {100 * x['kernel']:.0f} % | {compiling} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*", default=["resnet50", "mobilenetv2_100"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--one", action="store_true", help="one backbone in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.backbones[0], arguments.rounds)))
        return
    import timm
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    about = {
        "date": date.today().isoformat(),
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "instructions": sorted(name for name, have in torch.cpu.get_capabilities().items() if have and "bf16" in name),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "rounds": arguments.rounds,
    }
    found: dict[str, Any] = {}
    for backbone in arguments.backbones:
        for memory, variables in (("as installed", {}), ("memory kept", KEEP)):
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | variables | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
                environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # in this process, where it is counted
                call = [sys.executable, __file__, "--one", backbone, "--rounds", str(arguments.rounds)]
                out = subprocess.run(call, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[f"{backbone}, {memory}"] = json.loads(out.splitlines()[-1])
            write(about, found)


def write(about: dict[str, Any], found: dict[str, Any]) -> None:
    RESULTS.joinpath("recipes.json").write_text(json.dumps({"about": about, "found": found}, indent=1) + "\n")
    lines = [
        f"One clip of {FRAMES} frames, {SIZE} pixels, one thread, process CPU time; {about['rounds']} interleaved",
        "rounds: median, lowest and highest of the ratios within a round, and the ratio of the best times.",
        f"{about['date']}, {about['processor']} ({', '.join(about['instructions'])}), torch {about['torch']}, "
        f"timm {about['timm']}.",
    ]
    for title, rows in found.items():
        lines += ["", f"## {title}", "", *table(rows)]
    RESULTS.joinpath("recipes.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
