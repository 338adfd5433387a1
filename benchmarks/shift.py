"""What the shift costs in inference and in training, and what bf16 and torch.compile do to training: results/shift.md.

ResNet-50 with random weights, one thread. CPU time of the process; every ratio is of two runs that follow one
another, given as median (lowest to highest).
"""

import argparse
import copy
import time
from collections.abc import Callable
from datetime import date

import torch
from memory import RESULTS, full, measured, processor, ratios, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dynvid import ExitNet, UnifiedExitNet
from dynvid.nets.shift import OnlineTemporalShift


def inference(dtype: torch.dtype, batch: int, repeats: int) -> str:
    """The time inside the shift over the time of all the rest, in one and the same run."""
    video = torch.randint(0, 256, (batch, 16, 3, 224, 224), dtype=torch.uint8)
    net = ExitNet().eval().to(dtype)
    began = inside = 0.0

    def begin(*_: object) -> None:
        nonlocal began
        began = time.process_time()

    def end(*_: object) -> None:
        nonlocal inside
        inside += time.process_time() - began

    for module in net.modules():
        if isinstance(module, OnlineTemporalShift):
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(end)
    found = []
    for _ in range(repeats + 1):
        inside, started = 0.0, time.process_time()
        full(net, video)
        found.append(inside / (time.process_time() - started - inside))
    return spread(found[1:])


def step(
    net: nn.Module, video: Tensor, label: Tensor, precision: str = "float32", run: nn.Module | None = None
) -> Callable[[], float]:
    """A step of SGD, which gives its loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

    def job() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = (net if run is None else run)(video)
        loss = torch.stack([cross_entropy(one.float(), label) for one in logits]).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return job


def gradients(net: nn.Module) -> Tensor:
    """All of them in one vector, float64."""
    return torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None])


def training(repeats: int, compiled: bool) -> list[str]:
    """Steps of training on 2 clips of 16 frames, 112 pixels."""
    torch.manual_seed(0)
    video = torch.randint(0, 256, (2, 16, 3, 112, 112), dtype=torch.uint8)
    label = torch.randint(0, 400, (2,))
    nets = {"no shift": ExitNet(shift="none"), "one exit": ExitNet(), "four exits": UnifiedExitNet()}
    jobs = {name: step(net.train(), video, label) for name, net in nets.items()}
    plain = nets["one exit"]  # not four: the batch norm of two videos in their heads magnifies every rounding
    of = {"one exit": plain, "bf16": copy.deepcopy(plain)}
    jobs["bf16"] = step(of["bf16"], video, label, "bfloat16")
    if compiled:
        of |= {"compiled": copy.deepcopy(plain), "compiled bf16": copy.deepcopy(plain)}
        jobs["compiled"] = step(of["compiled"], video, label, run=torch.compile(of["compiled"]))
        run = torch.compile(of["compiled bf16"])
        jobs["compiled bf16"] = step(of["compiled bf16"], video, label, "bfloat16", run)
    exact = copy.deepcopy(plain).double()
    step(exact, video, label)()
    far, wanted = {}, gradients(exact)
    for name, net in of.items():
        jobs[name]()
        found = gradients(net)
        cosine = torch.cosine_similarity(found, wanted, 0)
        far[name] = f"{(found - wanted).norm() / wanted.norm():.1e}, cosine {cosine:.4f}"
    times = measured(jobs, repeats)
    rows = [
        ("with the shift over without", "one exit", "no shift", far["one exit"]),
        ("four exits over one", "four exits", "one exit", "-"),
        ("bf16 autocast over fp32", "bf16", "one exit", far["bf16"]),
    ]
    if compiled:
        rows.append(("compiled over eager, fp32", "compiled", "one exit", far["compiled"]))
        rows.append(("compiled bf16 over eager bf16", "compiled bf16", "bf16", far["compiled bf16"]))
    return [f"| {what} | {spread(ratios(times, name, base))} | {error} |" for what, name, base, error in rows]


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="shift")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="torch.compile in training too, which takes minutes")
    a = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"{date.today()}, {processor()}, torch {torch.__version__}, {a.repeats} rounds.", ""]
    lines += [f"| shift, inference, batch {a.batch}, 16 x 224 | time in the shift / all the rest |", "|---|---|"]
    for dtype in (torch.bfloat16, torch.float32):
        lines.append(f"| {str(dtype).removeprefix('torch.')} | {inference(dtype, a.batch, a.repeats)} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "| a step of training, 2 x 16 x 112 | time ratio | distance of gradients to float64 |",
        "|---|---|---|",
    ]
    lines += training(a.repeats, a.compiled)
    print("\n".join(lines), flush=True)
    (RESULTS / f"{a.name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
