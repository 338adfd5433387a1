"""Heads on features of a frozen backbone against fine-tuning: time, accuracy and GMACs saved, with equal nets.

    python benchmarks/frozen.py --weights MOBILENETV2 --folder runs --data ucf101_5=FOLDER weizmann4=FOLDER generated

Folders hold `manifest.csv` (path,label,group,split). Time is that of the processor, one thread, decoding included, in
turns: of each seed first the frozen net, then the tuned one. The first frozen run of a data set computes the features,
which the other seeds find. Writes benchmarks/results/frozen.json and frozen.md; runs already in it are not run again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from runs import RESULTS, write

from dynvid import UnifiedExitNet
from dynvid.callbacks import Calibration
from dynvid.data import SyntheticDataModule, VideoDataModule, VideoFolderDataModule
from dynvid.module import DynamicInferenceModule
from dynvid.policy import choose_exits


class Setting(NamedTuple):
    """How a data set is shown, and trained on.

    Attributes:
        size: Of frames, in pixels.
        seeds: By shift, how many seeds are run frozen, and how many of them tuned too.
        epochs: Of a frozen backbone, and of a tuned one.
    """

    size: int
    seeds: dict[str, tuple[int, int]]
    epochs: dict[str, int]


SETTINGS = {
    "ucf101_5": Setting(128, {"none": (3, 1)}, {"frozen": 30, "tuned": 6}),
    "weizmann4": Setting(96, {"none": (3, 1), "online": (3, 1)}, {"frozen": 30, "tuned": 6}),
    "generated": Setting(64, {"none": (1, 0), "online": (1, 1)}, {"frozen": 30, "tuned": 6}),
}


class Seconds(pl.Callback):
    """Seconds of the processor: before the first epoch, and in each epoch with its validation."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def on_train_epoch_start(self, *_: object) -> None:
        self.times.append(time.process_time())

    def on_train_end(self, *_: object) -> None:
        self.times.append(time.process_time())

    @property
    def total(self) -> float:
        return self.times[-1] - self.times[0]

    @property
    def an_epoch(self) -> float:
        return median(b - a for a, b in zip(self.times[1:-1], self.times[2:], strict=True))


def main() -> None:
    """Run what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="MobileNetV2 of ImageNet, as timm reads them")
    parser.add_argument("--folder", type=Path, required=True, help="for logs, features and generated clips")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--name", default="frozen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / f"{options.name}.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for given in options.data:
        name, _, root = given.partition("=")
        for key in keys(name):
            if any(key.items() <= run.items() for run in runs):
                continue
            runs.append(key | run(key, root, options.weights, options.folder))
            print(json.dumps(runs[-1]), flush=True)
            write(file, json.dumps(runs, indent=1) + "\n")
    write(file.with_suffix(".md"), table(runs))
    print(table(runs))


def keys(name: str) -> Iterator[dict[str, Any]]:
    """The runs of a data set, in turns."""
    for seed in range(3):
        for shift, counts in SETTINGS[name].seeds.items():
            for way, count in zip(("frozen", "tuned"), counts, strict=True):
                if seed < count:
                    yield {"data": name, "shift": shift, "way": way, "seed": seed}


def run(key: dict[str, Any], root: str, weights: str, folder: Path) -> dict[str, Any]:
    """Fit and test once."""
    name, seed, frozen, setting = key["data"], key["seed"], key["way"] == "frozen", SETTINGS[key["data"]]
    common: dict[str, Any] = {"num_frames": 8, "size": setting.size, "batch_size": 8, "num_workers": 0, "seed": seed}
    data: VideoDataModule
    if name == "generated":
        data = SyntheticDataModule(folder / f"clips{seed}", clips_per_class=30, **common)
    else:
        data = VideoFolderDataModule(root, annotations="manifest.csv", val_fraction=0.25, **common)
    pl.seed_everything(seed)
    net = UnifiedExitNet(
        "mobilenetv2_100",
        num_classes=data.num_classes,
        num_frames=8,
        shift=key["shift"],
        pretrained=weights,
        dropout=0.2,
        input_size=setting.size,
        backbone_args={"pad_type": "same"},
    )
    epochs = setting.epochs[key["way"]]
    module = DynamicInferenceModule(
        net,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        backbone_lr_scale=0.1,
        freeze_batch_norm=True,
        freeze_backbone=frozen,
    )
    seconds = Seconds()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder / name,
        gradient_clip_val=5.0,
        logger=False,
        enable_checkpointing=False,
        callbacks=[seconds, Calibration(max_drop=0.02, confidence=None)],
        **quiet,
    )
    data.prepare_data()
    begun = time.process_time()
    trainer.fit(module, datamodule=data)
    fit = time.process_time() - begun
    tester = pl.Trainer(logger=False, default_root_dir=folder / name, **quiet)
    tester.test(module, datamodule=data, verbose=False)
    outputs = module.outputs()
    assert outputs is not None
    taken = choose_exits(outputs.scores, outputs.policy.thresholds)
    spent = float(torch.tensor(outputs.gmacs)[taken].mean())
    return {
        "fit_seconds": round(fit, 1),
        "epoch_seconds": round(seconds.an_epoch, 2),
        "epochs": epochs,
        "full": round(float(outputs.correct[-1].float().mean()), 4),
        "dynamic": round(float(outputs.correct.gather(0, taken[None])[0].float().mean()), 4),
        "saved": round(1 - spent / outputs.full_gmacs, 4),
        "test_videos": len(outputs.labels),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Medians over seeds, lowest and highest in brackets."""
    lines = ["| data, shift | way | seeds | fit, s | an epoch, s | full, top-1 | dynamic, top-1 | saved |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for data, shift, way in dict.fromkeys((run["data"], run["shift"], run["way"]) for run in runs):
        same = [run for run in runs if (run["data"], run["shift"], run["way"]) == (data, shift, way)]
        shown = [spread([run[name] for run in same], 1) for name in ("fit_seconds", "epoch_seconds")]
        shown += [spread([100 * run[name] for run in same], 1, " %") for name in ("full", "dynamic", "saved")]
        lines.append(f"| {data}, {shift} | {way} | {len(same)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], digits: int, unit: str = "") -> str:
    """The median, and what it lies between."""
    text = f"{median(values):.{digits}f}{unit}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


if __name__ == "__main__":
    main()
