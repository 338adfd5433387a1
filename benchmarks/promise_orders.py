"""Which order of thresholds saves most under the same promise? What `thresholds_for_risk` does, beside what was tried.

    python benchmarks/promise_orders.py --name promise_orders --outputs FILE

FILE is that of promise.py. The second net is the same with a first exit that is too sure of itself: its logits are
tripled. Writes benchmarks/results/NAME.md.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from promise import CLIPS_PER_RECORDING, RISKS, Population, best, judge, population
from runs import RESULTS, write
from torch import Tensor

from dynvid.calibration import frontier, operate, thresholds_for_risk
from dynvid.calibration.binomial import binomial_cdf
from dynvid.calibration.promise import shared_threshold
from dynvid.policy import SCORES, choose_exits

COUNTS = (300, 1000, 3000)
Order = Callable[[Tensor, Tensor, list[float], float], Tensor]


def full(exits: int) -> Tensor:
    return torch.tensor([torch.inf] * (exits - 1) + [-torch.inf])


def permitted(videos: int, risk: float, error: float) -> int:
    """Losses up to which a risk is cleared, -1 for none."""
    return int((binomial_cdf(videos, risk) <= error).sum()) - 1


def shared(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float, off: int = 0, error: float = 0.05) -> Tensor:
    """One threshold for all exits, the first few off."""
    thresholds, most = full(len(scores)), permitted(scores.shape[1], risk, error)
    if most >= 0:
        thresholds[off:-1] = shared_threshold(scores[off:], lost[off:], most)
    return thresholds


def bonferroni(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float) -> Tensor:
    """First exits off in turn, an equal part of the error to each."""
    chains = len(scores) - 1
    rows = torch.stack([shared(scores, lost, gmacs, risk, off, 0.05 / chains) for off in range(chains)])
    return rows[int(operate(scores, lost, gmacs, rows).gmacs.argmin())]


def frontier_of_half(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float) -> Tensor:
    """The frontier of one half, from dear to cheap, tested on the other."""
    half = scores.shape[1] // 2
    rows = frontier(scores[:, :half], ~lost[:, :half], gmacs).thresholds.flip(0)
    losses = operate(scores[:, half:], lost[:, half:], gmacs, rows).accuracy * (scores.shape[1] - half)
    failed = losses.round() > permitted(scores.shape[1] - half, risk, 0.05)
    cleared = int(failed.int().argmax()) if failed.any() else len(rows)
    return rows[cleared - 1] if cleared else full(len(scores))


def loss_predicted(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float) -> Tensor:
    """One bound on the loss that a logistic curve per exit, fitted on a quarter, predicts; for scores in [0, 1]."""
    quarter, odds = scores.shape[1] // 4, scores.clamp(1e-6, 1 - 1e-6).logit().double()
    curves = [logistic(odds[k, :quarter], lost[k, :quarter]) for k in range(len(scores) - 1)]
    safety = scores.clone()
    for k, (height, slope) in enumerate(curves):
        safety[k] = (slope * odds[k] - height).float()
    level = shared(safety[:, quarter:], lost[:, quarter:], gmacs, risk)[0].double()
    found = full(len(scores))
    if level.isfinite():
        found[:-1] = torch.stack([((level + height) / slope).sigmoid() for height, slope in curves]).float()
    return found


def logistic(x: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """P(lost) = sigmoid(height - slope * x), by Newton's method with a ridge; the slope is positive."""
    columns, weights = torch.stack([torch.ones_like(x), -x], dim=1), x.new_zeros(2)
    ridge = torch.eye(2).double()
    for _ in range(30):
        p = (columns @ weights).sigmoid()
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + ridge
        weights = weights - torch.linalg.solve(curvature, columns.T @ (p - lost.double()) + ridge @ weights)
    return weights[0], weights[1].clamp(min=1e-3)


def one_clip_of_each(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float) -> Tensor:
    """By recording, as `thresholds_for_risk` does it; recordings lie one after the other."""
    groups = torch.arange(scores.shape[1]) // CLIPS_PER_RECORDING
    return thresholds_for_risk(scores, lost, gmacs, risk, groups=groups)


