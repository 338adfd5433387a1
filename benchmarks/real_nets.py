"""Do promises hold on real nets, by clip and by recording, with labels and without? From what record.py has kept.

    python benchmarks/record.py benchmarks/nets.yaml runs
    python benchmarks/real_nets.py runs

Thresholds are found on calibration videos and judged on test videos. Each seed's calibration and test videos are then
pooled and split anew many times, recording by recording: one test split says little of how often a promise breaks.
Writes benchmarks/results/real_nets.json and real_nets.md.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from runs import RESULTS, write
from torch import Tensor

from dynvid.calibration import (
    Target,
    find_point,
    frontier,
    kept_apart,
    mean_interval,
    share_interval,
    thresholds_for_risk,
)
from dynvid.outputs import Outputs
from dynvid.policy import choose_exits


class Net(NamedTuple):
    """What the table says of a net.

    Attributes:
        title: In words.
        risks: Shares of losses to promise.
        checkpoint_chosen: Whether validation chose the checkpoint, so that only what was kept apart calibrates; else
            all of validation does.
    """

    title: str
    risks: tuple[float, ...]
    checkpoint_chosen: bool


GENERATED, UCF = (0.01, 0.02, 0.05), (0.05, 0.10, 0.20)
NETS = {  # of nets.yaml
    "quickstart_none": Net("generated clips, ResNet, no shift", GENERATED, True),
    "quickstart_online": Net("generated clips, ResNet, online shift", GENERATED, True),
    "msdnet/unified_none": Net("generated clips, small MSDNet, no shift", GENERATED, False),
    "msdnet/unified_online": Net("generated clips, small MSDNet, online shift", GENERATED, False),
    "ucf101_5_none": Net("five classes of UCF-101, MobileNetV2, no shift", UCF, False),
    "ucf101_5_online": Net("five classes of UCF-101, MobileNetV2, online shift", UCF, False),
}


class Run(NamedTuple):
    """What one seed answered."""

    val: Outputs
    test: Outputs


def main() -> None:
    """Read, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="what record.py has written")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--name", default="real_nets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"draws": options.draws, "nets": {}}
    for name, net in NETS.items():
        runs = read(options.runs / name)
        if not runs:
            print(f"{name}: nothing recorded")
            continue
        found["nets"][name] = {"title": net.title} | of_net(net, list(runs.values())) | {"seeds": list(runs)}
        found["nets"][name]["rows"] = list(rows(net, list(runs.values()), options.draws))
        print(f"{name}: done", flush=True)
    write(RESULTS / f"{options.name}.json", json.dumps(found, indent=1) + "\n")
    write(RESULTS / f"{options.name}.md", table(found))
    print(table(found))


def read(folder: Path) -> dict[int, Run]:
    """The runs of a net by seed."""
    seeds = sorted(int(path.parent.name) for path in folder.glob("*/outputs_test.parquet"))
    return {
        seed: Run(*(Outputs.read(folder / str(seed) / f"outputs_{split}.parquet") for split in ("val", "test")))
        for seed in seeds
    }


def of_net(net: Net, runs: list[Run]) -> dict[str, Any]:
    """What does not depend on what is promised."""
    calibrating = calibration_part(net, runs[0].val)
    test = [run.test for run in runs]
    return {
        "calibration_videos": len(calibrating.labels),
        "calibration_recordings": len(set(calibrating.recordings)),
        "test_videos": len(test[0].labels),
        "test_recordings": len(set(test[0].recordings)),
        "full_gmacs": test[0].full_gmacs,
        "full": [share(outputs.correct[-1]) for outputs in test],
        "full_intervals": [[*share_interval(outputs.correct[-1], outputs.recordings)] for outputs in test],
        "full_interval": over_seeds(test, [outputs.correct[-1] for outputs in test]),
    }


