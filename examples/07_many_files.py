"""Label very many files: stopped at any moment, it goes on where it was; on one machine, or on a cluster with Ray.

python examples/07_many_files.py
python examples/07_many_files.py --engine ray
python examples/07_many_files.py --model best.ckpt --videos list.txt --out results
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from dynvid import ThresholdPolicy, UnifiedExitNet
from dynvid.data import SyntheticDataModule
from dynvid.inference import Recognizer, label_files, parts_of

parser = argparse.ArgumentParser()
parser.add_argument("--engine", choices=("local", "ray"), default="local")
parser.add_argument("--model", help="a checkpoint; without one, a small net with random weights is made")
parser.add_argument("--videos", help="a file with one path per line; without one, clips are generated")
parser.add_argument("--out", default="results")
parser.add_argument("--clips", type=int, default=40, help="how many are generated")
options = parser.parse_args()


def small_net():
    """A model of random weights, for want of a trained one: `dynvid fit` makes real ones."""
    if not Path("random").exists():
        net = UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32)
        Recognizer(net, ThresholdPolicy(thresholds=[0.12, 0.12, 0.12, 0.0])).save("random")
    return "random"


if options.videos:
    videos = Path(options.videos).read_text().splitlines()
else:
    SyntheticDataModule("clips", clips_per_class=5, clip_frames=6, size=32).prepare_data()
    videos = sorted(Path("clips").rglob("*.mp4"))[: options.clips]

# Each row is written once, whatever is killed; call it again to take up what was stopped.
done = label_files(options.model or small_net(), videos, options.out, engine=options.engine, batch_size=4, say=print)
print(f"{done.totals.videos} videos, {done.totals.unreadable} unreadable, {done.totals.share_saved:.0%} of GMACs saved")
table = pq.read_table(parts_of(options.out), columns=["path", "label", "probability", "error"])
print(table.slice(0, 3).to_pylist())
