"""How late an answer comes that was given a deadline, against the longest step of the net.

    OMP_NUM_THREADS=1 python benchmarks/deadline.py CLIP ...

ResNet-50 with random weights, unified, no exit ever sure: the deadline alone ends a walk. Deadlines are drawn evenly
from 0 to what a whole walk takes.
"""

import argparse
import itertools
import random
import statistics

import torch

from dynvid import UnifiedExitNet
from dynvid.inference import Recognizer, prepare


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    net, recipe = prepare(UnifiedExitNet("resnet50", num_classes=400, num_frames=16).eval())
    recognizer = Recognizer(net)
    steps: list[float] = []
    whole: list[float] = []
    late: list[float] = []
    for call in range(-3, options.calls):
        clip = options.clips[call % len(options.clips)]
        deadline = random.uniform(0, statistics.median(whole)) if call >= 0 and call % 4 else None
        found = recognizer(clip, deadline_ms=deadline)
        if call < 0:  # warms up
            whole.append(found.milliseconds)
            continue
        ends = [0.0, *(passed.milliseconds for passed in found.trace)]
        steps += [b - a for a, b in itertools.pairwise(ends)]
        if deadline is None:
            whole.append(found.milliseconds)
        else:
            late.append(found.milliseconds - deadline)
    late.sort()
    p99 = late[int(0.99 * len(late))]
    print(f"{recipe}; {len(late)} calls with a deadline, {len(whole)} without")
    print(f"a whole walk takes {statistics.median(whole):.0f} ms, its longest step {max(steps):.0f}")
    print(f"late by {statistics.median(late):.0f} ms in the median, p99 {p99:.0f}, at most {late[-1]:.0f}")
    print(f"p99 / longest step {p99 / max(steps):.2f}; kept to a step in {sum(x <= max(steps) for x in late)} calls")


if __name__ == "__main__":
    main()
