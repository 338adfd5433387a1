"""Several things may happen at once: train on sets of labels, and print the set of each test clip.

python examples/11_multi_label.py [--clips 900] [--epochs 20]

The clips are generated: up to two shapes in one picture, or none of them. all.csv lists them as you would list your
own, a line `path,label,split` for each, with names joined by a semicolon: clips/7.mp4,cross;ring,train
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.callbacks import Calibration, EpochLine
from dynvid.data import VideoFolderDataModule
from dynvid.data.synthetic import SHAPES, draw_scene, render, write_clip
from dynvid.inference import Recognizer
from dynvid.module import DynamicInferenceModule

parser = argparse.ArgumentParser()
parser.add_argument("--clips", type=int, default=900)
parser.add_argument("--epochs", type=int, default=20)
options = parser.parse_args()
pl.seed_everything(0)

rng, root = np.random.default_rng(0), Path("data/sets")
(root / "clips").mkdir(parents=True, exist_ok=True)
lines = ["path,label,split"]
for n in range(options.clips):
    names = sorted(rng.permutation(SHAPES)[: rng.integers(0, 3)])
    looks = {"seed": n, "radius": 0.25, "noise": 5, "contrast": 130 if names else 0}  # of none, nothing
    scenes = [dataclasses.replace(draw_scene(name, rng), **looks) for name in names or SHAPES[:1]]
    write_clip(root / "clips" / f"{n}.mp4", np.max([render(scene, 8, 64) for scene in scenes], axis=0))
    lines.append(f"clips/{n}.mp4,{';'.join(names)},{('train', 'train', 'train', 'val', 'val', 'test')[n % 6]}")
(root / "all.csv").write_text("\n".join(lines))

data = VideoFolderDataModule(root, "all.csv", multi_label=True, num_frames=4, size=64, num_workers=2)
module = DynamicInferenceModule(
    UnifiedExitNet("test_resnet", num_classes=data.num_classes, num_frames=4, input_size=64),
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.003),
    multi_label=True,
)
calibration = Calibration(max_drop=0.05)  # at most one clip in twenty gets more wrong names than by full inference
trainer = pl.Trainer(max_epochs=options.epochs, callbacks=[calibration, EpochLine()], enable_progress_bar=False)
trainer.fit(module, data)

recognizer = Recognizer.load(trainer.checkpoint_callback.best_model_path)
print(recognizer.point)
test = data.videos("test")
for video, found in zip(test, recognizer.many(video.path for video in test), strict=True):
    truth = ", ".join(data.class_names[label] for label in video.label) or "none"
    saved = 1 - found.gmacs / recognizer.full_gmacs
    print(f"{video.path}: {', '.join(found.labels) or 'none'} ({found.probability:.0%}, {saved:.0%} saved); is {truth}")
