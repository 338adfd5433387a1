"""Why a backbone with frozen batch norm may stay at chance: what its last features are after training on motion.

    python benchmarks/frozen_batch_norm.py --weights EFFICIENTNET_LITE0 frozen:1:online live:1:online frozen:0.1:online

Each setting is batch norm (`frozen`, `live`, or `recalibrated`: with statistics of the clips, the shift on, and then
frozen), the backbone's share of the learning rate, and the shift. EfficientNet-lite0 with weights of ImageNet whose
batch norm is not folded; 192 generated clips of four directions, 8 frames of 32 pixels, 6 epochs of AdamW at 0.001.
Prints a line of JSON for each; benchmarks/results/frozen_batch_norm.json keeps them.
"""

import argparse
import json
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from runs import RESULTS, write
from torch import Tensor, nn

from dynvid import UnifiedExitNet
from dynvid.data.synthetic import draw_scene, render

MOTIONS, SIZE, FRAMES, EPOCHS, BATCH = ("left", "right", "up", "down"), 32, 8, 6, 16


def main() -> None:
    """Run the settings that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / "frozen_batch_norm.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    train = clips(192, np.random.default_rng(options.seed))
    test = clips(120, np.random.default_rng(1000 + options.seed))
    for setting in options.settings:
        mode, scale, shift = setting.split(":")
        key = {"batch_norm": mode, "scale": float(scale), "shift": shift, "seed": options.seed}
        torch.manual_seed(options.seed)
        net = UnifiedExitNet(
            "tf_efficientnet_lite0",
            num_classes=len(MOTIONS),
            num_frames=FRAMES,
            shift=shift,
            pretrained=options.weights,
            input_size=SIZE,
        )
        fit(net, *train, mode, float(scale))
        rows.append(key | {f"train_{k}": v for k, v in told(net, *train).items()} | told(net, *test))
        print(json.dumps(rows[-1]), flush=True)
        write(file, json.dumps(rows, indent=1) + "\n")


def clips(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Clips uint8 (count, T, 3, H, W), and their directions."""
    label = torch.arange(count) % len(MOTIONS)
    times = ((np.arange(FRAMES) + 0.5) * 3).astype(int)
    drawn = [render(draw_scene(MOTIONS[motion], rng), 3 * FRAMES, SIZE)[times] for motion in label.tolist()]
    return torch.from_numpy(np.stack(drawn)).permute(0, 1, 4, 2, 3), label


def fit(net: UnifiedExitNet, video: Tensor, label: Tensor, mode: str, scale: float) -> None:
    """Train all exits."""
    norms = [layer for layer in net.segments.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if mode == "recalibrated":
        recalibrate(net, norms, video)
    for layer in norms if mode != "live" else ():
        layer.requires_grad_(False)
    of_backbone = {id(p) for p in net.segments.parameters()}
    groups = [
        {"params": [p for p in net.parameters() if id(p) not in of_backbone], "lr": 1e-3},
        {"params": [p for p in net.segments.parameters() if p.requires_grad], "lr": 1e-3 * scale},
    ]
    optimizer, steps = torch.optim.AdamW(groups, weight_decay=0.05), len(video) // BATCH
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    net.train()
    for layer in norms if mode != "live" else ():
        layer.eval()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(video)).split(BATCH):
            loss = torch.stack([F.cross_entropy(logits, label[rows]) for logits in net(video[rows])]).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def recalibrate(net: UnifiedExitNet, norms: list[nn.modules.batchnorm._BatchNorm], video: Tensor) -> None:
    """Let the statistics of batch norm be those of these clips, as the net with its shift sees them."""
    net.train()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average
    for part in video.split(24):
        net(part)


@torch.no_grad()
def told(net: UnifiedExitNet, video: Tensor, label: Tensor) -> dict[str, Any]:
    """Accuracy of each exit, and of the last features how many are zero, or the same, for all videos."""
    net.eval()
    parts = [net.embedded(part) for part in video.split(24)]
    right = (torch.cat([net.answer(part) for part in parts], 1).argmax(-1) == label).float().mean(1)
    last = torch.cat([part[4] for part in parts], 1).flatten(0, 1)  # (T * B, C)
    return {
        "accuracy": [round(x, 3) for x in right.tolist()],
        "zero": round(float((last.amax(0) < 1e-6).float().mean()), 3),
        "constant": round(float((last.std(0) < 1e-6).float().mean()), 3),
    }


if __name__ == "__main__":
    main()
