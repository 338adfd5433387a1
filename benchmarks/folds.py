"""What is left of a promise when the net that is used is not the one that answered: cross-validation, simulated.

    python benchmarks/folds.py simulate
    python benchmarks/folds.py features ROOT WEIGHTS FEATURES
    python benchmarks/folds.py real FEATURES

`simulate` trains softmax heads on drawn features: exits after 1, 2, 4 and 8 frames of a clip, five folds by recording,
a net of all, and one of 80 % (the first fold's) and of half of the recordings, which have a split of their own. What
thresholds lose is counted on fresh clips of fresh recordings. `real` does likewise with real clips of UCF-101 under
ROOT, drawn anew into development and test recordings, by what a frozen MobileNetV2 (timm's weights) makes of 8 frames.
Writes benchmarks/results/folds.json and folds.md, or folds_real.json and folds_real.md.
"""

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from runs import RESULTS, write
from torch import Tensor

from dynvid.calibration import thresholds_for_drop, thresholds_for_risk
from dynvid.data import UCF101DataModule, decode_size, eval_transform, open_video, segment_indices
from dynvid.policy import choose_exits
from dynvid.routes import frame_groups

FRAMES = (1, 2, 4, 8)  # of the exits
GMACS = [float(n) for n in FRAMES]
FOLDS = 5
TARGETS = (0.05, 0.1)
CLASSES, DIMS = 4, 16
SIZE, COMPONENTS = 128, 32  # pixels of real clips; dimensions kept of their features
STEPS = {"trained briefly": 30, "trained long": 300}
SETTINGS = (
    (120, 1, "trained briefly"),
    (120, 1, "trained long"),
    (120, 4, "trained briefly"),
)  # recordings, clips each
DRIFTS = {  # logits of a net, times exp of a number: drawn for each net with this deviation, plus this for that of all
    "as trained": (0.0, 0.0),
    "scales differ by net": (0.5, 0.0),
    "net of all surer": (0.0, 0.5),
}


Found = dict[tuple[str, float, str], dict[str, float]]  # drift, target and rule -> figures


class Answers(NamedTuple):
    """Scores (K, N), and whether full inference is right and the exit wrong, and whether the exit is right."""

    scores: Tensor
    lost: Tensor
    right: Tensor


def main() -> None:
    """Simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("simulate")
    simulated.add_argument("--draws", type=int, default=200)
    simulated.add_argument("--fresh", type=int, default=4000)
    made = commands.add_parser("features")
    made.add_argument("root")
    made.add_argument("weights")
    made.add_argument("features")
    real = commands.add_parser("real")
    real.add_argument("features")
    real.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "features":
        torch.save(features_of(options.root, options.weights), options.features)
        return
    rows: list[dict[str, Any]] = []
    name = "folds" if options.command == "simulate" else "folds_real"
    for row in simulate(options.draws, options.fresh) if name == "folds" else from_features(options):
        print(", ".join(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row.values()), flush=True)
        rows.append(row)
        write(RESULTS / f"{name}.json", json.dumps({"draws": options.draws, "rows": rows}, indent=1) + "\n")
    write(RESULTS / f"{name}.md", table(rows, options.draws))


def simulate(draws: int, fresh: int) -> Iterator[dict[str, Any]]:
    """One row per setting, drift, target and rule."""
    for count, clips, training in SETTINGS:
        found: list[Found] = []
        drifts = DRIFTS if clips == 1 else {"as trained": (0.0, 0.0)}
        for draw in range(draws):
            rng = torch.Generator().manual_seed(1000 * count + 10**6 * clips + draw)
            features, labels, recordings = drawn(count, clips, rng)
            test, truth, of_test = drawn(fresh, 1, rng)
            parts = features, labels, recordings, test, truth, of_test
            found.append(judged(*parts, STEPS[training], rng, drifts))
        what = f"{count} recordings" + (f" of {clips} clips" if clips > 1 else "")
        yield from summed(found, what, training)


def drawn(recordings: int, clips: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the exits (K, N, dims), labels and recordings (N,)."""
    means = 0.8 * torch.randn(CLASSES, DIMS, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (recordings,), generator=rng)
    of_recording = means[labels] + 0.5 * torch.randn(recordings, DIMS, generator=rng)
    centre = of_recording.repeat_interleave(clips, 0)
    centre = centre + 0.3 * torch.randn(centre.shape, generator=rng)
    frames = centre[:, None] + 2.5 * torch.randn(len(centre), FRAMES[-1], DIMS, generator=rng)
    every = torch.arange(recordings).repeat_interleave(clips)
    return at_exits(frames), labels.repeat_interleave(clips), every


def at_exits(frames: Tensor) -> Tensor:
    """The mean over the first frames: (N, frames, dims) -> (K, N, dims)."""
    return torch.stack([frames[:, :n].mean(1) for n in FRAMES])


