"""What recorded outputs say, as plain data: a function of the table, and what `report.json` holds."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynvid import strict_json
from dynvid.calibration import calibration_error, difference_interval, mean_interval, share_interval
from dynvid.errors import InputError
from dynvid.multilabel import SEPARATOR, Label, accuracy_word, names_of, plain_labels
from dynvid.outputs import Outputs
from dynvid.profile import Profile
from dynvid.recall import exit_figures
from dynvid.report.answers import answers
from dynvid.report.bounds import Corner, height, oracle_exit, random_exit
from dynvid.report.curve import Thresholds, curve_points
from dynvid.report.verdict import verdict
from dynvid.report.words import headline, note
from dynvid.text import printable_label

LISTED = 10  # videos, or pairs of labels, that a list of the worst names
TOP5_CLASSES = 5  # with so few classes, top-5 is always right


def summarise(outputs: Outputs, curve_thresholds: Thresholds | None = None) -> dict[str, Any]:
    """All figures of the report.

    Where labels are missing, the answer of full inference takes their place, and the key `agreement` that of
    `accuracy`. Intervals hold with 95 % confidence for all videos to come, and are counted by recording.

    Args:
        outputs: Recorded outputs.
        curve_thresholds: Sets of thresholds that the curve is drawn of, found on other videos; by default those under
            `curve_thresholds` in `outputs.run`, and without them there is no curve.

    Returns:
        `full` and `dynamic` (each `accuracy` in [0, 1], `gmacs` per video, and with labels `macro_recall`, the mean of
        the classes' recalls; where labels are sets also `map`, `f1` and `micro_f1`, see `dynvid.multilabel`),
        `measure_name` (such as top-1), `saved` (1 - dynamic / full GMACs), `points` (accuracy won or lost),
        `intervals` and `top5` of these, `videos`, `recordings`, `split`, `exits` (`frames`, `depth`, `gmacs`,
        `accuracy` if every video left there, `share` of the videos that do, and more), `classes`, `confusion` of
        dynamic against full inference,
        the `slowest` and the most confidently `wrong` videos, `curve`, `bounds`, `point` and `verdict`, `answers` (what
        is withheld, and how often the others are wrong), `headline` and `note` in words, and `run`. Where the outputs
        have a profile, `milliseconds` stands beside `gmacs` in `full`, `dynamic`, `exits` and `curve`, and `time` says
        what is `saved` of them, with `interval`, `bounds`, and the `profile` also in `words`; else it is None.

    Raises:
        ValueError: There are no videos, or the curve's thresholds do not fit the exits.

    Example:
        >>> from dynvid.policy import ThresholdPolicy
        >>> from dynvid.routes import Exit
        >>> outputs = Outputs(
        ...     logits=torch.tensor([[[3.0, 0.0], [0.1, 0.0]], [[3.0, 0.0], [0.0, 3.0]]]), labels=torch.tensor([0, 1]),
        ...     paths=["a.mp4", "b.mp4"], recordings=["a.mp4", "b.mp4"], route=(Exit(2, 1), Exit(4, 1)),
        ...     gmacs=(1.0, 2.0), full_gmacs=2.0, point=None, split="test",
        ...     policy=ThresholdPolicy(thresholds=[0.9, 0.0]),
        ... )
        >>> summary = summarise(outputs)
        >>> summary["dynamic"], summary["saved"]
        ({'accuracy': 1.0, 'gmacs': 1.5, 'macro_recall': 1.0}, 0.25)
    """
    videos = len(outputs.paths)
    if not videos:
        raise InputError("these outputs hold no videos: there is nothing to report")
    if any(b <= a for a, b in itertools.pairwise(outputs.gmacs)):
        raise InputError(f"gmacs {outputs.gmacs} do not grow from exit to exit")
    highest, classes = int(outputs.labels.max()), outputs.logits.shape[-1]
    if highest >= classes and not outputs.multi_label:
        raise InputError(f"label {highest}: the net knows {classes} classes, 0 to {classes - 1}")
    measure = "accuracy" if outputs.labelled else "agreement"
    right = (outputs.correct if outputs.labelled else ~outputs.lost(with_labels=False)).cpu()  # (K, N)
    taken = outputs.taken.cpu()
    groups = outputs.recordings if len(set(outputs.recordings)) < videos else None
    gmacs = torch.tensor(outputs.gmacs, dtype=torch.float64)

    cost, here = gmacs[taken], right.gather(0, taken[None])[0]
    full = {measure: _mean(right[-1]), "gmacs": outputs.full_gmacs}
    dynamic = {measure: _mean(here), "gmacs": float(cost.mean())}
    of_exits: list[dict[str, Any]] = [{"macro_recall": None}] * len(right)
    if outputs.labelled:
        figures, of_taken = exit_figures(outputs.policy, outputs.logits, outputs.labels)
        full, dynamic, of_exits = full | figures[-1], dynamic | of_taken, [*figures]
    dearest, cheapest = mean_interval(cost, groups)[::-1]
    intervals = {
        "full": list(share_interval(right[-1], groups)),
        "dynamic": list(share_interval(here, groups)),
        "gmacs": [cheapest, dearest],
        "saved": [1 - dearest / outputs.full_gmacs, 1 - cheapest / outputs.full_gmacs],
        "points": list(difference_interval(here.double() - right[-1].double(), groups)),
    }
    curve = curve_points(outputs, right, groups, measure, curve_thresholds)
    chance = random_exit(outputs.gmacs, [_mean(row) for row in right])
    oracle = oracle_exit(outputs.gmacs, right.numpy())
    summary: dict[str, Any] = {
        "labelled": outputs.labelled,
        "measure": measure,
        "measure_name": accuracy_word(outputs.multi_label) if outputs.labelled else "agreement",
        "split": outputs.split,
        "videos": videos,
        "recordings": len(set(outputs.recordings)),
        "num_classes": classes,
        "full": full,
        "dynamic": dynamic,
        "saved": 1 - dynamic["gmacs"] / outputs.full_gmacs,
        "points": dynamic[measure] - full[measure],
        "intervals": intervals,
        "top5": _top5(outputs, taken),
        "most_frequent": _most_frequent(outputs),
        "point": None if outputs.point is None else {"words": str(outputs.point)} | outputs.point.plain(),
        "verdict": verdict(outputs),
        "answers": answers(outputs),
        "exits": _exits(outputs, right, taken, groups, measure, of_exits),
        "classes": _classes(outputs, taken, cost),
        "confusion": _confusion(outputs, right[-1], here, taken),
        "curve": curve,
        "bounds": {
            "random_exit": _bound(chance, dynamic["gmacs"], measure),
            "oracle_exit": _bound(oracle, dynamic["gmacs"], measure),
        },
        "score": outputs.policy.score_name,
        "weights": outputs.weights,
        "run": {key: value for key, value in outputs.run.items() if key != "curve_thresholds"},
    }
    summary |= _worst(outputs, here, taken)
    summary["time"] = None if outputs.profile is None else _add_time(summary, outputs.profile, right, taken, groups)
    summary["headline"] = headline(summary)
    summary["note"] = note(summary)
    return summary


def _add_time(
    summary: dict[str, Any], profile: Profile, right: Tensor, taken: Tensor, groups: Sequence[str] | None
) -> dict[str, Any]:
    """Put milliseconds beside the GMACs of full and dynamic inference and of the exits; the rest is what is given."""
    measure, costs = summary["measure"], profile.milliseconds
    spent = torch.tensor(costs, dtype=torch.float64)[taken]
    for entry, cost in zip(summary["exits"], costs, strict=True):
        entry["milliseconds"] = cost
    full, dynamic = profile.full.median, float(spent.mean())
    summary["full"]["milliseconds"], summary["dynamic"]["milliseconds"] = full, dynamic
    low, high = mean_interval(spent, groups)
    chance = random_exit(costs, [_mean(row) for row in right])
    return {
        "words": str(profile),
        "profile": profile.plain(),
        "saved": 1 - dynamic / full,
        "interval": [1 - high / full, 1 - low / full],
        "bounds": {
            "random_exit": _bound(chance, dynamic, measure, "milliseconds"),
            "oracle_exit": _bound(oracle_exit(costs, right.numpy()), dynamic, measure, "milliseconds"),
        },
    }


def class_name(outputs: Outputs, label: Label) -> str:
    """What a label is called, for people; classes by their numbers where names are not known."""
    return SEPARATOR.join(names_of(label, outputs.class_names)) or printable_label("")


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _exits(
    outputs: Outputs,
    right: Tensor,
    taken: Tensor,
    groups: Sequence[str] | None,
    measure: str,
    figures: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    exits, errors = [], _calibration_errors(outputs)
    for k, (frames, depth) in enumerate(outputs.route):
        leaves = taken == k
        exits.append(
            {
                "frames": frames,
                "depth": depth,
                "gmacs": outputs.gmacs[k],
                measure: _mean(right[k]),
                "interval": list(share_interval(right[k], groups)),
                **figures[k],
                "share": _mean(leaves),
                "of_those_leaving": _mean(right[k][leaves]) if leaves.any() else None,
                "top5": _mean(_in_top5(outputs, k)) if _has_top5(outputs) else None,
                "calibration_error": errors[k],
                "right_then_wrong": int((right[k] & ~right[-1]).sum()),
                "wrong_then_right": int((~right[k] & right[-1]).sum()),
                "threshold": strict_json.named(float(outputs.policy.thresholds[k])),
                "temperature": outputs.policy.temperatures[k],
            }
        )
    return exits


def _has_top5(outputs: Outputs) -> bool:
    return outputs.labelled and not outputs.multi_label and outputs.logits.shape[-1] > TOP5_CLASSES


def _in_top5(outputs: Outputs, k: int) -> Tensor:
    return (outputs.logits[k].topk(5, -1).indices == outputs.labels[:, None]).any(-1).cpu()


def _top5(outputs: Outputs, taken: Tensor) -> dict[str, float] | None:
    if not _has_top5(outputs):
        return None
    every = torch.stack([_in_top5(outputs, k) for k in range(len(outputs.route))])
    return {"full": _mean(every[-1]), "dynamic": _mean(every.gather(0, taken[None]))}


def _calibration_errors(outputs: Outputs) -> list[float | None]:
    """Of each exit, over 15 bins; None without labels, or where a probability is no number."""
    right = outputs.correct.cpu()
    known = [None if not outputs.labelled or p.isnan().any() else p for p in outputs.probabilities.cpu()]
    return [None if p is None else calibration_error(p[None], right[k : k + 1])[0] for k, p in enumerate(known)]


def _most_frequent(outputs: Outputs) -> dict[str, Any] | None:
    if not outputs.labelled:
        return None
    label, count = min(Counter(_known(outputs.labels)).items(), key=lambda pair: (-pair[1], pair[0]))
    return {"class": class_name(outputs, label), "share": count / len(outputs.labels)}


def _classes(outputs: Outputs, taken: Tensor, cost: Tensor) -> list[dict[str, Any]]:
    """By label, or by that of full inference where labels are missing; classes without a video are left out.

    A video of several classes counts for each of them, and as right for those that it is said to have.
    """
    labels = (outputs.labels if outputs.labelled else outputs.predicted[-1]).cpu()
    answers, count, exits = outputs.predicted.cpu(), outputs.logits.shape[-1], len(outputs.route)
    rows = torch.arange(len(labels))
    if outputs.multi_label:
        rows, labels = (labels > 0).nonzero().unbind(1)
        said = [answers[-1][rows, labels], answers[taken[rows], rows, labels]]
    else:
        said = [answers[-1] == labels, answers[taken, rows] == labels]
    taken = taken[rows]
    videos = np.bincount(labels, minlength=count)
    full, dynamic, spent = (np.bincount(labels, x.double().numpy(), count) for x in (*said, cost[rows]))
    leaving = np.bincount(labels * exits + taken, minlength=count * exits).reshape(count, exits)
    return [
        {
            "class": class_name(outputs, label),
            "videos": int(videos[label]),
            "full": float(full[label] / videos[label]),
            "dynamic": float(dynamic[label] / videos[label]),
            "gmacs": float(spent[label] / videos[label]),
            "shares": (leaving[label] / videos[label]).tolist(),
        }
        for label in np.flatnonzero(videos).tolist()
    ]


def _confusion(outputs: Outputs, full: Tensor, here: Tensor, taken: Tensor) -> dict[str, Any]:
    """What becomes of full inference's answers."""
    before, after = _known(outputs.predicted[-1]), _known(_answers(outputs))
    changed = Counter((a, b) for a, b in zip(before, after, strict=True) if a != b)
    named = [
        {"full": class_name(outputs, a), "dynamic": class_name(outputs, b), "videos": count}
        for (a, b), count in sorted(changed.items(), key=lambda pair: (-pair[1], pair[0]))[:LISTED]
    ]
    if not outputs.labelled:
        return {"same": int(here.sum()), "other": int((~here).sum()), "changed": named}
    return {
        "both_right": int((full & here).sum()),
        "only_full": int((full & ~here).sum()),
        "only_dynamic": int((~full & here).sum()),
        "neither": int((~full & ~here).sum()),
        "changed": named,
    }


def _worst(outputs: Outputs, here: Tensor, taken: Tensor) -> dict[str, list[dict[str, Any]]]:
    """The videos that cost most, the least sure first, and those that were wrong, the surest first."""
    sure = outputs.probabilities.cpu().gather(0, taken[None])[0]
    labels, answers, full = plain_labels(outputs.labels), _known(_answers(outputs)), _known(outputs.predicted[-1])

    def described(n: int) -> dict[str, Any]:
        truth = labels[n]
        return {
            "path": outputs.paths[n],
            "class": None if truth is None else class_name(outputs, truth),
            "dynamic": class_name(outputs, answers[n]),
            "full": class_name(outputs, full[n]),
            "probability": float(sure[n]),
            "exit": int(taken[n]) + 1,
            "gmacs": outputs.gmacs[int(taken[n])],
        }

    videos = range(len(outputs.paths))
    exit_taken, confidence, hit = taken.tolist(), sure.tolist(), here.tolist()
    slowest = sorted(videos, key=lambda n: (-exit_taken[n], confidence[n], outputs.paths[n]))
    wrong = sorted((n for n in videos if not hit[n]), key=lambda n: (-confidence[n], outputs.paths[n]))
    return {"slowest": [described(n) for n in slowest[:LISTED]], "wrong": [described(n) for n in wrong[:LISTED]]}


def _answers(outputs: Outputs) -> Tensor:
    """What the exits taken say, (N, ...)."""
    return outputs.predicted[outputs.taken, torch.arange(len(outputs.taken), device=outputs.taken.device)]


def _known(labels: Tensor) -> list[Label]:
    return [label for label in plain_labels(labels) if label is not None]


def _bound(corners: list[Corner], at: float, measure: str, cost: str = "gmacs") -> dict[str, Any]:
    return {
        "corners": [{cost: corner.gmacs, measure: corner.accuracy} for corner in corners],
        "at_equal_cost": height(corners, at),
    }
