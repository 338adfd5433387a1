"""What happens when in a long video, as a table and as subtitles that any player shows beside it.

    python examples/06_timeline.py CHECKPOINT VIDEO [--window 4]

Without arguments a net with random weights looks at a generated video: a try-out.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from dynvid import ThresholdPolicy, UnifiedExitNet
from dynvid.data.synthetic import draw_scene, render, write_clip
from dynvid.inference import Recognizer
from dynvid.inference.timeline import timeline

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint", nargs="?")
parser.add_argument("video", nargs="?", type=Path)
parser.add_argument("--window", type=float, default=4.0, help="seconds; as long as the clips of the training")
options = parser.parse_args()

if options.checkpoint:
    recognizer = Recognizer.load(options.checkpoint)
else:
    net = UnifiedExitNet("test_resnet", num_classes=3, num_frames=8, input_size=64, shift="none")
    recognizer = Recognizer(net, ThresholdPolicy(thresholds=[0.3, 0.3, 0.3, 0.0]), ["walk", "jump", "sit"])
if not options.video:
    options.video = Path(tempfile.mkdtemp(), "long.mp4")
    rng = np.random.default_rng(0)
    parts = [render(draw_scene(label, rng), 72, 64) for label in ("left", "ring", "grow")]
    write_clip(options.video, np.concatenate(parts), fps=12)

# Below 0.5 a stretch is `none`; a class named `none` or `background` counts as it.
found = timeline(
    recognizer, options.video, window=options.window, min_probability=0.0 if not options.checkpoint else 0.5
)
for segment in found:
    print(f"{segment.start:8.2f} s to {segment.end:8.2f} s  {segment.label} ({segment.probability:.2f})")
print(f"{found.windows} windows, {found.gmacs:.3f} GMACs of {found.full_gmacs:.3f} for full inference of each")

subtitles = options.video.with_suffix(".vtt")
subtitles.write_text(found.vtt(), encoding="utf-8")
print(f"{subtitles}: open {options.video.name} in a player, and it shows them")