def judged(
    features: Tensor,
    labels: Tensor,
    recordings: Tensor,
    test: Tensor,
    truth: Tensor,
    of_test: Tensor,
    steps: int,
    rng: torch.Generator,
    drifts: dict[str, tuple[float, float]],
) -> Found:
    """What each rule's thresholds lose and save: (drift, target, rule) -> figures."""
    names = recordings.unique()
    fold_of = torch.empty(len(names), dtype=torch.long)
    fold_of[torch.randperm(len(names), generator=rng)] = torch.arange(len(names)) % FOLDS
    fold = fold_of[torch.searchsorted(names, recordings)]
    half = (fold_of + torch.arange(len(names))).remainder(2)[torch.searchsorted(names, recordings)] == 0
    masks = torch.stack([*(fold != k for k in range(FOLDS)), torch.ones_like(half), half])
    weights = trained(features, labels, masks, steps)  # of the five folds, of all, and of half
    logits, fresh = answered(weights, features), answered(weights, test)
    figures = {}
    for drift, (deviation, shift) in drifts.items():
        scale = deviation * torch.randn(len(masks), generator=rng)
        scale[FOLDS] += shift
        mine = [answers(x * s.exp(), labels) for x, s in zip(logits, scale, strict=True)]
        new = [answers(x * s.exp(), truth) for x, s in zip(fresh, scale, strict=True)]
        pool = pooled(mine, fold)
        for target in TARGETS:
            for rule, (net, thresholds) in rules(mine, pool, fold, half, recordings, target).items():
                figures[drift, target, rule] = counted(new[net], thresholds, of_test)
    return figures


def pooled(mine: list[Answers], fold: Tensor) -> Answers:
    """Each clip as the net answers it that was trained without its fold."""
    parts = [torch.stack([getattr(mine[k], name) for k in range(FOLDS)]) for name in Answers._fields]
    rows = torch.arange(len(fold))
    return Answers(*(part[fold, :, rows].T for part in parts))


def rules(
    mine: list[Answers], pool: Answers, fold: Tensor, half: Tensor, recordings: Tensor, target: float
) -> dict[str, tuple[int, Tensor]]:
    """The net (its number) and thresholds that each rule takes."""

    def promise(of: Answers, rows: Tensor, risk: float = target) -> Tensor:
        groups = recordings[rows] if len(recordings.unique()) < len(recordings) else None
        return thresholds_for_risk(of.scores[:, rows], of.lost[:, rows], GMACS, risk, groups=groups)

    every = torch.ones_like(half)
    apart = fold == 0
    kept = apart.nonzero().squeeze(1)
    apart = torch.zeros_like(apart)
    apart[kept[: math.ceil(2 / 3 * len(kept))]] = True  # of whole recordings: they follow each other
    without = torch.stack([promise(pool, fold != k) for k in range(FOLDS)])
    return {
        "split of its own, 2/3 of a fifth": (0, promise(mine[0], apart)),
        "split of its own, half": (FOLDS + 1, promise(mine[FOLDS + 1], ~half)),
        "its own training clips": (FOLDS, promise(mine[FOLDS], every)),
        "out-of-fold": (FOLDS, promise(pool, every)),
        "out-of-fold, half the loss": (FOLDS, promise(pool, every, target / 2)),
        "out-of-fold, observed loss": (FOLDS, thresholds_for_drop(pool.scores, ~pool.lost, GMACS, target)),
        "highest without one fold": (FOLDS, without.amax(0)),
        "mean without one fold": (FOLDS, without.mean(0)),
    }


