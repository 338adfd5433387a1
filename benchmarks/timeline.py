"""Timelines of joined clips, whose boundaries are known: what is found, and what it costs.

Clips of different classes, each less up to 40 % of its end, are joined to long videos, anew for each seed. Figures are
medians over the seeds, with the lowest and highest: segment F1 at three overlaps (Lea et al., 2017: a segment is right
if it overlaps a true one of its class by that share of their union, each true one once), the share of time with the
right label, and GMACs against full inference of the same windows. `--choose` compares windows and ways of smoothing;
run it on clips that are not those of the figures.

    python benchmarks/timeline.py CHECKPOINT --ucf101 FOLDER --name ucf101_5
    python benchmarks/timeline.py CHECKPOINT --folder data/synthetic/test --window 2 --name generated
    python benchmarks/timeline.py CHECKPOINT --ucf101 FOLDER --split train --choose
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from dynvid.inference import Recognizer, Segment
from dynvid.inference import timeline as module
from dynvid.policy import ThresholdPolicy

RESULTS = Path(__file__).parent / "results"
OVERLAPS = (0.1, 0.25, 0.5)
FPS = 25


def listed(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """Clips and their classes."""
    if options.folder:
        return sorted((path, path.parent.name) for path in options.folder.rglob("*.mp4"))
    lists = options.ucf101 / "ucfTrainTestlist"
    names = [line.split()[0] for line in (lists / f"{options.split}list01.txt").read_text().splitlines() if line]
    clips = [(options.ucf101 / name, name.split("/")[0]) for name in names]
    return [(path, label) for path, label in clips if path.exists()]


def join(clips: Sequence[tuple[Path, str]], path: Path, count: int, seed: int) -> list[Segment]:
    """Write `count` clips as one video, neighbours of different classes; the true segments."""
    rng = np.random.default_rng(seed)
    order = [clips[i] for i in rng.permutation(len(clips))]
    chosen: list[tuple[Path, str]] = []
    while order and len(chosen) < count:
        following = next((c for c in order if not chosen or c[1] != chosen[-1][1]), None)
        if following is None:
            break
        order.remove(following)
        chosen.append(following)
    truth, frames = [], 0
    with av.open(str(path), "w") as out:
        stream, rate = None, 0
        for clip, label in chosen:
            start = frames
            with av.open(str(clip)) as source:
                rate = rate or round(float(source.streams.video[0].average_rate))  # that of the first clip
                images = list(source.decode(video=0))
                # Some of the end is cut off, so that clips of one length do not lie in step with the windows.
                for frame in images[: len(images) - int(rng.uniform(0, 0.4) * len(images))]:
                    if stream is None:
                        stream = out.add_stream("libx264", rate=rate, options={"qp": "20", "preset": "ultrafast"})
                        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                    image = frame.reformat(stream.width, stream.height, "yuv420p")
                    image.pts, image.time_base = frames, Fraction(1, rate)
                    out.mux(stream.encode(image))
                    frames += 1
            fps = float(stream.codec_context.framerate)
            truth.append(Segment(start / fps, frames / fps, label, 1.0))
        out.mux(stream.encode(None))
    return truth


def f1(found: Sequence[Segment], truth: Sequence[Segment], overlap: float) -> float:
    """Segment F1 at an overlap."""
    found = [segment for segment in found if segment.label != module.NONE]
    used: set[int] = set()
    for segment in found:
        shares = [
            (min(segment.end, t.end) - max(segment.start, t.start))
            / (max(segment.end, t.end) - min(segment.start, t.start))
            if t.label == segment.label
            else 0.0
            for t in truth
        ]
        best = int(np.argmax(shares))
        if shares[best] >= overlap and best not in used:
            used.add(best)
    return 2 * len(used) / (len(found) + len(truth))


def accuracy(found: Sequence[Segment], truth: Sequence[Segment]) -> float:
    """Share of the time with the right label."""
    right = sum(max(0.0, min(s.end, t.end) - max(s.start, t.start)) for s in found for t in truth if s.label == t.label)
    return right / truth[-1].end


def figures(found: module.Timeline, truth: Sequence[Segment]) -> list[float]:
    return [*(f1(found, truth, o) for o in OVERLAPS), accuracy(found, truth), found.gmacs / found.full_gmacs]


def spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.median(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


HEADING = [
    "| | F1 at 0.1 | F1 at 0.25 | F1 at 0.5 | time with the right label | GMACs of full inference |",
    "|---|---|---|---|---|---|",
]


def row(name: str, rows: Sequence[Sequence[float]]) -> str:
    return f"| {name} | " + " | ".join(f"{spread(column)} %" for column in zip(*rows, strict=True)) + " |"


def recorded(recognizer: Recognizer, video: Path, **options: float) -> tuple[module.Timeline, list[tuple]]:
    """A timeline, and the probabilities of each slot that it is made of."""
    slots: list[tuple] = []
    add = module._Segments.add

    def noted(self: module._Segments, start: float, end: float, p: np.ndarray | None) -> None:
        slots.append((start, end, p))
        add(self, start, end, p)

    module._Segments.add = noted  # type: ignore[method-assign]
    try:
        return module.timeline(recognizer, video, **options), slots
    finally:
        module._Segments.add = add  # type: ignore[method-assign]


def by_viterbi(slots: Sequence[tuple], names: Sequence[str], floor: float, penalty: float) -> list[Segment]:
    """The path of labels with the largest sum of log probabilities, less a penalty for each change."""
    scores = np.log(np.array([[*p, floor] for _, _, p in slots]).clip(1e-6))
    best, came = scores[0], []
    for one in scores[1:]:
        change = best.max() - penalty
        came.append(np.where(best >= change, np.arange(len(best)), best.argmax()))
        best = np.maximum(best, change) + one
    path = [int(best.argmax())]
    for before in reversed(came):
        path.append(int(before[path[-1]]))
    path.reverse()
    found: list[Segment] = []
    for (start, end, _), label in zip(slots, path, strict=True):
        name = [*names, module.NONE][label]
        if found and found[-1].label == name:
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(Segment(start, end, name, 1.0))
    return found


def choose(
    recognizer: Recognizer, videos: Sequence[tuple[Path, list[Segment]]], windows: Sequence[float]
) -> Iterator[str]:
    """Windows, hops and ways of smoothing compared."""
    for window in windows:
        for part in (1, 2, 4, 8):
            kept = [recorded(recognizer, v, window=window, hop=window / part) for v, _ in videos]
            cost = [found.gmacs / videos[i][1][-1].end for i, (found, _) in enumerate(kept)]

            def told(
                name: str,
                make: Callable[[list[tuple]], list[Segment]],
                kept: Sequence = kept,
                cost: Sequence[float] = cost,
                at: str = f"{window:g} s, every {window / part:g} s",
            ) -> str:
                rows = [
                    [*(f1(make(slots), truth, o) for o in OVERLAPS), accuracy(make(slots), truth)]
                    for (_, slots), (_, truth) in zip(kept, videos, strict=True)
                ]
                shown = " | ".join(spread(c) for c in zip(*rows, strict=True))
                return f"| {at}, {name} | {shown} | {statistics.median(cost):.3f} |"

            for floor in (0.0, 0.5):
                for least in (0.0, window / 4, window / 2, window):
                    yield told(
                        f"at least {least:g} s, {floor}", lambda s, a=floor, b=least: merged(recognizer, s, a, b)
                    )
                for penalty in (1.0, 3.0, 8.0):
                    yield told(
                        f"Viterbi {penalty:g}, {floor}",
                        lambda s, a=floor, b=penalty: by_viterbi(s, recognizer.class_names or [], a, b),
                    )


def merged(recognizer: Recognizer, slots: Sequence[tuple], floor: float, least: float) -> list[Segment]:
    """Segments as `timeline` makes them of slots."""
    found = module.Timeline(1, 1.0, 1.0)
    segments = module._Segments(found, recognizer, floor, least)
    for slot in slots:
        segments.add(*slot)
    segments.finish(slots[-1][1])
    return found


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--ucf101", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=30, help="of a video")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--window", type=float, default=4.0)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--windows", nargs="+", type=float, default=[2.0, 4.0, 6.0])
    parser.add_argument("--keep", type=Path, help="a folder for the joined videos, which are made once")
    parser.add_argument("--name")
    a = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = Recognizer.load(a.checkpoint, "cpu", "float32")
    clips = listed(a)
    with tempfile.TemporaryDirectory() as folder:
        videos = []
        for seed in range(a.seeds):
            path = Path(a.keep or folder, f"{a.split}_{a.clips}_{seed}.mp4")
            told = path.with_suffix(".json")
            if not told.exists():
                told.write_text(json.dumps(join(clips, path, a.clips, seed)))
            videos.append((path, [Segment(*segment) for segment in json.loads(told.read_text())]))
        minutes = statistics.median(truth[-1].end / 60 for _, truth in videos)
        lines = [
            f"{date.today()}, {a.seeds} videos of {a.clips} of {len(clips)} clips, {minutes:.1f} minutes each.",
            "",
        ]
        if a.choose:
            print(
                "\n".join(
                    [
                        *lines,
                        "| | F1 at 0.1 | 0.25 | 0.5 | right label | GMACs per second |",
                        "|---|---|---|---|---|---|",
                    ]
                )
            )
            for line in choose(recognizer, videos, a.windows):
                print(line, flush=True)
            return
        full = Recognizer(recognizer.net, ThresholdPolicy(len(recognizer.net.route)), recognizer.class_names)
        lines += HEADING
        kinds = {
            "early exit": (recognizer, {}),
            "full inference": (full, {}),
            "early exit, windows side by side": (recognizer, {"hop": a.window}),
            "early exit, `none` below 0.5": (recognizer, {"min_probability": 0.5}),
        }
        for name, (one, options) in kinds.items():
            rows = [figures(module.timeline(one, v, window=a.window, **options), t) for v, t in videos]
            lines.append(row(name, rows))
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if a.name:
        (RESULTS / f"timeline_{a.name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
