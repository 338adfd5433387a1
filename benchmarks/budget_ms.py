"""What a budget in milliseconds changes against one in GMACs: the same share of full inference, counted in either.

The answers are recorded ones, of any net with as many exits along depth; the costs are those of `--backbone`, measured
here on random frames (costs do not depend on what weights a net has), in process CPU time on the threads in use.

    dynvid fit --config quickstart.yaml --config depth.yaml --data.num_frames 4 \
        --model.net.route '[[4,1],[4,2],[4,3],[4,4]]'
    dynvid calibrate CHECKPOINT --config quickstart.yaml --data.num_frames 4 --budget 1  # records outputs
    OMP_NUM_THREADS=1 python benchmarks/budget_ms.py OUTPUTS_VAL.parquet --backbone resnet50 --frames 16 --size 224
"""

import argparse
import time

import torch
from runs import RESULTS, write

from dynvid import DepthExitNet
from dynvid.calibration import Target, find_point, kept_apart
from dynvid.inference.measuring import measure
from dynvid.inference.recipe import prepare
from dynvid.outputs import Outputs
from dynvid.policy import choose_exits
from dynvid.profile import Profile

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of full inference, that the budget is


def main() -> None:
    """Measure, choose by either cost, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="budget_ms")
    options = parser.parse_args()
    outputs = Outputs.read(options.outputs)
    outputs = outputs.of(kept_apart(outputs.recordings))
    depths = len(outputs.route)
    route = [(options.frames, depth) for depth in range(1, depths + 1)]
    net = DepthExitNet(
        options.backbone, len(outputs.class_names or ()) or 10, options.frames, route, input_size=options.size
    ).eval()
    fast, recipe = prepare(net, precision=options.precision)
    profile = measure(fast, repeats=options.repeats, optimize=recipe.optimize, clock=time.process_time)
    text = described(options, profile, net.gmacs) + "\n" + compared(outputs, profile, net.gmacs)
    write(RESULTS / f"{options.name}.md", text)
    print(text)


def described(options: argparse.Namespace, profile: Profile, gmacs: tuple[float, ...]) -> str:
    """The costs, as a table: what share of full inference each exit's are."""
    lines = [
        f"{options.backbone}, {options.frames} frames of {options.size} pixels, online shift; {profile}; median of "
        f"{profile.repeats} repeats of process CPU time ({profile.date[:10]}, torch {profile.versions['torch']}).",
        "",
        "| exit | GMACs of all | time of all (lowest to highest) |",
        "|--:|--:|--:|",
    ]
    last = profile.exits[-1].median
    for (frames, depth), cost, timing in zip(profile.route, gmacs, profile.exits, strict=True):
        low, high = 100 * timing.lowest / last, 100 * timing.highest / last
        share = f"{100 * timing.median / last:.1f} % ({low:.1f} to {high:.1f})"
        lines.append(f"| {frames}x{depth} | {100 * cost / gmacs[-1]:.1f} % | {share} |")
    return "\n".join(lines) + "\n"


def compared(outputs: Outputs, profile: Profile, gmacs: tuple[float, ...]) -> str:
    """For each budget, what is chosen when it is counted in GMACs, and when in milliseconds."""
    lines = [
        f"Answers of {len(outputs.paths)} videos of {outputs.split}, top-1 of full inference "
        f"{100 * float(outputs.correct[-1].double().mean()):.1f} %:",
        "",
        "| budget, of the last exit | counted in | GMACs spent | time spent | top-1 | leave at each exit |",
        "|--:|---|--:|--:|--:|---|",
    ]
    lost = outputs.lost(with_labels=True)
    for share in SHARES:
        for unit in ("GMACs", "ms"):
            by = profile if unit == "ms" else None
            cost = profile.milliseconds if by else gmacs
            budget = share * cost[-1]
            if budget < cost[0]:
                lines.append(f"| {100 * share:.0f} % | {unit} | below the first exit | | | |")
                continue
            target = Target(budget_ms=budget) if by else Target(budget=budget)
            thresholds, _ = find_point(outputs.scores, lost, gmacs, target, outputs.recordings, profile=by)
            taken = choose_exits(outputs.scores, thresholds)
            right = 100 * float(outputs.correct.gather(0, taken[None]).double().mean())
            leave = ", ".join(f"{100 * n / len(taken):.0f}" for n in torch.bincount(taken, minlength=len(cost)))
            spent = (
                f"{100 * float(torch.tensor(costs, dtype=torch.float64)[taken].mean()) / costs[-1]:.1f} %"
                for costs in (gmacs, profile.milliseconds)
            )
            lines.append(f"| {100 * share:.0f} % | {unit} | {' | '.join(spent)} | {right:.1f} % | {leave} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
