"""Label a webcam as it sees; where there is none, a file in its place.

    python examples/05_live.py CHECKPOINT [--camera 0] [--file VIDEO] [--seconds 20]

Without a checkpoint a net with random weights answers, and without a file a generated clip is seen: a try-out.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from dynvid import ThresholdPolicy, UnifiedExitNet
from dynvid.data.reading.live import live_frames
from dynvid.data.synthetic import draw_scene, render, write_clip
from dynvid.errors import VideoError
from dynvid.inference import Recognizer

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint", nargs="?")
parser.add_argument("--camera", default="0")
parser.add_argument("--file", type=Path)
parser.add_argument("--window", type=float, default=2.0)
parser.add_argument("--seconds", type=float, default=20.0)
options = parser.parse_args()

if options.checkpoint:
    recognizer = Recognizer.load(options.checkpoint)
else:
    net = UnifiedExitNet("test_resnet", num_classes=3, num_frames=8, input_size=64)
    recognizer = Recognizer(net, ThresholdPolicy(len(net.route)), ["wave", "clap", "nod"])
if not options.file:
    options.file = Path(tempfile.mkdtemp(), "clip.mp4")
    write_clip(options.file, render(draw_scene("left", np.random.default_rng(0)), 60, 64), fps=12)


def watch(source: str | Path) -> None:
    """Print an answer whenever the net takes a frame; a window that is sure computes no more until it ends."""
    live = recognizer.live(window=options.window)
    with live_frames(source, live.short_side, realtime=True) as frames:
        for frame in frames:
            for answer in live.push(frame.image, frame.timestamp):
                mark = "sure" if answer.is_final else "so far"
                print(f"{answer.timestamp:6.2f} s  {answer.label} ({answer.probability:.2f}, {mark})")
            if frame.timestamp > options.seconds:
                break
    print(f"{frames.dropped} frames came too fast, the source was lost and found {frames.reconnects} times")


try:
    watch(options.camera)
except VideoError as error:
    print(f"{error}; {options.file} in its place")
    watch(options.file)
