"""Use a net in your own training loop: plain torch, no Lightning.

python examples/03_own_loop.py
"""

import torch
import torch.nn.functional as F

from dynvid import DepthExitNet, ThresholdPolicy
from dynvid.calibration import thresholds_for_risk

torch.manual_seed(0)
net = DepthExitNet("test_resnet", num_classes=2, num_frames=4, input_size=32)
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)


def clips(count):
    """Noise that is brighter in every second clip, faintly so in the hard ones."""
    label = torch.arange(count) % 2
    brightness = label * torch.rand(count) * 40
    video = 100 + 20 * torch.randn(count, 4, 3, 32, 32) + brightness.view(-1, 1, 1, 1, 1)
    return video.clamp(0, 255).to(torch.uint8), label  # uint8 (B, T, C, H, W): the net normalises


for _ in range(40):
    video, label = clips(16)
    logits = net(video)  # (exits, B, classes)
    loss = torch.stack([F.cross_entropy(at_exit, label) for at_exit in logits]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

net.eval()
with torch.no_grad():
    video, label = clips(400)  # neither trained on nor tested on
    logits = net(video)
policy = ThresholdPolicy(len(net.route))
correct = logits.argmax(-1) == label
lost = correct[-1] & ~correct  # the last exit is right, and this one is wrong
policy.thresholds.copy_(thresholds_for_risk(policy.score(logits), lost, net.gmacs, max_risk=0.05))

video, label = clips(200)
found = net.predict(video, policy)  # finished videos leave the batch
spent = torch.tensor(net.gmacs)[found.exit].mean()
print(f"top-1 {(found.label == label).float().mean():.1%} at {spent / net.full_gmacs:.1%} of the GMACs")
