"""Endless generated video: windows begun anew, windows that slide, and a net that is never reset.

One generated scene follows the other, each for some seconds. A net with the online shift, which is causal, can also run
on for ever (`continual`): each frame goes through all segments once, is handed the last frame's features by the shift,
and the mean over the last T embeddings is classified. It was trained on T frames; how much of its accuracy is left
after thousands? That is measured on the same frames as windows that are computed anew, by full inference and with early
exits. Accuracy is that of the answer after each frame: over the first frames, which all rows have; over those of them
whose last T frames show one scene ("settled"); and piece by piece to the end. GMACs are per frame.

    python benchmarks/live.py CHECKPOINT --frames 10000 --name endless

The checkpoint is of generated clips, with frames in their order, such as

    dynvid fit --config quickstart.yaml --config input.yaml --config online.yaml
"""

import argparse
import dataclasses
import statistics
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch

from dynvid.data.synthetic import CLASSES, draw_scene, render
from dynvid.inference import LiveRecognizer, Recognizer
from dynvid.policy import ThresholdPolicy

RESULTS = Path(__file__).parent / "results"
SECONDS = 2.0  # of the clips that the net was trained on


def scenes(frames: int, num_frames: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Images at the distance of the net's frames, with their class, and whether the last T show one scene."""
    rng, given = np.random.default_rng(seed), 0
    while given < frames:
        label = str(rng.choice(CLASSES))
        count = int(rng.integers(2 * num_frames, 5 * num_frames))
        scene = draw_scene(label, rng)
        # As fast as in a clip, for as long as it lasts.
        scene = dataclasses.replace(scene, travel=scene.travel * (count - 1) / (num_frames - 1))
        for i, image in enumerate(render(scene, count, size)[: frames - given]):
            yield image, label, i >= num_frames - 1
        given += count


def answers(live: LiveRecognizer, images: list[np.ndarray]) -> tuple[list[str], float]:
    """The label after each frame, and GMACs per frame."""
    interval, labels, spent = SECONDS / live._num_frames, [], 0.0
    for i, image in enumerate(images):
        for answer in live.push(image, (i + 0.5) * interval):
            labels.append(answer.label)
            spent += answer.gmacs if answer.is_last else 0.0
    for answer in live.finish((len(images) + 0.5) * interval):
        labels.append(answer.label)
    return labels[: len(images)], spent / len(images)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sliding", type=int, default=2000, help="frames on which windows slide, which costs most")
    parser.add_argument("--name")
    a = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = Recognizer.load(a.checkpoint, "cpu", "float32")
    net, names = recognizer.net, recognizer.class_names
    assert names is not None
    full = Recognizer(net, ThresholdPolicy(len(net.route)), names)
    length, rows = net.num_frames, {}
    cuts = sorted({c for c in (100, 1000, a.sliding, 10_000, 100_000) if c < a.frames} | {a.frames})
    for seed in range(a.seeds):
        video = list(scenes(a.frames, length, net.input_size, seed))
        images, truth = [image for image, _, _ in video], [label for _, label, _ in video]
        given = {}
        for name, one, hop, continual, count in (
            ("never reset, full inference", full, 1, True, a.frames),
            ("never reset, early exits", recognizer, 1, True, a.frames),
            ("windows side by side, full inference", full, length, False, a.frames),
            ("windows side by side, early exits", recognizer, length, False, a.frames),
            ("a window for every second frame, early exits", recognizer, 2, False, a.sliding),
            ("a window for each frame, full inference", full, 1, False, a.sliding),
            ("a window for each frame, early exits", recognizer, 1, False, a.sliding),
        ):
            given[name] = answers(one.live(SECONDS, hop, continual=continual), images[:count])
        for name, (labels, gmacs) in given.items():
            right = np.array([label == t for label, t in zip(labels, truth, strict=False)])
            settled = np.array([s for _, _, s in video[: a.sliding]])
            of = [right[lo:hi].mean() for lo, hi in zip([0, *cuts], cuts, strict=False) if lo < len(right)]
            common = right[: a.sliding]
            rows.setdefault(name, []).append([common.mean(), common[settled].mean(), gmacs, *of])
            print(seed, name, *(f"{x:.3f}" for x in rows[name][-1]), flush=True)
    lines = [f"{date.today()}, {a.seeds} videos of {a.frames} frames (windows that slide: {a.sliding}): medians,", ""]
    lines[0] += f" lowest and highest. `right` and `settled` are of the first {a.sliding} frames."
    parts = [f"frames {lo} to {hi}" for lo, hi in zip([0, *cuts], cuts, strict=False)]
    lines += [f"| | right | right, settled | GMACs per frame | {' | '.join(parts)} |", "|---" * (4 + len(parts)) + "|"]
    for name, found in rows.items():
        columns = list(zip(*found, strict=True))
        cells = [spread(c) if k != 2 else f"{statistics.median(c):.4f}" for k, c in enumerate(columns)]
        lines.append(f"| {name} | " + " | ".join(cells + ["-"] * (3 + len(parts) - len(cells))) + " |")
    print("\n".join(lines))
    if a.name:
        (RESULTS / f"live_{a.name}.md").write_text("\n".join(lines) + "\n")


def spread(values: tuple[float, ...]) -> str:
    return f"{100 * statistics.median(values):.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
