"""Write predictions as they come."""

import csv
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl

from dynvid.module import DynamicInferenceModule
from dynvid.multilabel import SEPARATOR, names_of, plain_labels
from dynvid.text import printable

COLUMNS = ("path", "label", "probability", "frames", "depth", "gmacs", "answered")


class PredictionWriter(pl.Callback):
    """Write one line per video to `predictions.csv` in the log folder, batch by batch.

    Further ranks of a distributed run write `predictions-1.csv` and so on.

    Example:
        >>> PredictionWriter().columns
        ('path', 'label', 'probability', 'frames', 'depth', 'gmacs', 'answered')
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the file."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        rank = trainer.global_rank
        file = folder / (f"predictions-{rank}.csv" if rank else "predictions.csv")
        self._file = file.open("w", newline="", encoding="utf-8", errors="surrogateescape")  # any file name is written
        csv.writer(self._file).writerow(COLUMNS)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch."""
        assert isinstance(pl_module, DynamicInferenceModule)
        assert self._file is not None
        names, net = pl_module.class_names, pl_module.net
        labels = [-1 if label is None else label for label in plain_labels(outputs["label"])]
        for row, path in enumerate(outputs["path"]):
            k = int(outputs["exit"][row])
            label = SEPARATOR.join(names_of(labels[row], names))
            answered = str(bool(outputs["answered"][row])).lower()
            values = [label, f"{float(outputs['probability'][row]):.4f}"]
            csv.writer(self._file).writerow([path, *values, *net.route[k], f"{net.gmacs[k]:.6g}", answered])
        self._file.flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the file and say where it is."""
        assert self._file is not None
        self._file.close()
        print(f"predictions: {printable(self._file.name)}")