def hoeffding_bentkus(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float) -> Tensor:
    """By recording: one threshold, and the bound of Hoeffding and Bentkus on the mean of the recordings' shares."""
    recordings = scores.shape[1] // CLIPS_PER_RECORDING
    clips = torch.arange(scores.shape[1] + 1).double()  # lost in all
    mean = (clips / scores.shape[1]).clamp(max=risk)
    divergence = torch.xlogy(mean, mean / risk) + torch.xlogy(1 - mean, (1 - mean) / (1 - risk))
    bentkus = math.e * binomial_cdf(recordings, risk)[(clips / CLIPS_PER_RECORDING).ceil().long()]
    most = int((torch.minimum((-recordings * divergence).exp(), bentkus) <= 0.05).sum()) - 1
    found = full(len(scores))
    if most >= 0:
        found[:-1] = shared_threshold(scores, lost, most)
    return found


def betting(scores: Tensor, lost: Tensor, gmacs: list[float], risk: float) -> Tensor:
    """By recording: one threshold of a fixed grid, and the bets of Waudby-Smith and Ramdas (2024) on the shares."""
    found = full(len(scores))
    for level in torch.linspace(12, -2, 57).sigmoid():
        row = found.clone()
        row[:-1] = level
        taken = choose_exits(scores, row)
        share = lost.gather(0, taken[None])[0].double().view(-1, CLIPS_PER_RECORDING).mean(1)
        count = torch.arange(1, len(share) + 1).double()
        mean = (risk / 2 + share.cumsum(0)) / (count + 1)
        variance = (risk / 4 + ((share - mean) ** 2).cumsum(0)) / (count + 1)
        before = torch.cat([variance.new_tensor([risk / 4]), variance[:-1]])
        bet = (2 * math.log(20) / (len(share) * before)).sqrt().clamp(max=0.9 / (1 - risk))
        if (bet * (risk - share)).log1p().cumsum(0).max() < math.log(20):
            break
        found = row
    return found


ORDERS: dict[str, Order] = {
    "thresholds_for_risk": thresholds_for_risk,
    "one threshold": shared,
    "first exits off in turn, Bonferroni": bonferroni,
    "frontier of one half, tested on the other": frontier_of_half,
    "loss predicted by a quarter, one bound": loss_predicted,
}

BY_RECORDING: dict[str, Order] = {
    "one clip of each recording (thresholds_for_risk)": one_clip_of_each,
    "Hoeffding-Bentkus, one threshold": hoeffding_bentkus,
    "betting, one threshold": betting,
}


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outputs = torch.load(options.outputs, weights_only=True)
    too_sure = outputs | {"logits": torch.cat([3 * outputs["logits"][:1], outputs["logits"][1:]])}
    nets = {"as it is": population(outputs), "first exit too sure": population(too_sure)}
    lines = [
        f"GMACs saved on all clips, mean of {options.draws} calibrations; in brackets, how many of them broke the",
        "promise of 95 %. With labels.",
        "",
        f"| net | order | drawn | {' | '.join(f'{risk:.0%} lost' for risk in RISKS)} |",
        "|---|---|---|" + "---|" * len(RISKS),
    ]
    for net, clips in nets.items():
        single = torch.arange(clips.scores.shape[1])[:, None]
        for name, order in ORDERS.items():
            lines += [line(net, name, clips, single, order, count, options.draws) for count in COUNTS]
        known = best(clips, "with labels")
        cells = [f"{100 * known[str(risk)]:.1f} %" for risk in RISKS]
        lines.append(f"| {net} | knows the truth | all clips | {' | '.join(cells)} |")
    for score, function in SCORES.items():
        clips = nets["as it is"]._replace(scores=function(outputs["logits"]))
        lines.append(
            line("as it is", f"thresholds_for_risk, {score}", clips, single, thresholds_for_risk, 1000, options.draws)
        )
    for name, order in BY_RECORDING.items():
        clips = nets["as it is"]
        lines += [
            line("as it is", name, clips, clips.recordings, order, count, options.draws) for count in (100, 300, 1000)
        ]
    write(RESULTS / f"{options.name}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def line(net: str, name: str, clips: Population, units: Tensor, order: Order, count: int, draws: int) -> str:
    """One line of the table."""

    def rule(scores: Tensor, lost: Tensor, risk: float) -> Tensor:
        return order(scores, lost, clips.gmacs, risk)

    found = judge(clips, "with labels", units, count, rule, draws).values()
    cells = [f"{100 * figures['saved']:.1f} % ({100 * figures['broken']:.1f} %)" for figures in found]
    print(net, name, count, *cells, flush=True)
    drawn = f"{count:,} {'clips' if units.shape[1] == 1 else 'recordings'}"
    return f"| {net} | {name} | {drawn} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
