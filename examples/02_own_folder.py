"""Train on your own videos, sorted into root/train/<class>/* and root/test/<class>/*, then label one file.

python examples/02_own_folder.py PATH_TO_ROOT
"""

import argparse

import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.callbacks import Calibration, FlopsAccuracyReport
from dynvid.commands import classify_video
from dynvid.data import VideoFolderDataModule
from dynvid.module import DynamicInferenceModule

parser = argparse.ArgumentParser()
parser.add_argument("root")
parser.add_argument("--backbone", default="mobilenetv2_100", help="any timm model that dynvid can cut")
parser.add_argument("--pretrained", action="store_true", help="start from timm's ImageNet weights")
parser.add_argument("--frames", type=int, default=8)
parser.add_argument("--size", type=int, default=224, help="pixels")
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--batch_size", type=int, default=8)
options = parser.parse_args()

pl.seed_everything(0)
data = VideoFolderDataModule(
    options.root, num_frames=options.frames, size=options.size, batch_size=options.batch_size, val_fraction=0.2
)
net = UnifiedExitNet(
    options.backbone,
    num_classes=data.num_classes,
    num_frames=options.frames,
    input_size=options.size,
    pretrained=options.pretrained,
)
module = DynamicInferenceModule(
    net,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05),
    backbone_lr_scale=0.1 if options.pretrained else 1.0,
)
trainer = pl.Trainer(
    max_epochs=options.epochs, log_every_n_steps=1, callbacks=[Calibration(max_drop=0.01), FlopsAccuracyReport()]
)
trainer.fit(module, datamodule=data)
trainer.test(module, datamodule=data, verbose=False)
trainer.save_checkpoint("own.ckpt", weights_only=False)

# Later, elsewhere: the checkpoint holds net, thresholds, class names and sizes.
module = DynamicInferenceModule.load_from_checkpoint("own.ckpt")
print(classify_video(module, data.videos("test")[0].path))
