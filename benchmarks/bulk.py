"""What `dynvid classify --out` costs beyond `Recognizer.many`, its memory, and what a second worker brings.

    python benchmarks/bulk.py overhead memory scaling --repeats 3

overhead  seconds of `label_files` over those of `Recognizer.many` on the same clips, in turns, each in a process of its
          own, loading left out: from the first row to the last
memory    peak memory of the parent and of the process that reads, after 500 and after 3,000 clips; and of the parent
          alone over two million paths that are done
scaling   rows per second with two of Ray's actors over those with one, in turns, each in a run of its own, loading left
          out

All with one thread of computation per process, on generated clips and a small net with random weights; ratios are of
one repeat. Writes benchmarks/results/bulk.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from clips import make_clips, make_net
from runs import RESULTS, write

OUT = """
import resource, sys, time
from dynvid.inference import label_files
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
model, videos, out, engine, actors = sys.argv[1:]
where = {"engine": "ray", "actors": int(actors), "batch_size": 4} if engine == "ray" else {"workers": 1}
times = []
done = label_files(model, open(videos).read().split(), out, device="cpu", precision="float32",
                   report=lambda progress: times.append(time.perf_counter()), **where)
# The first rows come when the first worker is ready; the others' loading is no work.
start = len(times) // 4
print((len(times) - 1 - start) / (times[-1] - times[start]))
# Not ru_maxrss of this process, which has in it what the process that started it took.
print(peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
MANY = """
import sys, time
from dynvid.inference import Recognizer
recognizer = Recognizer.load(sys.argv[1], "cpu", "float32")
times = [time.perf_counter() for _ in recognizer.many(open(sys.argv[2]).read().split(), workers=1)]
start = len(times) // 4
print((len(times) - 1 - start) / (times[-1] - times[start]))
"""
DONE = """
from dynvid.inference.bulk.keys import Keys, key_of
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
keys = Keys()
for number in range(2_000_000):
    keys.add(key_of(f"/videos/{number:08d}.mp4"))
print(before, peak())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("overhead", "memory", "scaling"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=1500, help="of a run that is timed")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    path = RESULTS / "bulk.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_net(folder / "net.ckpt", size=64, frames=8)
        for what in options.what:
            result[what] = MEASURES[what](folder, options) | {"machine": machine()}
            write(path, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def overhead(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    videos, rates = listed(folder, options.clips), []
    for number in range(options.repeats):
        (many,) = numbers(MANY, folder / "net.ckpt", videos)
        ours, *_ = numbers(OUT, folder / "net.ckpt", videos, folder / f"overhead{number}", "local", 0)
        rates.append((many, ours))
        print(f"many {many:.1f}/s, --out {ours:.1f}/s, {many / ours:.3f} times the time", flush=True)
    return {"clips": options.clips, "many_over_out": spread([many / ours for many, ours in rates]), "rates": rates}


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for count in (500, 3000):
        _, parent, child = numbers(
            OUT, folder / "net.ckpt", listed(folder, count), folder / f"memory{count}", "local", 0
        )
        found[str(count)] = {"parent_mb": round(parent / 1024), "child_mb": round(child / 1024)}
        print(count, found[str(count)], flush=True)
    before, after = numbers(DONE)
    return {"clips": found, "two_million_paths_add_mb": round((after - before) / 1024)}


def scaling(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    videos, rates = listed(folder, options.clips), []
    for number in range(options.repeats):
        one, two = (
            numbers(OUT, folder / "net.ckpt", videos, folder / f"ray{number}_{actors}", "ray", actors)[0]
            for actors in (1, 2)
        )
        rates.append((one, two))
        print(f"one actor {one:.1f}/s, two {two:.1f}/s, {two / one:.2f} times", flush=True)
    return {"clips": options.clips, "two_over_one": spread([two / one for one, two in rates]), "rates": rates}


MEASURES = {"overhead": overhead, "memory": memory, "scaling": scaling}


def listed(folder: Path, count: int) -> Path:
    path = folder / f"{count}.txt"
    if not path.exists():
        path.write_text("\n".join(make_clips(folder / f"clips{count}", count, size=64, frames=16)))
    return path


def numbers(code: str, *arguments: object) -> list[float]:
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end"


if __name__ == "__main__":
    main()
