"""Train a small net on generated clips, calibrate it, and compare full with dynamic inference.

    python examples/01_quickstart.py

The same as `dynvid fit --config quickstart.yaml`, from Python. Takes a few minutes on two CPU cores.
"""

import argparse

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from dynvid import UnifiedExitNet
from dynvid.callbacks import Calibration, FlopsAccuracyReport
from dynvid.data import SyntheticDataModule
from dynvid.module import DynamicInferenceModule

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--clips_per_class", type=int, default=120)
options = parser.parse_args()

pl.seed_everything(0)
data = SyntheticDataModule(root="data/synthetic", batch_size=16, clips_per_class=options.clips_per_class)
net = UnifiedExitNet("test_resnet", num_classes=data.num_classes, num_frames=data.num_frames, input_size=data.size)
module = DynamicInferenceModule(
    net,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.05),
    lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs),
    warmup_epochs=1,
)
best = ModelCheckpoint(monitor="val/mean_exit_accuracy", mode="max")
trainer = pl.Trainer(
    max_epochs=options.epochs,
    gradient_clip_val=5.0,
    log_every_n_steps=10,
    callbacks=[Calibration(max_drop=0.01), FlopsAccuracyReport(), best],
    default_root_dir="logs/example",
)
trainer.fit(module, datamodule=data)  # two thirds of the validation clips calibrate, the others choose the best
trainer.test(module, datamodule=data, ckpt_path="best", verbose=False)  # prints the table and where the picture is
