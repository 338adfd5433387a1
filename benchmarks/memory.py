"""What a segment on a few images at a time saves, and whether saved MACs become saved time: results/memory.md.

ResNet-50 with random weights on 8 clips of 16 x 224, one thread, exits forced. CPU time of the process, user and
system; every ratio is of two runs that follow one another, given as median (lowest to highest).
"""

import argparse
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from dynvid import ExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.nets import parts

RESULTS = Path(__file__).parent / "results"
SHARES = {"25/25/25/25": (25, 25, 25, 25), "60/20/15/5": (60, 20, 15, 5)}
DEPTH = [(16, depth) for depth in (1, 2, 3, 4)]
FRAMES = {"frames 4,4,8": [(4, 4), (8, 4), (16, 4)], "frames 1,1,2,4,8": [(n, 4) for n in (1, 2, 4, 8, 16)]}

Times = dict[str, list[tuple[float, float]]]


class Forced(ThresholdPolicy):
    """Lets a fixed number of videos go at each exit."""

    def __init__(self, leaving: Sequence[int]) -> None:
        super().__init__(num_exits=len(leaving))
        self.leaving = leaving

    def confident(self, position: int, logits: Tensor, earlier: Tensor | None = None) -> Tensor:
        return torch.arange(len(logits)) < self.leaving[position]


def leaving(batch: int, shares: Sequence[int]) -> list[int]:
    """Videos that go at each exit, to the nearest whole number.

    >>> leaving(8, (25, 25, 25, 25)), leaving(8, (60, 20, 15, 5))
    ([2, 2, 2, 2], [5, 1, 2, 0])
    """
    gone = [round(sum(shares[: k + 1]) * batch / 100) for k in range(len(shares))]
    return [now - before for now, before in zip(gone, [0, *gone], strict=False)]


def measured(jobs: dict[str, Callable[[], object]], repeats: int) -> Times:
    """CPU seconds, user and system, of each job; one of each in turn, the first round thrown away."""
    times: Times = {name: [] for name in jobs}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            before = resource.getrusage(resource.RUSAGE_SELF)
            job()
            after = resource.getrusage(resource.RUSAGE_SELF)
            times[name].append((after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime))
    return {name: found[1:] for name, found in times.items()}


def ratios(times: Times, name: str, base: str) -> list[float]:
    """Time of one job over that of another, round by round."""
    return [sum(a) / sum(b) for a, b in zip(times[name], times[base], strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median (lowest to highest)."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def full(net: ExitNet, video: Tensor) -> Tensor:
    """The last exit's logits, in one go: as plain full inference."""
    with torch.no_grad():
        return net.stream(video, exits=[-1]).advance()


def sizes(dtype: torch.dtype, batch: int, images: Sequence[int], repeats: int) -> list[str]:
    """Full inference by the images that a segment is run on."""
    net = ExitNet(route=[(16, 4)]).eval().to(dtype)
    video = torch.randint(0, 256, (batch, 16, 3, 224, 224), dtype=torch.uint8)
    answers = {}

    def run(count: int) -> None:
        parts.IMAGES = count
        answers[count] = full(net, video)

    jobs = {str(n): lambda n=n: run(n) for n in (10**9, *images)}
    times = measured(jobs, repeats)
    rows = []
    for n in (10**9, *images):
        system = spread([s / (u + s) for u, s in times[str(n)]])
        same = torch.equal(answers[n], answers[10**9])
        what = "all" if n == 10**9 else str(n)
        rows.append(f"| {what} | {spread(ratios(times, str(n), str(10**9)))} | {system} | {'yes' if same else 'no'} |")
    return rows


def exits(dtype: torch.dtype, batch: int, repeats: int) -> list[str]:
    """Time saved over MACs saved, and what exits cost where nobody takes one."""
    torch.manual_seed(0)
    nets = {"depth": ExitNet(route=DEPTH), "unified": UnifiedExitNet()}
    nets |= {name: ExitNet(route=route) for name, route in FRAMES.items()}
    video = torch.randint(0, 256, (batch, 16, 3, 224, 224), dtype=torch.uint8)
    rows = []
    for name, net in nets.items():
        net.eval().to(dtype)
        jobs: dict[str, Callable[[], object]] = {"full": lambda net=net: full(net, video)}
        saved = {}
        stay = Forced([*[0] * (len(net.route) - 1), batch])
        jobs["nobody"] = lambda net=net, stay=stay: net.predict(video, stay)
        for label, shares in SHARES.items() if len(net.route) == 4 else ():
            counts = leaving(batch, shares)
            policy = Forced(counts)
            jobs[label] = lambda net=net, policy=policy: net.predict(video, policy)
            spent = sum(n * gmacs for n, gmacs in zip(counts, net.gmacs, strict=True)) / batch
            saved[label] = 1 - spent / net.full_gmacs
        times = measured(jobs, repeats)
        rows.append(f"| {name}, nobody exits | - | {spread(ratios(times, 'nobody', 'full'))} | - |")
        for label, macs in saved.items():
            r = ratios(times, label, "full")
            rows.append(f"| {name}, {label} | {macs:.3f} | {spread(r)} | {spread([(1 - x) / macs for x in r])} |")
        print("\n".join(rows[-3:]), file=sys.stderr, flush=True)
    return rows


def processor() -> str:
    """The name that the kernel gives the processor."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.processor()


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="memory")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="*", default=[4, 8, 16, 32])
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    a = parser.parse_args()
    torch.set_num_threads(1)
    chosen = parts.IMAGES
    lines = [f"{date.today()}, {processor()}, torch {torch.__version__}, {a.repeats} rounds.", ""]
    for name in a.dtypes:
        dtype = getattr(torch, name)
        lines += [f"## {name}, batch {a.batch}", ""]
        if a.images:
            lines += ["| images at a time | time / all at once | system time / all time | equal |", "|---|---|---|---|"]
            lines += [*sizes(dtype, a.batch, a.images, a.repeats), ""]
            print("\n".join(lines), file=sys.stderr, flush=True)
            parts.IMAGES = chosen
        lines += ["| exits | MACs saved | time / own full inference | time saved / MACs saved |", "|---|---|---|---|"]
        lines += [*exits(dtype, a.batch, a.repeats), ""]
        print("\n".join(lines), flush=True)
    (RESULTS / f"{a.name}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