def rows(net: Net, runs: list[Run], draws: int) -> Iterator[dict[str, Any]]:
    """One per promise: the risk, with labels or without, by clip or by recording. Lists are over seeds."""
    units = ["clip", "recording"] if len(set(runs[0].test.recordings)) < len(runs[0].test.recordings) else ["clip"]
    test = [run.test for run in runs]
    parts = [calibration_part(net, run.val) for run in runs]
    for labels in (True, False):
        resplits = [
            resplit(pooled(part, outputs), len(set(part.recordings)), net.risks, labels, draws)
            for part, outputs in zip(parts, test, strict=True)
        ]
        for risk in net.risks:
            target = Target(max_drop=risk) if labels else Target(max_disagreement=risk)
            for unit in units:
                judged = [judge(part, outputs, target, unit) for part, outputs in zip(parts, test, strict=True)]
                right = [one["right"] for one in judged]
                gained = [now.double() - o.correct[-1].double() for now, o in zip(right, test, strict=True)]
                yield {
                    "risk": risk,
                    "labels": labels,
                    "unit": unit,
                    "dynamic": [share(now) for now in right],
                    "dynamic_intervals": [
                        [*share_interval(now, o.recordings)] for now, o in zip(right, test, strict=True)
                    ],
                    "dynamic_interval": over_seeds(test, right),
                    "change": [float(change.mean()) for change in gained],
                    "change_interval": over_seeds(test, gained),
                    **{name: [one[name] for one in judged] for name in ("saved", "lost", "broken", "full_inference")},
                    "resplit_broken": [found[unit, risk].broken for found in resplits],
                    "resplit_saved": [found[unit, risk].saved for found in resplits],
                    "old_broken": [found["old", risk].broken for found in resplits],
                    "old_saved": [found["old", risk].saved for found in resplits],
                }


def calibration_part(net: Net, val: Outputs) -> Outputs:
    """The videos that calibrate: those kept apart where validation chose the checkpoint, else all."""
    apart = kept_apart(val.recordings)
    return val.of(apart) if net.checkpoint_chosen and apart.any() else val


def judge(part: Outputs, test: Outputs, target: Target, unit: str) -> dict[str, Any]:
    """What a promise leads to on the test videos."""
    labels = target.rule == "max_drop"
    groups = part.recordings if unit == "recording" else part.paths
    thresholds, point = find_point(part.scores, part.lost(labels), part.gmacs, target, groups)
    taken = choose_exits(test.scores, thresholds)
    lost = lost_share(test.lost(labels).gather(0, taken[None])[0], test.recordings if unit == "recording" else None)
    return {
        "right": test.correct.gather(0, taken[None])[0],
        "saved": 1 - mean_gmacs(test, taken) / test.full_gmacs,
        "lost": lost,
        "broken": lost > target.value,
        "full_inference": point.full_inference,
    }


def pooled(part: Outputs, test: Outputs) -> Outputs:
    """Calibration and test videos together."""
    return replace(
        part,
        logits=torch.cat([part.logits, test.logits], dim=1),
        labels=torch.cat([part.labels, test.labels]),
        paths=part.paths + test.paths,
        recordings=part.recordings + test.recordings,
    )


class Draws(NamedTuple):
    """Means over draws: whether more was lost than permitted, and the share of GMACs saved, on the videos left."""

    broken: float
    saved: float


def resplit(
    pool: Outputs, calibrating: int, risks: tuple[float, ...], labels: bool, draws: int
) -> dict[tuple[str, float], Draws]:
    """What rules lead to on videos that have not calibrated: by clip, by recording, and the old rule.

    Args:
        pool: All videos.
        calibrating: Recordings that calibrate; the videos of the others judge.
        risks: What is permitted.
        labels: Whether lost means wrong, or another label than full inference gives.
        draws: How many times.
    """
    names, recording = np.unique(pool.recordings, return_inverse=True)
    scores, lost, gmacs = pool.scores, pool.lost(labels), pool.gmacs
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for draw in range(draws):
        inside = np.zeros(len(names), dtype=bool)
        inside[np.random.default_rng((calibrating, draw)).permutation(len(names))[:calibrating]] = True
        chosen = torch.from_numpy(inside[recording])
        here, groups = (scores[:, chosen], lost[:, chosen]), torch.from_numpy(recording)[chosen]
        candidates = frontier(here[0], ~here[1], gmacs)  # as thresholds_for_drop, once for all risks
        for risk in risks:
            rules = {
                "clip": thresholds_for_risk(*here, gmacs, risk),
                "recording": thresholds_for_risk(*here, gmacs, risk, groups=groups),
                "old": candidates.thresholds[int((candidates.lost > risk + 1e-6).sum())],
            }
            for rule, thresholds in rules.items():
                taken = choose_exits(scores[:, ~chosen], thresholds)
                of = recording[~chosen.numpy()] if rule == "recording" else None
                broken = lost_share(lost[:, ~chosen].gather(0, taken[None])[0], of) > risk
                saved = 1 - mean_gmacs(pool, taken) / pool.full_gmacs
                found.setdefault((rule, risk), []).append((broken, saved))
    return {key: Draws(*map(fmean, zip(*every, strict=True))) for key, every in found.items()}


