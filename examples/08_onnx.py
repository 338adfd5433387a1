"""Hand a model on as a folder with ONNX graphs, and label videos without torch's kernels: the answers are equal.

python examples/08_onnx.py [MODEL VIDEO ...]     (pip install 'dynvid[onnx]')

MODEL is a checkpoint of `dynvid fit`; without one, a small net with random weights labels clips that are drawn here.
"""

import sys
import tempfile
from pathlib import Path

import torch

from dynvid import ThresholdPolicy, UnifiedExitNet
from dynvid.data import SyntheticDataModule
from dynvid.inference import Recognizer


def made_up(folder):
    """A net that was never trained, and a few clips."""
    torch.manual_seed(0)
    data = SyntheticDataModule(folder / "clips", clips_per_class=1, clip_frames=8, size=32)
    data.prepare_data()
    net = UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32, route=[(2, 2), (4, 4)])
    policy = ThresholdPolicy(thresholds=[0.11, 0.0])  # the first exit is sure enough of some
    return Recognizer(net, policy, data.class_names), sorted((folder / "clips" / "test").glob("*/*.mp4"))


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    if len(sys.argv) > 2:
        recognizer, videos = Recognizer.load(sys.argv[1], precision="float32"), sys.argv[2:]
    else:
        recognizer, videos = made_up(folder)
    recognizer.save(folder / "model", runtimes=["onnx"])  # one graph per step of the route; `dynvid export` does it too
    for path in sorted((folder / "model").rglob("*.*")):
        print(f"{path.relative_to(folder)}: {path.stat().st_size:,} bytes")

    onnx = Recognizer.load(folder / "model", runtime="onnx")
    equal = 0
    for by_torch, by_onnx in zip(recognizer.many(videos), onnx.many(videos), strict=True):
        print(f"{by_onnx.label} ({by_onnx.probability:.3f}) at exit {tuple(by_onnx.exit)}: {Path(by_onnx.path).name}")
        equal += (by_torch.label, by_torch.exit) == (by_onnx.label, by_onnx.exit)
    print(f"labels and exits equal to torch's: {equal} of {len(videos)}")
