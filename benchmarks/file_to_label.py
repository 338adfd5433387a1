"""From files on disk to labels: dynvid against the plain scripts that users would write.

Weights are random and exits forced, in shares that a calibrated net has, so that nothing but time is compared: accuracy
is that of the net whose shares are taken. Each contender labels the same files in turn, several times over; a figure is
the median of the ratios of turns that follow one another, with the lowest and highest. One thread.

    python benchmarks/file_to_label.py CLIP ... --shares 0.25 0.25 0.15 0.35 --json results/file_to_label.json
"""

import argparse
import copy
import platform
import statistics
import time
from pathlib import Path

import av
import timm
import torch
from torch import nn

import dynvid
from dynvid import ExitNet, UnifiedExitNet
from dynvid.data.sampling import segment_indices
from dynvid.data.transforms import eval_transform
from dynvid.inference import Recognizer, prepare
from dynvid.policy import ThresholdPolicy
from dynvid.strict_json import dumps

FRAMES, SIZE, CLASSES = 16, 224, 400


class Forced(ThresholdPolicy):
    """A policy by which the next video leaves by the next exit of a list; one video at a time, or all of a batch."""

    def __init__(self, exits: list[int], num_exits: int):
        super().__init__(num_exits)
        self.exits, self.come = exits, 0

    def confident(self, position, logits, earlier=None):
        # Videos of a batch are told apart by nothing, so shares are kept within each step.
        left = sum(e >= position for e in self.exits)
        leaving = sum(e == position for e in self.exits)
        count = round(len(logits) * leaving / left)
        return torch.arange(len(logits)) < count


class One(Forced):
    """For videos that come one after the other: each leaves by its own exit."""

    def confident(self, position, logits, earlier=None):
        done = self.exits[self.come % len(self.exits)] <= position
        self.come += done
        return torch.tensor([done])


class Shifted(nn.Module):
    """TSM as its public code has it: a shift of two eighths of the channels before the first convolution of a block."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        clip = x.view(-1, FRAMES, *x.shape[1:])
        fold = clip.shape[2] // 8
        out = torch.zeros_like(clip)
        out[:, :-1, :fold] = clip[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = clip[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = clip[:, :, 2 * fold :]
        return self.conv(out.view(x.shape))


def plain(name: str, shift: bool) -> nn.Module:
    model = timm.create_model(name, num_classes=CLASSES).eval()
    if shift:
        for block in [m for m in model.modules() if type(m).__name__ == "Bottleneck"]:
            block.conv1 = Shifted(block.conv1)
    return model


def script(model: nn.Module, dtype: torch.dtype = torch.float32):
    """What one writes without a library: decode all, take 16 frames, one pass, the mean of the frames' answers."""
    transform = eval_transform(SIZE)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def label(path: str) -> int:
        with av.open(path, metadata_errors="replace") as container:
            frames = list(container.decode(video=0))
        chosen = [frames[i].to_ndarray(format="rgb24") for i in segment_indices(len(frames), FRAMES).tolist()]
        clip = transform(torch.stack([torch.from_numpy(x).permute(2, 0, 1) for x in chosen]))
        with torch.no_grad():
            return int(model((clip.float().div(255).sub(mean).div(std)).to(dtype)).float().mean(0).argmax())

    return lambda paths: [label(path) for path in paths]


def compiled(model: nn.Module) -> nn.Module:
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(copy.deepcopy(model).to(torch.bfloat16, memory_format=torch.channels_last))


def pooled(recognizer, workers: int):
    return lambda paths: [found.label for found in recognizer.many(paths, 8, workers)]


def one_by_one(recognizer):
    return lambda paths: [recognizer(path).label for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--shares", nargs=4, type=float, default=[0.4, 0.2, 0.1, 0.3])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without-compiled", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    exits = [k for k, share in enumerate(options.shares) for _ in range(round(share * 100))]
    order = torch.randperm(len(exits)).tolist()
    exits = [exits[i] for i in order]

    net = UnifiedExitNet("resnet50", num_classes=CLASSES, num_frames=FRAMES).eval()
    fast, recipe = prepare(net)
    full, _ = prepare(ExitNet("resnet50", CLASSES, FRAMES, frame_order="thue_morse").eval())
    jobs = {
        "dynamic, 8 at a time": pooled(Recognizer(fast, Forced(exits, 4)), 1),
        "dynamic, one by one": one_by_one(Recognizer(fast, One(exits, 4))),
        "first exit only, one by one": one_by_one(Recognizer(fast, One([0], 4))),
        "full inference, 8 at a time": pooled(Recognizer(full), 1),
        "full inference, one by one": one_by_one(Recognizer(full)),
        "plain TSM script, eager float32": script(plain("resnet50", shift=True)),
        "plain MobileNetV3 script, eager float32": script(plain("mobilenetv3_large_100", shift=False)),
    }
    if not options.without_compiled:
        jobs["plain TSM script, compiled bfloat16"] = script(compiled(plain("resnet50", shift=True)), torch.bfloat16)
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(-1, options.repeats):  # the first turn warms up
        for name, job in jobs.items():
            c, w = time.process_time(), time.perf_counter()
            job(options.clips)
            if turn >= 0:
                cpu[name].append(time.process_time() - c)
                wall[name].append(time.perf_counter() - w)
    mean_gmacs = sum(net.gmacs[k] for k in exits) / len(exits)
    print(f"{len(options.clips)} clips, {recipe}; MACs saved {1 - mean_gmacs / net.full_gmacs:.1%}; processor time")
    rows = {}
    for name in jobs:
        rows[name] = {
            "milliseconds_per_clip": statistics.median(cpu[name]) * 1000 / len(options.clips),
            "times_as_long_as": {
                other: spread([a / b for a, b in zip(cpu[other], cpu[name], strict=True)]) for other in jobs
            },
        }
        against = rows[name]["times_as_long_as"]["plain TSM script, eager float32"]
        print(f"{name:42s} {rows[name]['milliseconds_per_clip']:8.1f} ms; the plain script takes {shown(against)} x")
    for a, b in (
        ("dynamic, 8 at a time", "full inference, 8 at a time"),
        ("dynamic, one by one", "full inference, one by one"),
        ("first exit only, one by one", "full inference, one by one"),
        ("dynamic, 8 at a time", "dynamic, one by one"),
        ("dynamic, 8 at a time", "plain TSM script, compiled bfloat16"),
        ("dynamic, one by one", "plain TSM script, compiled bfloat16"),
    ):
        if b in rows:
            print(f"{b} / {a}: {shown(rows[a]['times_as_long_as'][b])}")
    if options.json:
        options.json.write_text(
            dumps(
                {
                    "clips": len(options.clips),
                    "recipe": str(recipe),
                    "processor": platform.processor() or platform.machine(),
                    "shares": options.shares,
                    "macs_saved": 1 - mean_gmacs / net.full_gmacs,
                    "versions": {"dynvid": dynvid.__version__, "torch": torch.__version__, "timm": timm.__version__},
                    "rows": rows,
                    "cpu_seconds": cpu,
                    "wall_seconds": wall,
                }
            )
            + "\n"
        )


def spread(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]


def shown(values: list[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
