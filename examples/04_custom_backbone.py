"""Bring your own stages: anything that can be cut into segments can carry exits.

python examples/04_custom_backbone.py
"""

import torch
import torch.nn.functional as F
from torch import nn

from dynvid import ThresholdPolicy, UnifiedExitNet
from dynvid.nets import Backbone
from dynvid.nets.head import GlobalPool


class ThreeStages(Backbone):
    """Three strided convolutions with an exit after each."""

    exit_depths = (1, 2, 3)

    def __init__(self, widths=(16, 32, 64)):
        super().__init__()
        self.widths = widths
        self.segments = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in zip((3, *widths), widths, strict=False)
        )

    def embedding(self, depth):
        return GlobalPool()  # (n, C, H, W) -> (n, C), for each frame

    def head(self, depth, num_classes, dropout):
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(self.widths[depth - 1], num_classes))


torch.manual_seed(0)
# There are no residual branches to shift in; put an OnlineTemporalShift into your segments where you want one.
net = UnifiedExitNet(ThreeStages(), num_classes=5, num_frames=8, shift="none", input_size=64)
for e, gmacs in zip(net.route, net.gmacs, strict=True):
    print(f"{e.frames} frames, depth {e.depth}: {gmacs:.4f} GMACs")

video, label = torch.randint(0, 256, (4, 8, 3, 64, 64), dtype=torch.uint8), torch.arange(4)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
loss = torch.stack([F.cross_entropy(logits, label) for logits in net(video)]).sum()
loss.backward()
optimizer.step()
print(f"loss {loss.item():.3f}")
print(net.eval().predict(video, ThresholdPolicy(thresholds=[0.25] * len(net.route))))
