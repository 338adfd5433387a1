"""Parameters and GMACs of every model of Wu et al., CVPRW 2020, beside what the paper says.

    python benchmarks/models.py

Writes benchmarks/results/models.md; nothing is trained, and nothing computed but the counts.
"""

import torch
from runs import RESULTS, write

from dynvid import ExitNet, UnifiedExitNet
from dynvid.nets import MSDNet

# Name, net, and the paper's parameters (M) and full inference (GMACs per video).
ROWS = [
    ("TSN ResNet-50, 8 frames", ExitNet, {"backbone": "resnet50", "num_frames": 8, "shift": "none"}, 24.3, "33"),
    ("TSN ResNet-50, 16 frames", ExitNet, {"backbone": "resnet50", "shift": "none"}, 24.3, "64"),
    (
        "TSM ResNet-50, 8 frames",
        ExitNet,
        {"backbone": "resnet50", "num_frames": 8, "shift": "bidirectional"},
        24.3,
        "33",
    ),
    ("TSM ResNet-50, 16 frames", ExitNet, {"backbone": "resnet50", "shift": "bidirectional"}, 24.3, "64"),
    ("Dynamic ResNet-50", UnifiedExitNet, {"backbone": "resnet50"}, 29.12, ""),
    ("Dynamic ResNet-101", UnifiedExitNet, {"backbone": "resnet101"}, 48.12, ""),
    ("Dynamic MSDNet-38, 1000 classes", UnifiedExitNet, {"backbone": "msdnet38", "num_classes": 1000}, 62.31, "52"),
    ("Dynamic MSDNet-38", UnifiedExitNet, {"backbone": "msdnet38"}, None, "52"),
]

lines = [
    "| model (400 classes, 16 x 224 x 224 unless said) | parameters | paper | full inference, GMACs | paper | exits |",
    "|---|---|---|---|---|---|",
]
for name, cls, arguments, params, gmacs in ROWS:
    net = cls(**arguments)
    count = sum(p.numel() for p in net.parameters())
    exits = ", ".join(f"{e.frames}x{e.depth}: {g:.2f}" for e, g in zip(net.route, net.gmacs, strict=True))
    paper = f"{params} M" if params else ""
    lines.append(f"| {name} | {count:,} | {paper} | {net.full_gmacs:.2f} | {gmacs} | {exits} |")

lines += [
    "",
    "Full inference evaluates the last head only. The paper's 52 GMACs of MSDNet-38 are those with all five heads,",
    "here with all frames at each depth; the linear layers are counted once, on the mean over frames:",
    "",
    "| exit | GMACs of 16 frames | MMACs per frame |",
    "|---|---|---|",
]
with torch.device("meta"):
    net = ExitNet("msdnet38", shift="none", route=[(16, depth) for depth in MSDNet().exit_depths])
lines += [f"| {k} | {g:.2f} | {1000 * g / 16:.1f} |" for k, g in enumerate(net.gmacs, 1)]
text = "\n".join(lines) + "\n"
print(text)
write(RESULTS / "models.md", text)
