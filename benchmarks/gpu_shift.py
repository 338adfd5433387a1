"""What the shift costs on a GPU: the same net with and without it, in turns. Prints JSON; `gpu.sh` calls it.

python benchmarks/gpu_shift.py
"""

import argparse
import json
from functools import partial

import torch
from torch import Tensor

from dynvid.inference.forced import unzeroed
from dynvid.inference.machine import machine
from dynvid.inference.recipe import prepare
from dynvid.inference.timing import Spread, clock_of, in_turns
from dynvid.nets import ExitNet


@torch.inference_mode()
def answer(net: ExitNet, video: Tensor, times: int) -> None:
    for _ in range(times):
        net(video)


def train(net: ExitNet, video: Tensor, times: int) -> None:
    for _ in range(times):
        net.zero_grad()
        with torch.autocast(video.device.type, torch.bfloat16):
            loss = net(video).float().logsumexp(-1).mean()
        loss.backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device = torch.device(options.device)
    shifts = ("none", "online", "bidirectional")
    nets = {shift: unzeroed(ExitNet(options.backbone, shift=shift, input_size=options.size)) for shift in shifts}
    video = torch.randint(0, 256, (options.batch_size, 16, 3, options.size, options.size), dtype=torch.uint8)
    video = video.to(device)
    fast = {f"inference, {shift}": prepare(net.eval(), device=device)[0] for shift, net in nets.items()}
    programs = {name: partial(answer, net, video, 5) for name, net in fast.items()}
    programs |= {f"training, {shift}": partial(train, net.to(device).train(), video, 2) for shift, net in nets.items()}
    for program in programs.values():
        program()  # warms up
    rounds = in_turns(list(programs.values()), options.repeats, clock_of(device))
    seconds = {name: [one[place][0].wall for one in rounds] for place, name in enumerate(programs)}
    found = {}
    for name, taken in seconds.items():
        plain = seconds[f"{name.partition(',')[0]}, none"]
        found[name] = Spread.of([mine / its for mine, its in zip(taken, plain, strict=True)])._asdict()
    print(json.dumps(machine(device) | {"batch_size": options.batch_size, "time_ratio_to_none": found}))


if __name__ == "__main__":
    main()
