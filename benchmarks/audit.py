"""What audits find: false alarms, drift in simulation, and drift in generated clips that are altered as cameras alter.

    python benchmarks/audit.py                            # simulated
    python benchmarks/audit.py CHECKPOINT FOLDER_OF_CLIPS # and real answers: at night, with noise, through another lens

Writes benchmarks/results/audit.md. Delays are in audited videos: with a share of 2 %, fifty times as many videos pass.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from runs import RESULTS
from torchvision.transforms.v2 import functional as F

from dynvid.calibration import Audit, OperatingPoint
from dynvid.inference import Recognizer

RUNS, AUDITED, REPEATS = 1000, 500, 30


def promised(target):
    return OperatingPoint("max_disagreement", target, 0.95, "val", 400, 400, lost=0.0, gmacs=1.0, differing=0.0)


def alarms(target, rng):
    """Runs of which the alarm is false: the share is as large as permitted, all the time."""
    count = 0
    for _ in range(RUNS):
        audit = Audit(1.0, promised(target))
        for differs in rng.random(AUDITED) < target:
            audit.add(bool(differs))
        count += audit.status == "broken"
    return count


def delay(audit, before, after):
    """Audited videos from the drift to the alarm, at most 20,000; -1 where it came before the drift."""
    for differs in before:
        audit.add(bool(differs))
    if audit.status == "broken":
        return -1
    for count, differs in enumerate(after, 1):
        audit.add(bool(differs))
        if audit.status == "broken":
            return count
    return len(after)


def delays(make, before, after, repeats=REPEATS):
    """Median, 5th and 95th percentile of the delays, and how many alarms came too early."""
    found = [delay(make(), before(), after()) for _ in range(repeats)]
    on_time = [d for d in found if d >= 0]
    low, middle, high = np.percentile(on_time, [5, 50, 95])
    return f"{middle:.0f} ({low:.0f} to {high:.0f})", sum(d < 0 for d in found)


ALTERED = {
    "as recorded": lambda x: x,
    "a little darker (0.7)": lambda x: (x * 0.7).to(torch.uint8),
    "night (0.25, noise 12)": lambda x: noisy(x * 0.25, 12),
    "noise 40": lambda x: noisy(x.float(), 40),
    "out of focus (blur of 5 pixels)": lambda x: F.gaussian_blur(x, [11, 11], [5.0, 5.0]),
    "zoomed in (a third of the width)": lambda x: F.resize(
        F.center_crop(x, [x.shape[-1] // 3] * 2), [x.shape[-1]] * 2, antialias=True
    ),
}


def noisy(x, spread):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * spread
    return (x + noise).clamp(0, 255).to(torch.uint8)


class Altered:
    """A preparation whose frames come out altered; stands in for another camera."""

    def __init__(self, preparation, alter):
        self.preparation, self.alter = preparation, alter

    def open(self, video):
        return AlteredClip(self.preparation.open(video), self.alter)


class AlteredClip:
    def __init__(self, clip, alter):
        self.clip, self.alter = clip, alter

    def read(self, positions):
        return self.alter(self.clip.read(positions))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    lines = [
        "# Audits",
        "",
        f"False alarms in {RUNS} runs of {AUDITED} audited videos each, of which exactly as many differ as permitted:",
        "",
        "| permitted | false alarms |",
        "|---|---|",
    ]
    for target in (0.01, 0.02, 0.05):
        lines.append(f"| {100 * target:g} % | {alarms(target, rng)} of {RUNS} ({100 * 0.05:g} % allowed) |")
    lines += [
        "",
        f"Audited videos from a drift to the alarm, 2 % permitted, 0.5 % before: medians of {REPEATS} runs, with 5th "
        "and 95th percentiles.",
        "",
        "| share after the drift | at once | after 500 audited | after 5,000 audited |",
        "|---|---|---|---|",
    ]
    for share in (0.04, 0.06, 0.1, 0.2, 0.5):
        cells = [
            delays(
                partial(Audit, 1.0, promised(0.02)),
                partial(lambda n: rng.random(n) < 0.005, good),
                partial(lambda s: rng.random(20_000) < s, share),
            )[0]
            for good in (0, 500, 5000)
        ]
        lines.append(f"| {100 * share:g} % | {' | '.join(cells)} |")
    if options.folder:
        lines += real(options.checkpoint, options.folder, rng)
    text = "\n".join(lines) + "\n"
    (RESULTS / "audit.md").write_text(text)
    print(text)


def real(checkpoint, folder, rng):
    recognizer = Recognizer.load(checkpoint, precision="float32")
    full = Recognizer(recognizer.net, None, recognizer.class_names)
    paths = sorted(folder.rglob("*.mp4"))
    preparation, point = recognizer.preparation, recognizer.point
    told, lines = {}, []
    for name, alter in ALTERED.items():
        recognizer.preparation = full.preparation = Altered(preparation, alter)
        early, whole = (list(r.many(paths)) for r in (recognizer, full))
        right = [x.label == path.parent.name for x, path in zip(whole, paths, strict=True)]
        told[name] = np.array([a.label != b.label for a, b in zip(early, whole, strict=True)]), np.mean(right)
    limit = Audit(1.0, point).limit
    lines = [
        "",
        f"Answers of a trained net to {len(paths)} generated test clips, altered. {point}.",
        f"Audited videos until the alarm after 1,000 audited as recorded: medians of {REPEATS} runs, clips drawn with "
        f"replacement; the limit is {100 * limit:.1f} %.",
        "",
        "| clips | full inference is right | labelled otherwise than by it | audited until the alarm | too early |",
        "|---|---|---|---|---|",
    ]
    for name, (differs, right) in told.items():
        spread, early = delays(
            partial(Audit, 1.0, point),
            partial(rng.choice, told["as recorded"][0], 1000),
            partial(rng.choice, differs, 20_000),
        )
        never = differs.mean() <= limit
        lines.append(
            f"| {name} | {100 * right:.1f} % | {100 * differs.mean():.1f} % | "
            f"{'within the promise' if never else spread} | {early} of {REPEATS} |"
        )
    return lines


if __name__ == "__main__":
    main()
