"""Per-exit figures and the curve in each of Lightning's loggers, with the real packages."""

import csv

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, WandbLogger

from dynvid import UnifiedExitNet
from dynvid.callbacks import Calibration, FlopsAccuracyReport
from dynvid.data import SyntheticDataModule
from dynvid.module import DynamicInferenceModule

SCALARS = {"val/exit_1x2_accuracy", "val/exit_4x4_share", "val/dynamic_accuracy", "val/saved", "val/accuracy"}


def fit(folder, logger):
    data = SyntheticDataModule(
        folder / "clips", num_frames=4, size=32, clips_per_class=4, clip_frames=8, num_workers=0, batch_size=8
    )
    torch.manual_seed(0)
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=10, num_frames=4, input_size=32))
    trainer = pl.Trainer(
        max_epochs=1,
        logger=logger,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[Calibration(), FlopsAccuracyReport()],
    )
    trainer.fit(module, datamodule=data)
    return module


def test_csv(tmp_path):
    module = fit(tmp_path, CSVLogger(tmp_path))
    with next(tmp_path.rglob("metrics.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= SCALARS
    saved = [float(row["val/exit_1x2_accuracy"]) for row in rows if row["val/exit_1x2_accuracy"]]
    assert saved == [pytest.approx(module.curve.exit_accuracy[0].item())]
    assert next(tmp_path.rglob("flops_accuracy.csv")).stat().st_size


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/runs.db", artifact_location=f"{tmp_path}/artifacts")
    module = fit(tmp_path, logger)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs.db")
    metrics = client.get_run(logger.run_id).data.metrics
    assert set(metrics) >= SCALARS
    assert metrics["val/exit_4x4_accuracy"] == pytest.approx(module.curve.exit_accuracy[2].item())
    assert list((tmp_path / "artifacts").rglob("*flops_accuracy*.png"))


def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=str(tmp_path), offline=True)
    module = fit(tmp_path, logger)
    summary = dict(logger.experiment.summary)
    wandb.finish()
    assert set(summary) >= SCALARS
    assert summary["val/exit_1x2_accuracy"] == pytest.approx(module.curve.exit_accuracy[0].item())
    assert list(tmp_path.rglob("media/images/val/flops_accuracy*.png"))