def trained(features: Tensor, labels: Tensor, masks: Tensor, steps: int) -> Tensor:
    """Softmax heads, one for each net and exit, by Adam on all clips of the net: (nets, K, dims + 1, classes)."""
    x = torch.cat([features, torch.ones_like(features[..., :1])], -1)
    w = torch.zeros(len(masks), len(x), x.shape[-1], int(labels.max()) + 1)
    target = torch.nn.functional.one_hot(labels, w.shape[-1]).float()
    share = (masks / masks.sum(1, keepdim=True))[:, None, :, None]
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, steps + 1):
        likely = (x @ w).clamp(-60, 60).exp()  # torch's softmax takes several times as long over so few classes
        gradient = x.mT @ (share * (likely / likely.sum(-1, keepdim=True) - target)) + 1e-4 * w
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        w = w - 0.05 * (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
    return w


def answered(weights: Tensor, features: Tensor) -> Tensor:
    """Logits (nets, K, N, classes)."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1) @ weights


def answers(logits: Tensor, labels: Tensor) -> Answers:
    """What calibration sees of logits (K, N, classes)."""
    right = logits.argmax(-1) == labels
    return Answers(logits.softmax(-1).amax(-1), right[-1] & ~right, right)


def counted(new: Answers, thresholds: Tensor, recordings: Tensor) -> dict[str, float]:
    """What thresholds do to clips that no net has seen; a recording counts once."""
    taken = choose_exits(new.scores, thresholds)
    _, recording, clips = recordings.unique(return_inverse=True, return_counts=True)
    share = 1 / (clips[recording].double() * len(clips))
    return {
        "lost": float(share @ new.lost.gather(0, taken[None])[0].double()),
        "saved": 1 - float(share @ torch.tensor(GMACS, dtype=torch.float64)[taken]) / GMACS[-1],
        "top1": float(share @ new.right.gather(0, taken[None])[0].double()),
        "full": float(share @ new.right[-1].double()),
        "off": float(thresholds[:-1].isposinf().all()),
    }


def summed(found: list[Found], what: str, training: str) -> Iterator[dict[str, Any]]:
    """Rows of shares and means over the draws."""
    for drift, target, rule in found[0]:
        every = [one[drift, target, rule] for one in found]
        means = {name: float(np.mean([one[name] for one in every])) for name in every[0]}
        yield {
            **{"what": what, "training": training, "drift": drift, "target": target, "rule": rule},
            **{"broken": float(np.mean([one["lost"] > target for one in every]))},
            **{name: round(value, 5) for name, value in means.items()},
        }


@torch.inference_mode()
def features_of(root: str, weights: str) -> dict[str, Any]:
    """Features (N, frames, dims) of all clips, the middle frames first, with labels and recordings."""
    data = UCF101DataModule(root, num_frames=FRAMES[-1], size=SIZE)
    overlay = {"file": weights}
    net = timm.create_model("mobilenetv2_100", True, pretrained_cfg_overlay=overlay, num_classes=0, pad_type="same")
    videos, prepare = [*data.videos("train"), *data.videos("val"), *data.videos("test")], eval_transform(SIZE)
    net.eval()
    order = [frame for group in frame_groups(FRAMES[-1], "coarse_to_fine") for frame in group]
    mean, std = (torch.tensor(net.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    features = []
    for video in videos:
        reader = open_video(video.path)
        frames = prepare(reader.read(segment_indices(len(reader), FRAMES[-1]), decode_size(SIZE)))[order]
        features.append(net((frames / 255 - mean) / std))
    labels = torch.tensor([video.label for video in videos])
    return {"features": torch.stack(features), "labels": labels, "recordings": [video.group for video in videos]}


def from_features(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Real clips: recordings drawn anew into 60 % that train and calibrate, and others that tell what is lost."""
    kept = torch.load(options.features, weights_only=True)
    frames, labels = kept["features"], kept["labels"]
    frames = (frames - frames.mean((0, 1))) / frames.std((0, 1))
    frames = frames @ torch.linalg.svd(frames.flatten(0, 1), full_matrices=False).Vh[:COMPONENTS].T  # without labels
    frames = frames / frames.std((0, 1))
    recordings = torch.from_numpy(np.unique(kept["recordings"], return_inverse=True)[1])
    count = int(recordings.max()) + 1
    training = "trained briefly"
    found: list[Found] = []
    for draw in range(options.draws):
        rng = torch.Generator().manual_seed(draw)
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[torch.randperm(count, generator=rng)[: round(0.6 * count)]] = True
        mine = chosen[recordings]
        of, test = (at_exits(frames[rows]) for rows in (mine, ~mine))
        parts = of, labels[mine], recordings[mine], test, labels[~mine], recordings[~mine]
        found.append(judged(*parts, STEPS[training], rng, {"as trained": (0.0, 0.0)}))
    yield from summed(found, f"{round(0.6 * count)} recordings of UCF-101, five classes", training)


def table(rows: list[dict[str, Any]], draws: int) -> str:
    """One line per setting and rule, the targets side by side."""
    lines = [
        f"{draws:,} draws each. Broken: draws whose thresholds lose more than permitted on fresh clips of the net that",
        "is used; a promise with 95 % confidence allows 5 %. Lost, saved (GMACs against the last exit), top-1: means.",
        "",
        f"| setting | rule | full top-1 | {' | '.join(f'{t:.0%}: broken | lost | saved | top-1' for t in TARGETS)} |",
        "|---|---|---|" + "---|---|---|---|" * len(TARGETS),
    ]
    by_line: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_line.setdefault((f"{row['what']}, {row['training']}, {row['drift']}", row["rule"]), []).append(row)
    for (setting, rule), line in by_line.items():
        cells = [
            " | ".join(f"{100 * row[name]:z.1f} %" for name in ("broken", "lost", "saved", "top1")) for row in line
        ]
        lines.append(f"| {setting} | {rule} | {100 * line[0]['full']:.1f} % | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
