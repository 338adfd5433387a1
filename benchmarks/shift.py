"""Time of the online shift against none on one machine: medians of interleaved repeats, as ratios.

python benchmarks/shift.py --backbone resnet50 --size 224
"""

import argparse
import json
import statistics
import time

import torch

from dynvid import ExitNet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backbone", default="resnet50")
parser.add_argument("--size", type=int, default=112, help="pixels")
parser.add_argument("--frames", type=int, default=8)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
shifts = ("none", "online")
nets = {s: ExitNet(options.backbone, num_classes=10, num_frames=options.frames, shift=s) for s in shifts}
video = torch.randn(2, options.frames, 3, options.size, options.size)


def infer(net):
    with torch.inference_mode():
        net.eval()(video)


def train(net):
    net.train()(video).sum().backward()
    net.zero_grad()


for name, step in (("inference", infer), ("training", train)):
    spent = {s: [] for s in shifts}
    for repeat in range(options.repeats + 1):
        for s in shifts:
            started = time.process_time()
            step(nets[s])
            if repeat:  # the first one warms up
                spent[s].append(time.process_time() - started)
    ratios = [a / b for a, b in zip(spent["online"], spent["none"], strict=True)]
    print(
        json.dumps(
            {
                "what": name,
                "online / none": round(statistics.median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        )
    )
