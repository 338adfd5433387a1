"""Another operating point, from videos without labels: how often may a net answer otherwise than full inference?

python examples/12_operating_point.py CHECKPOINT SHARE NEW_FOLDER VIDEO_OR_FOLDER ...

The videos should be such as will come, and none that the net was trained on. On the command line it is
`dynvid calibrate CHECKPOINT --videos FOLDER --max-disagreement SHARE`.
"""

import sys

import torch

from dynvid import ThresholdPolicy
from dynvid.calibration import Target, find_point
from dynvid.checkpoint import net_from_checkpoint, read_checkpoint
from dynvid.commands.search import search
from dynvid.data.dataset import Skipped
from dynvid.inference import Recognizer

source, share, folder, *places = sys.argv[1:]
checkpoint = read_checkpoint(source)
net, names = net_from_checkpoint(checkpoint, source).eval(), checkpoint["dynvid"]["class_names"]
exits = len(net.route)

# Full inference of each video, with what every exit on the way says of it.
every_exit = Recognizer(net, ThresholdPolicy(exits), names)
found = [one for one in every_exit.many(place.path for place in search(places)[0]) if not isinstance(one, Skipped)]
scores = torch.tensor([[passed.probability for passed in one.trace] for one in found]).T  # (exits, videos)
labels = [[passed.label for passed in one.trace] for one in found]
lost = torch.tensor([[label != said[-1] for label in said] for said in labels]).T

target = Target(max_disagreement=float(share))
thresholds, point = find_point(scores, lost, net.gmacs, target, [one.path for one in found])
print(f"{point}")
for place, level in zip(net.route, thresholds.tolist(), strict=True):
    print(f"  {place.frames} frames, depth {place.depth}: threshold {level:.4g}")

if point.full_inference:
    print("the videos are too few for that; nothing is saved")
else:
    Recognizer(net, ThresholdPolicy(thresholds=thresholds.tolist()), names, point=point).save(folder)
    saved = 1 - point.gmacs / net.full_gmacs
    print(f"{folder}: {saved:.0%} of the GMACs saved; Recognizer.load({folder!r}, audit=0.02) watches over the promise")
