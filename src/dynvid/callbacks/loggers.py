"""Pictures for those of Lightning's loggers that take them; none of them is required."""

import io

import pytorch_lightning as pl
from matplotlib.image import imread
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger


def log_picture(trainer: pl.Trainer, name: str, png: bytes) -> None:
    """Log a PNG to TensorBoard, Weights & Biases and MLflow; a CSV logger takes scalars only.

    Args:
        trainer: Whose loggers.
        name: Such as `val/flops_accuracy`.
        png: The content of a PNG file.
    """
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, imread(io.BytesIO(png))[..., :3], step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            from PIL import Image

            logger.log_image(name, [Image.open(io.BytesIO(png))], step=step)
        elif isinstance(logger, MLFlowLogger):
            from PIL import Image

            logger.experiment.log_image(logger.run_id, Image.open(io.BytesIO(png)), key=name, step=step)