def share(hits: Tensor) -> float:
    """Of all videos."""
    return float(hits.double().mean())


def lost_share(lost: Tensor, recordings: Any = None) -> float:
    """Of all videos; or, as a promise by recording means it, the mean over recordings of the share lost in each."""
    if recordings is None:
        return share(lost)
    _, recording = np.unique(np.asarray(recordings), return_inverse=True)
    return float((np.bincount(recording, lost.double().numpy()) / np.bincount(recording)).mean())


def mean_gmacs(outputs: Outputs, taken: Tensor) -> float:
    """Per video."""
    return float(torch.tensor(outputs.gmacs, dtype=torch.float64)[taken].mean())


def over_seeds(test: list[Outputs], values: list[Tensor]) -> list[float]:
    """95 % interval, by recording, of the mean over seeds, which share their test videos."""
    assert all(outputs.paths == test[0].paths for outputs in test), "the seeds have other test videos"
    return [*mean_interval(torch.stack([value.double() for value in values]).mean(0), test[0].recordings)]


def table(found: dict[str, Any]) -> str:
    """One table per net."""
    lines = [
        "Median over seeds, lowest and highest in brackets; [95 % interval of the mean over seeds, by recording].",
        "Saved: of the GMACs of full inference, on test. Broken on test: seeds that lost more test videos than",
        f"promised. Broken anew: calibration and test videos are drawn {found['draws']} times from both together, by",
        "recording; the share of draws whose test videos lost more than promised. Part of that is luck, since few test",
        "videos are no population. Lost by recording: the mean over recordings of the share lost in each. Old rule:",
        "the largest saving with that loss on the calibration videos, no promise (`confidence: null`), on the same",
        "draws.",
    ]
    for net in found["nets"].values():
        full, low, high = net["full"], *net["full_interval"]
        lines += [
            "",
            f"**{net['title']}**, {len(net['seeds'])} seeds: {videos(net, 'calibration')} calibrate,"
            f" {videos(net, 'test')} test; full inference {spread(full)} [{100 * low:.1f} to {100 * high:.1f}].",
            "",
            "| promised | labels | by | dynamic inference, top-1 | change, points | GMACs saved | lost on test "
            "| broken on test | broken anew | saved anew | old rule: broken anew | saved anew |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in net["rows"]:
            between = [f"[{100 * row[name][0]:{form}} to {100 * row[name][1]:{form}}]" for name, form in INTERVALS]
            cells = [
                f"{100 * row['risk']:g} %",
                "yes" if row["labels"] else "no",
                row["unit"],
                f"{spread(row['dynamic'])} {between[0]}",
                f"{spread(row['change'], '', '+.1f')} {between[1]}",
                spread(row["saved"]),
                spread(row["lost"]),
                f"{sum(row['broken'])} of {len(row['broken'])}",
                *(spread(row[name]) for name in ("resplit_broken", "resplit_saved", "old_broken", "old_saved")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


INTERVALS = (("dynamic_interval", "z.1f"), ("change_interval", "+z.1f"))


def videos(net: dict[str, Any], part: str) -> str:
    """How many, and of how many recordings where that differs."""
    count, recordings = net[f"{part}_videos"], net[f"{part}_recordings"]
    return f"{count} videos" + (f" of {recordings} recordings" if recordings < count else "")


def spread(shares: list[float], unit: str = " %", form: str = "z.1f") -> str:
    """Median (lowest to highest) in percent."""
    values = [100 * value for value in shares]
    return f"{median(values):{form}}{unit} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
