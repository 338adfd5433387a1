"""predictions.csv with names that strangers chose."""

import csv
import os
from types import SimpleNamespace

import torch

from dynvid import UnifiedExitNet
from dynvid.callbacks import PredictionWriter
from dynvid.module import DynamicInferenceModule

PATHS = ["a,b.mp4", 'q"uote".mp4', "two\nlines\r\n.mp4", "cr\r.mp4", "\x1b[2J\u202e\u2028\x85.mp4", " lead, and trail "]
PATHS += [os.fsdecode(b"caf\xe9.mp4"), "日本.mp4", '"', "", "=1+1.mp4"]
CLASSES = ["new\nline", 'a "b", c', os.fsdecode(b"\x80"), "-", "[bold]"]


def test_any_name_comes_back_from_the_file(tmp_path, capsys):
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4))
    module.class_names = CLASSES
    trainer = SimpleNamespace(log_dir=str(tmp_path / "log\x1b[2J\n"), global_rank=0)
    labels = torch.arange(len(PATHS)) % 5
    outputs = {"path": PATHS, "label": labels, "exit": labels * 0, "probability": torch.ones(len(PATHS))}
    outputs["answered"] = labels > 0
    writer = PredictionWriter()
    writer.on_predict_start(trainer, module)
    writer.on_predict_batch_end(trainer, module, outputs, {}, 0)
    writer.on_predict_end(trainer, module)
    (file,) = tmp_path.rglob("predictions.csv")
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        rows = list(csv.DictReader(lines, strict=True))
    assert [row["path"] for row in rows] == PATHS
    assert [row["label"] for row in rows] == [CLASSES[label] for label in labels]
    assert [row["answered"] for row in rows] == ["false" if label == 0 else "true" for label in labels]
    assert all(None not in row and None not in row.values() for row in rows)
    said = capsys.readouterr().out
    assert said == f"predictions: {tmp_path}/log\\x1b[2J\\x0a/predictions.csv\n"
